"""What the documents say of the code is so; the site is made of pages that exist (`make docs` builds it)."""

import importlib
import importlib.util
import inspect
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

import exemplar_partitioning as ep

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def module(name):
    """A script of tools/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_messages_of_the_error_catalogue_are_those_of_the_code():
    said = [" ".join(text.split()) for _, _, text in module("error_messages").messages()]
    quoted = re.findall(r"^> (.+)$", (DOCS / "errors.md").read_text(), re.MULTILINE)
    assert len(quoted) > 20
    for fragment in quoted:
        assert any(fragment in text for text in said), fragment


def test_the_catalogue_finds_messages_however_they_are_written(tmp_path, monkeypatch):
    messages = module("error_messages")
    monkeypatch.setattr(messages, "SOURCE", tmp_path)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.py").write_text(
        'raise EPError(f"no {x} here; " "look there")\nraise DataError("a" + b)\nfail(ResourceError(text))\n'
    )
    assert messages.messages() == [("part.a", "EPError", "no ... here; look there"), ("part.a", "DataError", "a...")]


def test_exit_codes_are_those_of_the_code():
    from exemplar_partitioning import errors

    for name, code in re.findall(r"^\| `(\w+)` \| (\d+) \|", (DOCS / "errors.md").read_text(), re.MULTILINE):
        assert getattr(errors, name).exit_code == int(code)


def test_downloads_are_those_of_the_code():
    page = (ROOT / "SECURITY.md").read_text()
    assert module("downloads").filled(page) == page, "run `make pages`"


def test_concept_figures_are_not_stale():
    assert module("concept_figures").stale() == [], "run `make pages`"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_links_and_tests_that_are_named_exist(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    last = ""
    for file, name in re.findall(r"`(?:tests/)?(test_\w+\.py)?(?:::(\w+))?`", text):
        last = file or last
        if last:
            source = (ROOT / "tests" / last).read_text()
            assert not name or f"def {name}(" in source, f"{last}::{name}"


def test_every_page_is_in_the_navigation():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    made = {*module("site_hooks").PAGES, *module("site_hooks").NOTEBOOKS, "from-scratch.md"}
    assert sorted(pages(site["nav"])) == sorted(
        {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | made
    )


def pages(entry) -> list[str]:
    """Files of a navigation."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in pages(part)]


def test_tools_of_the_site_are_no_dependency_of_the_package_and_are_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().split()}
    for requirement in project["dependency-groups"]["docs"]:
        name = re.split(r"[^\w.-]", requirement)[0]
        assert name in pinned
        assert not any(name in other for other in project["project"]["dependencies"])


def entries() -> list[str]:
    """What the reference has an entry of."""
    pages = (DOCS / "reference").glob("*.md")
    return [name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)]


def named(entry: str):
    """The object of an entry."""
    module_name, _, name = entry.rpartition(".")
    return getattr(importlib.import_module(module_name), name)


def test_every_public_name_is_in_the_reference_once():
    listed, public = entries(), [getattr(ep, name) for name in ep.__all__ if not name.startswith("__")]
    assert len(public) > 40 and len(listed) == len({*listed})
    assert {f"{thing.__module__}.{thing.__name__}" for thing in public} <= {*listed}
    assert all(map(named, listed))


# Methods for other rooms of the package, which the reference leaves out.
INTERNAL = {"check_region", "check_pursuit", "blocks", "assign_block", "verified"}
CORE = {"LeaderClustering", "MemberStatistics"}  # told as a whole


@cache
def callables() -> dict[str, object]:
    """Functions of the reference, and the methods of its classes."""
    told = {}
    for thing in map(named, entries()):
        if inspect.isfunction(thing):
            told[thing.__name__] = thing
        elif thing.__name__ not in CORE:
            methods = inspect.getmembers(thing, lambda part: inspect.isfunction(part) or inspect.ismethod(part))
            told |= {
                f"{thing.__name__}.{name}": method
                for name, method in methods
                if not name.startswith("_")
                and name not in INTERNAL
                and method.__module__.startswith("exemplar_partitioning")
            }
    return told


@pytest.mark.parametrize("name", callables())
def test_every_parameter_is_told_in_a_row_of_its_own_and_has_a_type(name):
    function = callables()[name]
    signature = inspect.signature(function)
    parameters = {key: p for key, p in signature.parameters.items() if key not in ("self", "cls")}
    doc = (inspect.getdoc(function) or "") + "\n"
    assert doc.strip(), "no docstring"
    told = "".join(re.findall(r"^Args:\n((?:    .*\n|\n)+)", doc, re.MULTILINE))
    rows = re.findall(r"^    \*{0,2}(\w+): \S", told, re.MULTILINE)
    assert rows == list(parameters)
    assert all(p.annotation is not p.empty for p in parameters.values())
    if name in ep.__all__ and signature.return_annotation not in (None, "None"):
        assert re.search(r"^(Returns|Yields):\n    \S", doc, re.MULTILINE), "what it returns"


def test_what_the_reference_says_of_errors_is_in_a_section():
    for name, function in callables().items():
        assert not re.search(r"Raises [A-Z]\w+Error", inspect.getdoc(function) or ""), name


def test_no_row_of_a_docstring_of_the_reference_names_several():
    for entry in entries():
        text = inspect.getdoc(named(entry)) or ""
        assert not re.search(r"^    \*{0,2}\w+(, \*{0,2}\w+)+: ", text, re.MULTILINE), entry
