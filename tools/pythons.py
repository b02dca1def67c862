"""Does the index serve every pinned dependency ready to install, for every Python we support? `make pythons`.

uv resolves constraints.txt for each of them, for Linux on x86-64, from metadata alone; release/pythons.json says which
wheel serves. That the package runs on those Pythons is another matter: see "Release" in CONTRIBUTING.md.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "tools" / "pythons.json"
PLATFORM = "x86_64-manylinux_2_28"


def supported() -> list[str]:
    """Versions of Python named in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [name for line in project["classifiers"] if re.fullmatch(r"3\.\d+", name := line.split(" :: ")[-1])]


def not_for(python: str) -> set[str]:
    """Names of dependencies that pyproject.toml asks for on other Pythons alone."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    asked = [Requirement(line) for line in declared]
    return {canonicalize_name(r.name) for r in asked if r.marker and not r.marker.evaluate({"python_version": python})}


def wheels(python: str) -> dict[str, str]:
    """The tags of the wheel of each pin that this Python can install; it ends the program where one has none."""
    uv = shutil.which("uv", path=Path(sys.executable).parent) or "uv"
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "pylock.toml"
        command = [
            uv,
            "pip",
            "compile",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--python-version",
            f"{python}.9",
        ]
        command += ["--python-platform", PLATFORM, "--format", "pylock.toml", "--output-file", str(lock)]
        pins = (ROOT / "constraints.txt").read_text().split()
        wanted = Path(folder) / "constraints.txt"
        wanted.write_text("\n".join(pin for pin in pins if pin.split("==")[0] not in not_for(python)) + "\n")
        ran = subprocess.run([*command, str(wanted)], capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"Python {python}: {ran.stderr.strip()}")
        packages = tomllib.loads(lock.read_text())["packages"]
    return {entry["name"]: _tags(entry["wheels"][0]) for entry in packages}


def _tags(wheel: dict) -> str:
    name = wheel.get("name") or wheel["url"].rsplit("/", 1)[-1]
    return "-".join(name.removesuffix(".whl").split("-")[-3:-1])


def main() -> None:
    """Write what was found for each Python."""
    found = {}
    for python in supported():
        found[python] = wheels(python)
        own = sum(tag.startswith("cp") and not tag.endswith("abi3") for tag in found[python].values())
        print(f"Python {python}: {len(found[python])} pins have a wheel, {own} of them one for this version alone")
    record = {"command": "python tools/pythons.py", "platform": PLATFORM, "wheels": found}
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
