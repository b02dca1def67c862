"""Folders that appear together: each is written whole beside its place, then all of them take their places.

    .<name>.ready     beside the place of a folder: what is to take it
    <journal>         which are to take their places; there while they do

A process that is killed leaves what was there before, or, once the journal is there, a move that anyone can end.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..files import disk_errors, flush, read_json, to_json, write_new

JOURNAL = "moves.json"  # in the work folder of a job


def beside(place: Path) -> Path:
    """Where to write the folder that is to take a place."""
    return place.with_name(f".{place.name}.ready")


def discard(place: Path) -> None:
    """Remove what was written for a place and did not take it."""
    shutil.rmtree(beside(place), ignore_errors=True)


def move_in(journal: Path, root: Path, places: Sequence[Path]) -> None:
    """Have folders below a root take their places, those that were there before being removed."""
    moves = {str(place.relative_to(root)): beside(place).stat().st_ino for place in places if beside(place).is_dir()}
    write_new(journal, to_json({"moves": moves}))
    finish(journal, root)


def finish(journal: Path, root: Path) -> None:
    """End a move that a process began, if one did."""
    if not journal.is_file():
        return
    moves = read_json(journal).get("moves")
    if not isinstance(moves, dict) or any(
        {"..", ""} & set(Path(name).parts) or Path(name).is_absolute() for name in moves
    ):
        raise DataError(f"{journal} is damaged; remove it, and {root} where that holds nothing else")
    for name, inode in moves.items():
        place, ready = root / name, beside(root / name)
        with disk_errors(place):
            if ready.is_dir() and ready.stat().st_ino == inode:  # else it holds what was there before
                _exchange(ready, place)
                flush(place.parent)
        discard(place)
        shutil.rmtree(_old(place), ignore_errors=True)
    journal.unlink()


def _exchange(ready: Path, place: Path) -> None:
    """Give a folder its place, and what was there the folder's; in one step where the system has one for it."""
    if not place.exists():
        ready.rename(place)
    elif not _swap(ready, place):
        place.rename(_old(place))
        ready.rename(place)


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def _swap(first: Path, other: Path) -> bool:
    """Exchange two names; whether the system could."""
    names = os.fsencode(first), os.fsencode(other)
    libc = None if sys.platform == "win32" else ctypes.CDLL(None)
    if (call := getattr(libc, "renameat2", None)) is not None:
        return call(-100, names[0], -100, names[1], 2) == 0  # AT_FDCWD twice, RENAME_EXCHANGE
    if (call := getattr(libc, "renamex_np", None)) is not None:
        return call(*names, 2) == 0  # RENAME_SWAP
    return False
