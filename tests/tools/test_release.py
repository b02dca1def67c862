"""What is released: archives with the package and nothing else, no network until asked, pins that say what they say."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "schema-1.0"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

NO_NETWORK = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise AssertionError(f"asked for the network: {arguments}")

sys.addaudithook(refuse)
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A wheel and a source archive, built as a release is."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, timeout=900)
    return folder


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """A folder with what pip makes of that wheel, without dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    [wheel] = archives.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True, timeout=900)
    return folder


def python(*arguments, path):
    """A process that imports the package from `path` alone."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(path), "COLUMNS": "120"},
    )


def test_the_same_tree_gives_the_same_archives(archives, tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)], cwd=ROOT, check=True, timeout=900)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in archives.iterdir()
    }


def test_archives_hold_what_they_should(archives):
    done = subprocess.run([sys.executable, ROOT / "tools" / "contents.py", archives], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "nothing is missing, nothing is too much" in done.stdout


def test_what_is_missing_or_too_much_in_a_wheel_is_said(archives, tmp_path):
    import shutil
    import zipfile

    [sdist], [wheel] = archives.glob("*.tar.gz"), archives.glob("*.whl")
    shutil.copy(sdist, tmp_path)
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(tmp_path / wheel.name, "w") as new:
        for name in old.namelist():
            if not name.endswith("py.typed"):
                new.writestr(name, old.read(name))
        new.writestr("tests/test_leader.py", "")
    done = subprocess.run([sys.executable, ROOT / "tools" / "contents.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{wheel.name} lacks exemplar_partitioning/py.typed" in done.stdout
    assert f"{wheel.name} should not hold tests/test_leader.py" in done.stdout


def test_the_wheel_works(installed):
    """The package as installed: its version, the pages it serves, and a dictionary read with it."""
    where = python("-c", "import exemplar_partitioning as ep; print(ep.__file__, ep.__version__)", path=installed)
    assert where.stdout.split() == [
        str(installed / "exemplar_partitioning" / "__init__.py"),
        PROJECT["project"]["version"],
    ]
    shown = python("-m", "exemplar_partitioning", "show", GOLDEN, path=installed)
    assert shown.returncode == 0, shown.stderr
    assert "resid_post" in shown.stdout


@pytest.mark.parametrize(
    "what",
    [
        "import exemplar_partitioning as ep; assert all(getattr(ep, name) for name in ep.__all__)",
        "sys.argv = ['ep', '--help']; import runpy; runpy.run_module('exemplar_partitioning', run_name='__main__')",
        f"sys.argv = ['ep', 'show', {str(GOLDEN)!r}]; import runpy; "
        "runpy.run_module('exemplar_partitioning', run_name='__main__')",
    ],
    ids=["every name", "ep --help", "ep show"],
)
def test_nothing_asks_for_the_network_until_told_to(what):
    done = python("-c", NO_NETWORK + what, path=ROOT / "src")
    assert done.returncode == 0, done.stderr
    blocked = python(
        "-c", NO_NETWORK + "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", path=ROOT / "src"
    )
    assert "asked for the network" in blocked.stderr


def requirements():
    """Everything that pyproject.toml asks of users, extras included."""
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


def pins(name):
    """Name and version of every line of a file of constraints."""
    lines = (ROOT / name).read_text().split()
    return {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1]) for line in lines}


def test_the_floors_that_are_tested_are_those_that_are_stated():
    floors = pins("constraints-floor.txt")
    for requirement in requirements():
        [stated] = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
        tested = floors[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(tested), requirement
        if requirement.name != "torch":  # its oldest builds are not to be had everywhere
            assert tested.release[: len(stated.release)] == stated.release, f"{requirement}, tested with {tested}"


def test_every_pin_was_found_for_every_supported_python():
    from tools.test_site import module

    found = json.loads((ROOT / "tools" / "pythons.json").read_text())["wheels"]
    supported = [line.split(" :: ")[-1] for line in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert list(found) == supported and f">={supported[0]}" == PROJECT["project"]["requires-python"]
    for python, wheels in found.items():
        missing = set(pins("constraints.txt")) - {canonicalize_name(name) for name in wheels}
        assert missing <= {"appnope", "colorama"} | module("pythons").not_for(python), "run `make pythons`"


def test_the_bill_of_what_is_downloaded_is_fresh_valid_and_complete():
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    from exemplar_partitioning.demo.models import PACKAGED_MODELS
    from exemplar_partitioning.demo.wheels import DEFAULT_TEXT_WHEEL
    from tools.test_site import module

    text = (ROOT / "docs" / "downloads.cdx.json").read_text()
    assert module("downloads").bill_text() == text, "run `make pages`"
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"SHA-256"', '"SHA-257"')) is not None
    listed = {part["hashes"][0]["content"] for part in json.loads(text)["components"]}
    wheels = [DEFAULT_TEXT_WHEEL, *(wheel for model in PACKAGED_MODELS.values() for wheel in model.wheels)]
    assert {wheel.sha256 for wheel in wheels} <= listed
    assert {model.gguf_sha256 for model in PACKAGED_MODELS.values()} <= listed


def test_the_version_is_said_once_and_the_same_everywhere():
    import exemplar_partitioning as ep

    version = PROJECT["project"]["version"]
    assert ep.__version__ == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
