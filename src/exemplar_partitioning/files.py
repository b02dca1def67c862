"""Files that are whole or absent, and hashes that tell whether they still are what was written.

Every file of ours has its hash somewhere: in a JSON file beside it; for such a JSON file itself, in `<name>.sha256`
where it appears in one folder with it (`seal`), or in its own key `sha256` where it is replaced alone (`sealed`).
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError, EPError, ResourceError

try:
    import fcntl
except ImportError:  # Windows, where an open file can be neither replaced nor renamed by another process
    fcntl = None

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Another folder would do.
_ELSEWHERE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP, errno.EIO),
)
_STALE_SECONDS = 60  # a writer takes its lock at once


class Exists(EPError, FileExistsError):
    """A folder is there already, perhaps since a moment ago."""

    def __init__(self, path: Path):
        super().__init__(f"{path} exists already; choose another folder")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path, advice: str = "choose a folder that you may write to") -> Iterator[None]:
    """Say a full disk or a forbidden folder as a person would, with the place it happened at and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(
                f"no space left while writing {path}: free some, or {advice}; then run the same command again, a build "
                "with --resume"
            ) from error
        if error.errno == errno.ENOENT:
            gone = f"{error.filename or path} is gone, removed while this ran"
            raise ResourceError(f"cannot write {path}: {gone}; run the same command again") from error
        if links := [part for part in (path, *path.parents) if part.is_symlink() and not part.exists()]:
            raise ResourceError(
                f"cannot write {path}: {links[0]} is a link to nothing; remove it, or {advice}"
            ) from error
        if error.errno in _ELSEWHERE:
            raise ResourceError(f"cannot write {path}: {error.strerror}; {advice}") from error
        raise


@contextmanager
def new_folder(path: Path, *, again: bool = False) -> Iterator[Path]:
    """A folder to fill that appears at `path` all at once, or not at all.

    Everything in it is on the disk before it gets its name. Raises Exists if `path` does (with `again`: and holds
    anything else than what was filled in), EPError if another process is writing it.
    """
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        if path.exists() and not again:
            raise Exists(path)
        partial.mkdir(parents=True, exist_ok=True)
        with _held(partial, path, os.O_RDONLY):
            try:
                for left in partial.iterdir():  # by a process that was killed
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield partial
                if path.exists():
                    if not _same(partial, path):
                        raise Exists(path)
                    shutil.rmtree(partial)
                    return
                for file in partial.rglob("*"):
                    flush(file)
                flush(partial)
                partial.rename(path)
                flush(path.parent)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    files = [{file.relative_to(root) for file in root.rglob("*") if file.is_file()} for root in (one, other)]
    return files[0] == files[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in files[0])


def write_new(path: Path, data: bytes) -> None:
    """A file with these bytes, in place of what was there, in one step. EPError if another process is writing it."""
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Files of one folder, each in place of what was there, once all of them are on the disk.

    The last one vouches for the others: it goes before any of them changes, and comes when all are there. EPError if
    another process is writing one of them.
    """
    *others, last = files
    with ExitStack() as stack:
        stack.enter_context(disk_errors(last))
        partials = {path: path.with_name(f".{path.name}.partial") for path in files}
        for path, partial in partials.items():
            stack.enter_context(_held(partial, path, os.O_WRONLY | os.O_CREAT))
        try:
            for path, data in files.items():
                partials[path].write_bytes(data)
                flush(partials[path])
            if others:
                last.unlink(missing_ok=True)
            for path, partial in partials.items():
                partial.replace(path)
            flush(last.parent)
        except BaseException:
            for partial in partials.values():
                partial.unlink(missing_ok=True)
            raise


def clear_partials(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder of ours."""
    for left in folder.glob(".*.partial"):
        with suppress(OSError, EPError):  # being written, or another's
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                with _held(left, left, os.O_RDONLY):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is here with the same folder; ends with the process, and leaves nothing behind."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


@contextmanager
def _held(partial: Path, path: Path, flags: int) -> Iterator[None]:
    """Keep others from what becomes `path`; ends with the process, however that ends.

    The lock is on what is written itself: a lock file beside it would stay for good, since taking it away lets
    two that wait for it in at once.
    """
    if fcntl is None:
        yield
        return
    busy = EPError(f"another process is writing {path}; wait for it, or choose another place")
    try:
        handle = os.open(partial, flags, 0o666)
    except FileNotFoundError:
        if not partial.parent.is_dir():
            raise
        raise busy from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            replaced = os.fstat(handle).st_ino != partial.stat().st_ino  # finished between our two steps
        except (BlockingIOError, FileNotFoundError):
            replaced = True
        if replaced:
            raise busy
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone would leave it to children that have inherited it
        os.close(handle)


@contextmanager
def held_file(path: Path) -> Iterator[None]:
    """Wait until no other process holds a file of this name; made for it, and taken away again.

    Who gets a lock on a file that was taken away meanwhile begins anew.
    """
    if fcntl is None:
        from filelock import FileLock

        with FileLock(path):
            yield
        return
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == path.stat().st_ino:
                break
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone would leave it to children that have inherited it
        os.close(handle)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    if os.name == "nt":  # flushes neither a folder nor a file that is open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def foreign(path: Path, what: str) -> Iterator[None]:
    """Say as DataError whatever libraries raise on a damaged file of others: there is no end of kinds."""
    try:
        yield
    except EPError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise DataError(f"{path} cannot be read as {what}: {type(error).__name__}: {reason}") from error


