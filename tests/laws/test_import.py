"""What importing costs: the package next to nothing, a table of dictionaries no torch, and no module of one system."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "pyarrow", "numpy", "pydantic", "sklearn", "numba", "ep_experiments")


def loaded(code: str) -> set[str]:
    """The modules that are there once a process has run this."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('\\n', *sys.modules)"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_next_to_nothing():
    modules = loaded("import exemplar_partitioning")
    assert not modules & set(HEAVY)
    assert len(modules - loaded("")) < 120


def test_a_table_of_dictionaries_needs_no_torch():
    golden = ROOT / "tests" / "golden" / "schema-1.0"
    show = f"from exemplar_partitioning.cli import app\napp(['show', {str(golden)!r}], standalone_mode=False)"
    modules = loaded(show)
    assert "pyarrow" in modules and not modules & {"torch", "transformers", "sklearn"}


@pytest.mark.parametrize("what", ["exemplar_partitioning.cli", "exemplar_partitioning.files"])
def test_what_only_one_system_has_is_not_needed_to_import(what):
    blocked = "import sys\nfor name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'):\n    sys.modules[name] = None\n"
    assert what in loaded(f"{blocked}import {what}")


def test_every_public_name_is_there():
    stub = (ROOT / "src" / "exemplar_partitioning" / "__init__.pyi").read_text(encoding="utf-8")
    names = re.findall(r"^from \S+ import \w+ as (\w+)$", stub, re.MULTILINE)
    assert len(names) > 30
    code = (
        f"import exemplar_partitioning as ep\nfor name in {names}:\n    assert name in dir(ep)\n    getattr(ep, name)"
    )
    assert "torch" in loaded(code)


def test_importing_takes_less_than_50_ms():
    """The quickest of up to ten tries: what else the machine does only adds to it."""
    command = [sys.executable, "-X", "importtime", "-c", "import exemplar_partitioning"]
    milliseconds = []
    for _ in range(10):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        [line] = [line for line in done.stderr.splitlines() if line.endswith("| exemplar_partitioning")]
        milliseconds.append(int(line.split("|")[1]) / 1000)
        if milliseconds[-1] < 50:
            return
    raise AssertionError(f"importing takes {min(milliseconds)} ms")
