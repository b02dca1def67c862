"""What the documents say of the code is so; the site is made of pages that exist (`make docs` builds it)."""

import importlib
import importlib.util
import inspect
import re
import tomllib
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


def entries() -> set[str]:
    """What the reference has an entry of."""
    return set(re.findall(r"^::: (\S+)", (DOCS / "reference.md").read_text(), re.MULTILINE))


def test_every_public_name_is_in_the_reference():
    listed, public = entries(), [getattr(ep, name) for name in ep.__all__ if not name.startswith("__")]
    assert len(public) > 40
    assert {f"{thing.__module__}.{thing.__name__}" for thing in public} <= listed
    for entry in listed:
        module_name, _, name = entry.rpartition(".")
        assert hasattr(importlib.import_module(module_name), name), entry


FUNCTIONS = [name for name in ep.__all__ if inspect.isfunction(getattr(ep, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_of_a_public_function_is_told_in_a_row_of_its_own(name):
    function = getattr(ep, name)
    [told] = re.findall(r"^Args:\n((?:    .*\n|\n)+)", inspect.getdoc(function) + "\n", re.MULTILINE)
    rows = re.findall(r"^    \*{0,2}(\w+):", told, re.MULTILINE)
    assert rows == list(dict.fromkeys(rows))
    assert set(inspect.signature(function).parameters) == set(rows)


def test_no_row_of_a_docstring_of_the_reference_names_several():
    for entry in entries():
        module_name, _, name = entry.rpartition(".")
        text = inspect.getdoc(getattr(importlib.import_module(module_name), name)) or ""
        assert not re.search(r"^    \*{0,2}\w+(, \*{0,2}\w+)+: ", text, re.MULTILINE), entry