def known(value: Any) -> Any:
    """Plain values with null for every number that is not known: JSON has no NaN and no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: known(part) for key, part in value.items()}
    return [known(part) for part in value] if isinstance(value, list | tuple) else value


def to_json(value: Any) -> bytes:
    """JSON the way every file of ours has it: sorted keys, two spaces, UTF-8, a final newline."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError for anything else, however deep or strange."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def sealed(value: Mapping[str, Any]) -> bytes:
    """An object as JSON that holds the hash of the rest of it."""
    return to_json({**value, "sha256": _digest(value)})


def unsealed(path: Path, *, always: bool = False) -> dict[str, Any]:
    """The object that `sealed` wrote to a file; without its hash it is taken as it is, unless it always has one.

    Raises DataError if it is no JSON object, or another than was written.
    """
    value = read_json(path)
    digest = value.pop("sha256", "no hash" if always else None)
    try:
        actual = _digest(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} holds what no file of ours does: {error}") from error
    if digest is not None and digest != actual:
        raise DataError(f"{path} is altered; if you changed it yourself, remove its key sha256")
    return value


def _digest(value: Mapping[str, Any]) -> str:
    compact = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(compact.encode()).hexdigest()


def seal(path: Path) -> None:
    """Write a file's hash beside it, as `sha256sum -c` reads it."""
    _seal_of(path).write_text(f"{sha256(path)}  {path.name}\n")


def is_sealed(path: Path) -> bool:
    """Whether a file is there, and what was sealed."""
    seal = _seal_of(path)
    return seal.is_file() and seal.read_bytes() == f"{sha256(path)}  {path.name}\n".encode()


def check_seal(path: Path) -> None:
    """Raise DataError unless a file is what was sealed; one without a seal is taken as it is."""
    if _seal_of(path).is_file() and not is_sealed(path):
        raise DataError(f"{path} is altered, or {_seal_of(path).name} is: copy the whole folder again")


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def verify(path: Path, digest: str, size: int) -> None:
    """Raise DataError unless the file is there with these bytes."""
    if not path.is_file():
        raise DataError(f"{path} is missing; the dictionary is incomplete, copy the whole folder again")
    if path.stat().st_size != size:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes, {size:,} were written: it is truncated or altered")
    if (actual := sha256(path)) != digest:
        raise DataError(f"{path} is altered: its sha256 is {actual[:12]}, {digest[:12]} was written")


def read_tensors(path: Path, names: Sequence[str], framework: str) -> dict[str, Any]:
    """Some tensors of a safetensors file. Raises DataError if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework=framework) as file:
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


_UNPACKED, _TIMES = 256 << 20, 100  # bytes of a table once it is read: in any case, and for each byte of its file


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole parquet file, or some of its columns.

    Raises DataError if it would unpack to far more than it holds, OSError or pa.ArrowException if it cannot be read.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _check_unpacked(path, file.metadata, range(file.metadata.num_row_groups), columns)
        return file.read(columns, use_threads=False)


def read_groups(path: Path, file: pq.ParquetFile, groups: Sequence[int]) -> pa.Table:
    """Some row groups of an open parquet file, one after the other; raises as `read_table`."""
    _check_unpacked(path, file.metadata, groups)
    return file.read_row_groups(groups, use_threads=False)


def _check_unpacked(path: Path, metadata: pq.FileMetaData, groups: Sequence[int], columns: Any = None) -> None:
    """Raise DataError for groups that take far more memory than their file: few bytes can say the same many times.

    Compression is told by the sizes that the file states; a text that is listed once and meant often, by its lengths.
    """
    most = total = _UNPACKED + _TIMES * path.stat().st_size
    for index in groups:
        group = metadata.row_group(index)
        for part in map(group.column, range(group.num_columns)):
            name, size, count = part.path_in_schema, part.total_uncompressed_size, part.num_values
            if columns is None or name.split(".")[0] in columns:
                total -= max(size, 8 * count)
                if total >= 0 and part.physical_type == "BYTE_ARRAY" and count * size > _UNPACKED:
                    total -= _length_of_texts(path, index, name)
                if total < 0:
                    raise DataError(f"{path} is damaged: it would unpack to more than {most >> 20:,} MB")


def _length_of_texts(path: Path, group: int, column: str) -> int:
    """Bytes of all values of a column of texts in a row group, found without unpacking them."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, read_dictionary=[column]) as file:
        chunks = file.read_row_group(group, [column], use_threads=False).column(0).chunks
    length = 0
    for values in chunks:
        while not pa.types.is_dictionary(values.type):
            values = values.field(0) if pa.types.is_struct(values.type) else values.flatten()
        lengths = pc.call_function("binary_length", [values.dictionary])
        length += pc.call_function("sum", [lengths.cast(pa.int64()).take(values.indices)]).as_py() or 0
    return length
