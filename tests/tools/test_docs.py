"""What the documents show is what the result files say, and what they tell to type exists."""

import ast
import builtins
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import exemplar_partitioning as ep
from exemplar_partitioning import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]


STANDS_ALONE = {"README.md", "index.md", "tutorial.md"}  # pages whose code is run from its first line


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_figures_and_readme_are_not_stale():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "pages.py")
    assert spec and spec.loader
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    assert pages.stale() == [], "run `make pages`"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), (page.name, target)


def commands(page: Path) -> Iterator[str]:
    """The lines of a page's code that call `ep`."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        yield from (line for line in block.replace("\\\n", " ").splitlines() if line.startswith("ep "))


# What a page leaves to the reader: a model with its tokenizer, texts, prompts, activations, a dictionary.
GIVEN = {"ep", "model", "tokenizer", "texts", "prompts", "shows", "activations", "x", "X", "d", "loaded", "bridge"}
GIVEN |= {"TransformerBridge"}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=name_of)
def test_python_on_a_page_compiles_and_its_names_are_defined_in_order(page):
    known = {*dir(builtins), *(() if page.name in STANDS_ALONE else GIVEN)}
    for text in python_blocks(page):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=names) | ast.ImportFrom(names=names):
                    known |= {(alias.asname or alias.name).partition(".")[0] for alias in names}
                case ast.Name(id=name, ctx=ast.Store()):
                    known.add(name)
                case ast.Attribute(value=ast.Name(id="ep"), attr=name):
                    assert name in ep.__all__, f"ep.{name}"
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert used <= known, used - known


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_on_a_page_exist(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("seed: 1\n")  # a configuration is read as options are
    for line in commands(page):
        command, words = get_command(cli.app), shlex.split(re.split(r" [<>|] ", line)[0], comments=True)[1:]
        while words and words[0] != "--version" and hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        if words != ["--version"]:  # its options exist, their values are of their kinds, nothing is missing
            command.make_context("ep", words).close()


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


EXPERIMENTS = (
    "attribution autoencoders behaviours comes-back comparing concept-detection probes reconstruction regions "
)
EXPERIMENTS += "saturation strange-text"


def visible(page: Path) -> int:
    """Words of a page that are seen before anything is unfolded."""
    text = re.sub(r"<details.*?</details>|<!--.*?-->|^```\w*$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return sum(bool(re.search(r"\w", word)) for word in re.sub(r"\]\([^)]*\)", "]", text).split())


def notebook_text(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return " ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize(
    ("pages", "least", "most"),
    [
        (["README.md"], 300, 700),
        (["docs/index.md"], 150, 250),
        (["docs/tutorial.md", "docs/two-models.md"], 300, 900),
        ([name_of(page) for page in sorted((ROOT / "docs" / "how-to").glob("*.md"))], 300, 500),
        (["docs/results.md"], 300, 500),
        ([f"docs/{name}.md" for name in EXPERIMENTS.split()], 100, 1200),
    ],
    ids=["readme", "home", "tutorial", "how-to", "results", "experiments"],
)
def test_pages_are_as_long_as_their_kind(pages, least, most):
    counts = {page: visible(ROOT / page) for page in pages}
    assert {page: count for page, count in counts.items() if not least <= count <= most} == {}


def test_notebooks_say_no_more_than_a_tutorial():
    for path in (ROOT / "examples" / "notebooks").glob("*.ipynb"):
        assert len(notebook_text(path).split()) <= 900


def test_an_experiment_begins_with_what_was_asked_and_ends_with_what_would_change_our_mind():
    for name in EXPERIMENTS.split():
        page = (ROOT / "docs" / f"{name}.md").read_text()
        assert "Asked:" in page.partition("\n## ")[0], name
        assert re.search("what would change our mind", page, re.IGNORECASE), name
        assert re.search(r"^\|", page.partition("\n## ")[0], re.MULTILINE), f"{name}: no table on top"


def test_the_readme_has_what_it_promises():
    page = (ROOT / "README.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```\n+```text\n\S", page, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 7
    assert len(re.findall(r"!\[[^\]]+\]\(", page)) == 1

    def rows(part: str) -> int:
        [table] = re.findall(rf"<!-- {part} -->\n(.*?)<!-- /{part} -->", page, re.DOTALL)
        return sum(line.startswith("|") for line in table.splitlines()) - 2

    assert rows("verdicts") in (7, 8, 9) and rows("speed") == 3


def test_a_percentile_is_never_called_p():
    for page in [*PAGES, *sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))]:
        text = re.sub(r'"image/png": "[^"]*"|`[^`\n]*`|/p\d+|\.p\d+', "", page.read_text())
        assert not re.search(r"(?<![\w.])p(?: ?= ?| )?[1-9]\d?(?![\d.,]*%?\w)(?! of)|\*p\*|percentile p\b", text), (
            page.name
        )
