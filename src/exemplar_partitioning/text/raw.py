"""The bytes of a file: decompressed on the way, in bounded pieces, damage named."""

import bz2
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from ..errors import DataError, EPError, ResourceError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BUFFER_BYTES = 1 << 16
# Nothing longer is read as one: a few hundred kilobytes of gzip can hold a document of gigabytes.
DOCUMENT_BYTES = 1 << 25
# Nor is what has more values: `{},` is three bytes of a file and sixty-four of memory.
RECORD_VALUES = 1_000_000
COMPRESSIONS = (".gz", ".zst", ".bz2")

_LONGEST_WINDOW = {int(zstd.DecompressionParameter.window_log_max): 31}  # 2 GiB, the format's limit on 64 bits
_QUOTED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)  # its end may be still to come
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how a file in it begins
_POINTER = b"version https://git-lfs.github.com/spec/"


def open_binary(path: Path, name: str) -> io.BufferedReader:
    """The bytes of a file, decompressed on the way when its name ends in .gz, .zst or .bz2.

    Raises:
        EPError: the file cannot be opened.
        DataError: it is a pointer of Git LFS, not the data.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
        if start == _POINTER:
            raise DataError(
                f"{name}: is a pointer of Git LFS, not the data it stands for. Run `git lfs pull` in the folder "
                "it was cloned to."
            )
        return decompressed(path, path.suffix if start else "")  # a file without any byte holds nothing
    except OSError as error:
        raise EPError(f"{name}: cannot be opened ({error}). Check that it exists and may be read.") from error


def decompressed(file: Path | BinaryIO, suffix: str) -> io.BufferedReader:
    """What a file of that suffix holds: all its members one after another, zstd windows of up to 2 GiB."""
    match suffix.lower():
        case ".gz":
            plain = gzip.GzipFile(file) if isinstance(file, Path) else gzip.GzipFile(fileobj=file)
        case ".bz2":
            plain = bz2.BZ2File(file)
        case ".zst":
            plain = zstd.ZstdFile(file, options=_LONGEST_WINDOW)
        case _:
            plain = file.open("rb") if isinstance(file, Path) else file
    return io.BufferedReader(cast(io.RawIOBase, plain), BUFFER_BYTES)


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turn what decompressors and pyarrow raise on damaged data into a DataError naming the file."""
    try:
        yield
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise ResourceError(f"{name}: needs more memory than there is ({error}). Split or convert the file.") from error
    except (OSError, EOFError, zlib.error, zstd.ZstdError, pa.ArrowException) as error:
        raise DataError(f"{name}: damaged or cut short ({error}). Fetch or make the file again.") from error


def too_long(where: str) -> DataError:
    """The error of a document, or a row, that is not read for its length."""
    return DataError(
        f"{where}: longer than {DOCUMENT_BYTES >> 20} MB, which is the most that is read as one. Cut it into "
        "documents, one a row or a file."
    )


def check_values(record: str, where: str, between: str = ",[{") -> None:
    """Raise DataError for a record of many values, however short; characters that stand in quoted text do not count."""
    if len(record) < RECORD_VALUES or (values := sum(map(record.count, between))) <= RECORD_VALUES:
        return
    values -= sum(quoted[0].count(mark) for quoted in _QUOTED.finditer(record) for mark in between)
    if values > RECORD_VALUES:
        raise DataError(
            f"{where}: holds more than {RECORD_VALUES:,} values, which are not read as one record. Leave out what "
            "is no text."
        )


def whole(stream: io.BufferedIOBase, name: str) -> bytes:
    """All bytes of a stream, of at most `DOCUMENT_BYTES`."""
    with damage_named(name):
        data = stream.read(DOCUMENT_BYTES + 1)
    if len(data) > DOCUMENT_BYTES:
        raise too_long(name)
    return data


def decoded_lines(stream: io.BufferedIOBase, name: str) -> Iterator[str]:
    """Lines with their ends, split at newline bytes only; a byte order mark is dropped.

    Raises DataError naming the line when the data is damaged or not UTF-8, or the line too long.
    """
    number, start = 1, 0
    while True:
        where = f"{name}, line {number}"
        with damage_named(where):
            data = stream.readline(DOCUMENT_BYTES + 1)
        if not data:
            return
        if len(data) > DOCUMENT_BYTES:
            raise too_long(where)
        try:
            yield data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: not UTF-8 at byte {start + error.start} of the file. Convert it, for instance with: iconv "
                f"-f {'utf-16' if data[:2] in _UTF_16 and number == 1 else 'latin1'} -t utf-8"
            ) from error
        number += 1
        start += len(data)
