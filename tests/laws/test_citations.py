"""Every file that code names to its reader is in the repository."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "experiments", "tools", "benchmarks")
NAMED = re.compile(r"(?<![\w./-])((?:docs|tests|tools|benchmarks|examples)/[\w./-]*\.(?:md|py|json|ipynb))(?![\w*<{])")


def test_every_file_that_code_names_exists():
    missing = [
        f"{path.relative_to(ROOT)} names {name}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in NAMED.findall(path.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert not missing, "\n".join(missing)
