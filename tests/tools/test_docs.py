"""What the documents show is what the result files say, and what they tell to type exists."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_figures_and_readme_are_not_stale():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "pages.py")
    assert spec and spec.loader
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    assert pages.stale() == [], "run `make pages`"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize("verb", ["build", "show"])
def test_options_in_the_readme_exist(verb):
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    used = {
        option
        for line in text.splitlines()
        if line.startswith(f"ep {verb}")
        for option in re.findall(r"--[a-z-]+", line)
    }
    shown = subprocess.run(
        [sys.executable, "-m", "exemplar_partitioning", verb, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert used and all(option in shown for option in used)


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
