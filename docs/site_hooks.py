"""What the site takes from outside docs/, for `mkdocs build` (see mkdocs.yml)."""

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import error_messages  # noqa: E402 - beside this file

PAGES = {"contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md", "benchmarks.md": "benchmarks/README.md"}
FROM_SCRATCH = ROOT / "examples" / "ep_from_scratch.py"


def on_files(files: Any, config: Any) -> Any:
    """Pages of the repository's other folders become pages of the site."""
    from mkdocs.structure.files import File

    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    code = f"# The method on one page\n\n`examples/ep_from_scratch.py`:\n\n```python\n{FROM_SCRATCH.read_text()}```\n"
    files.append(File.generated(config, "from-scratch.md", content=code))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links lead to pages of the site; what is no page is named without a link."""
    if page.file.src_uri == "errors.md":
        markdown = markdown.replace(error_messages.MARKER, error_messages.listing())
    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)", lambda link: _on_site(link, files), markdown)


def _on_site(link: re.Match, files: Any) -> str:
    text, target, anchor = link[1], link[2], link[3] or ""
    if target.startswith("https://"):
        return link[0]
    moved = {source: name for name, source in PAGES.items()} | {
        "README.md": "index.md",
        "examples/ep_from_scratch.py": "from-scratch.md",
    }
    target = target.removeprefix("../").removeprefix("docs/")
    target = moved.get(target, target)
    return f"[{text}]({target}{anchor})" if files.get_file_from_path(target) else text
