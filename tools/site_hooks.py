"""What the site takes from outside docs/, for `mkdocs build` (see mkdocs.yml)."""

import os
import re
import sys
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import error_messages  # noqa: E402 - beside this file

PAGES = {
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
}
PLAIN = {"region", "member", "site", "exemplar", "centre", "percentile", "covered"}  # too frequent to be pointed out
FROM_SCRATCH = ROOT / "examples" / "ep_from_scratch.py"
NOTEBOOKS = {f"{path.stem}.md": path for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))}
AS_NOTEBOOK = (
    "*A notebook, with the outputs of a run: [download it]({}), open it in Jupyter or VS Code and run all cells. In a "
    "clone it is in `examples/notebooks`, and `make setup` has made the environment for it, `.venv`.*"
)
MOVED = {source: name for name, source in PAGES.items()} | {
    "README.md": "index.md",
    "examples/ep_from_scratch.py": "from-scratch.md",
    **{path.name: name for name, path in NOTEBOOKS.items()},
    **{f"examples/notebooks/{path.name}": name for name, path in NOTEBOOKS.items()},
}


def on_files(files: Any, config: Any) -> Any:
    """Pages of the repository's other folders become pages of the site."""
    from mkdocs.structure.files import File

    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    code = f"# The method in one file\n\n`examples/ep_from_scratch.py`:\n\n```python\n{FROM_SCRATCH.read_text()}```\n"
    files.append(File.generated(config, "from-scratch.md", content=code))
    for name, path in NOTEBOOKS.items():
        text, pictures = _notebook(path)
        files.append(File.generated(config, name, content=text))
        files.append(File.generated(config, path.name, content=path.read_bytes()))
        for picture, content in pictures.items():
            files.append(File.generated(config, picture, content=content))
    return files


def _notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, with the outputs that are kept in it, and its pictures."""
    from nbconvert import MarkdownExporter

    resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    text, resources = MarkdownExporter().from_filename(str(path), resources=resources)
    head, _, rest = text.partition("\n\n")
    return f"{head}\n\n{AS_NOTEBOOK.format(path.name)}\n\n{rest}", resources["outputs"]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links lead to pages of the site; what is no page is named without a link."""
    link = r"^```.*?^```|(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)"
    here = Path(page.file.src_uri).parent
    markdown = re.sub(link, lambda found: _on_site(found, here, files), markdown, flags=re.DOTALL | re.MULTILINE)
    if page.file.src_uri != "glossary.md":
        markdown += "\n\n" + _explained()
    if page.file.src_uri == "errors.md":
        markdown = markdown.replace(error_messages.MARKER, error_messages.listing())
    return markdown


def _explained() -> str:
    """Words of the glossary as abbreviations: wherever one stands, a reader who points at it sees what it means."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    plain = [(word, re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", meaning)) for word, meaning in rows[2:]]
    words = [(part, meaning) for names, meaning in plain for part in names.strip("`").split(", ")]
    return "\n".join(f"*[{word}]: {meaning}" for word, meaning in words if word not in PLAIN)


@cache
def _constants() -> dict[str, str]:
    """What the constants of the package stand for, where one name stands for one value."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "src").rglob("*.py"):
        for name, value in re.findall(r"^([A-Z][A-Z_]+) = ([\d_.*e-]+|\".*\"|\(.*\))$", file.read_text(), re.MULTILINE):
            found.setdefault(name, set()).add(escape(value))
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def on_post_page(output: str, page: Any, config: Any) -> str:
    """No page makes the reader's browser ask another host for anything; defaults are values, not constants' names."""
    from mkdocs.exceptions import PluginError

    if page.file.src_uri.startswith("reference/"):
        values = _constants()
        output = re.sub(
            r"<code>([A-Z][A-Z_]+)</code>", lambda name: f"<code>{values.get(name[1], name[1])}</code>", output
        )
    if asks := re.search(
        r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""", output
    ):
        raise PluginError(f"{page.file.src_uri} would load from another host: {asks[0]}")
    return output


def _on_site(found: re.Match, here: Path, files: Any) -> str:
    text, target, anchor = found["text"], found["target"], found["anchor"] or ""
    if target is None or target.startswith("https://"):  # a block of code, or another site
        return found[0]
    if files.get_file_from_path(near := os.path.normpath(here / target)):
        target = near
    else:
        target = re.sub(r"^(\.\./)+", "", target).removeprefix("docs/")
        target = MOVED.get(target, target)
    return f"[{text}]({os.path.relpath(target, here)}{anchor})" if files.get_file_from_path(target) else text
