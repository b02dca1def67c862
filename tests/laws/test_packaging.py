"""What the package imports is what it declares, and nothing of this or any machine is in it."""

import ast
import os
import re
import shutil
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of other packages that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    # `compression` is in the standard library from Python 3.14 on.
    return names - set(sys.stdlib_module_names) - {"exemplar_partitioning", "compression"}


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    declared = {re.split(r"[^\w.-]", name)[0].lower().replace("_", "-") for name in wanted}
    homes = packages_distributions()  # of what is installed, not every extra
    for path in SOURCES:
        if path.parent.name == "templates":  # modules to put into other tools; nothing here imports them
            continue
        for name in imported(path):
            distributions = {distribution.lower().replace("_", "-") for distribution in homes.get(name, [name])}
            assert distributions & declared, f"{path.name} imports {name}, which pyproject.toml does not declare"


def test_constraints_pin_what_is_declared():
    pinned = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for requirement in [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]:
        assert canonicalize_name(re.split(r"[^\w.-]", requirement)[0]) in pinned


def test_a_wheel_is_the_same_bytes_whenever_it_is_built(tmp_path, monkeypatch):
    """Whatever the times and modes of the files are; the licences of all that it holds are in it."""
    hatchling = pytest.importorskip("hatchling.build")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(source)
    built = []
    for mode, when in ((0o644, 10**9), (0o600, 2 * 10**9)):
        for file in source.rglob("*.*"):
            if file.is_file():
                file.chmod(mode)
                os.utime(file, (when, when))
        (tmp_path / f"{mode}").mkdir()
        built.append(tmp_path / f"{mode}" / hatchling.build_wheel(str(tmp_path / f"{mode}")))
    assert built[0].read_bytes() == built[1].read_bytes()
    with zipfile.ZipFile(built[0]) as wheel:
        assert {Path(name).name for name in wheel.namelist() if "/licenses/" in name} == {"LICENSE", "NOTICE"}
