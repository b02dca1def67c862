"""Files that are whole or absent, and hashes that tell whether they still are what was written."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DataError, ResourceError


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say a full disk or a forbidden folder as a person would, with the place it happened at."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(
                f"no space left while writing {path}: free some and run the same command again, a build with --resume"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise ResourceError(
                f"cannot write {path}: {error.strerror}; choose a folder that you may write to"
            ) from error
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that appears at `path` all at once, or not at all.

    Everything in it is on the disk before it gets its name. Raises FileExistsError if `path` exists.
    """
    if path.exists():
        raise FileExistsError(path)
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            for file in partial.iterdir():
                flush(file)
            flush(partial)
            partial.rename(path)
            flush(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def write_new(path: Path, data: bytes) -> None:
    """A file with these bytes, in place of what was there, in one step."""
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        partial.write_bytes(data)
        flush(partial)
        partial.replace(path)
        flush(path.parent)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify(path: Path, digest: str, size: int) -> None:
    """Raise DataError unless the file is there with these bytes."""
    if not path.is_file():
        raise DataError(f"{path} is missing; the dictionary is incomplete, copy the whole folder again")
    if path.stat().st_size != size:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes, {size:,} were written: it is truncated or altered")
    if (found := sha256(path)) != digest:
        raise DataError(f"{path} is altered: its sha256 is {found[:12]}, {digest[:12]} was written")
