"""Look into what `python -m build` made: `python tools/contents.py dist`.

The wheel holds the package and nothing else, complete; the source archive all that is needed to build and test it.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "exemplar_partitioning"


def tracked(*folders: str) -> set[str]:
    """Files that git knows in these folders, relative to the repository."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def wheel_faults(wheel: Path) -> list[str]:
    """What is wrong with a wheel: files of the package that it lacks, files that it should not have."""
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    wanted = {name.removeprefix("src/") for name in tracked(f"src/{PACKAGE}")}
    wanted |= {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    wanted |= {f"{info}/licenses/{name}" for name in ("LICENSE", "NOTICE")}
    return _faults(wheel, held, wanted)


def sdist_faults(sdist: Path) -> list[str]:
    """What is wrong with a source archive, likewise: it is what git knows, but for the settings of one CI."""
    root = sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as archive:
        held = {member.name.removeprefix(f"{root}/") for member in archive.getmembers() if member.isfile()}
    wanted = {name for name in tracked() if not name.startswith(".ci/")}
    return _faults(sdist, held, wanted | {"PKG-INFO"})


def _faults(path: Path, held: set[str], wanted: set[str]) -> list[str]:
    faults = [f"{path.name} lacks {name}" for name in sorted(wanted - held)]
    return faults + [f"{path.name} should not hold {name}" for name in sorted(held - wanted)]


def main(folder: str) -> None:
    """Print size and faults of every archive in a folder; exit with 1 if there is any fault."""
    wheels, sdists = sorted(Path(folder).glob("*.whl")), sorted(Path(folder).glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        sys.exit(f"expected one wheel and one source archive in {folder}, found {len(wheels)} and {len(sdists)}")
    faults = wheel_faults(wheels[0]) + sdist_faults(sdists[0])
    for path in (*wheels, *sdists):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    print("\n".join(faults) or "nothing is missing, nothing is too much")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main(*sys.argv[1:])
