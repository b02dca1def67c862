"""What the documents show is what the result files say, and what they tell to type exists."""

import ast
import builtins
import importlib.util
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
