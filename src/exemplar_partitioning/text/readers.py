"""The file formats documents are read from, row by row and in bounded memory.

Every reader is a generator `(path, name, reading) -> documents`. Errors name the file as the user knows it
and the line (counted from 1, as editors do); document ids hold the row (counted from 0, as programs do).
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, EPError, ResourceError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
BUFFER_BYTES = 1 << 16
PARQUET_ROWS = 64
# A CSV cell longer than this (characters) is taken for a quotation mark that was never closed; the csv
# module's own limit of 131,072 is shorter than a chapter.
CSV_CELL_LIMIT = 1 << 26

SkipCallback = Callable[[str, str], None]


@dataclass(frozen=True)
class Document:
    """A text and a stable, human-readable name for it, such as `file.jsonl:17` (row, counted from 0)."""

    id: str
    text: str


@dataclass(frozen=True)
class Reading:
    """How the user wants documents read: the field of tables, and what to do with what cannot be used."""

    field: str
    on_skip: SkipCallback | None
    strict: bool

    def skip(self, id: str, reason: str) -> None:
        if self.on_skip is not None:
            self.on_skip(id, reason)

    def refuse(self, id: str, reason: str) -> None:
        """Skip and count a document that is not text, or raise DataError when strict."""
        if self.strict:
            raise DataError(f"{id}: {reason}. Expected UTF-8 text; convert or remove it, or read without strict.")
        self.skip(id, reason)

    def document(self, id: str, value: object) -> Document | None:
        """The document `id` holding `value`, or None when it is skipped (with its reason).

        Raises DataError when the value is not a string at all.
        """
        if value is None:
            self.skip(id, "null")
            return None
        if not isinstance(value, str):
            raise DataError(f"{id}: the text is {_kind(value)}, expected a string. Name another field (field=).")
        if not value or value.isspace():
            self.skip(id, "empty")
            return None
        # Only lone surrogates cannot be written as UTF-8. JSON escapes can hold them, tokenizers cannot.
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            self.refuse(id, f"lone surrogate at character {error.start}")
            return None
        return Document(id, value)


Reader = Callable[[Path, str, Reading], Iterator[Document]]


def read_text(path: Path, name: str, reading: Reading) -> Iterator[Document]:
    """One document a file. A file that is not UTF-8, or holds a NUL byte, is skipped or refused."""
    with open_binary(path, name) as stream, damage_named(name):
        data = stream.read()
    nul = data.find(b"\0")
    if nul >= 0:
        reading.refuse(name, f"binary, NUL at byte {nul}")
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reading.refuse(name, f"not UTF-8 at byte {error.start}")
        return
    document = reading.document(name, text)
    if document is not None:
        yield document


def read_jsonl(path: Path, name: str, reading: Reading) -> Iterator[Document]:
    """One document a line: an object with the text in `reading.field`, or a string. Blank lines give none."""
    with open_binary(path, name) as stream:
        for row, line in enumerate(decoded_lines(stream, name)):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{name}, line {row + 1}: not JSON ({error}). Expected one JSON object a line; "
                    "mend or remove the line."
                ) from error
            text = _field_of(value, reading.field, f"{name}, line {row + 1}")
            document = reading.document(f"{name}:{row}", text)
            if document is not None:
                yield document


def read_json(path: Path, name: str, reading: Reading) -> Iterator[Document]:
    """A list of objects or strings. The format cannot be read in pieces; prefer .jsonl for large data."""
    with open_binary(path, name) as stream, damage_named(name):
        data = stream.read()
    try:
        rows = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{name}: not JSON ({error}). Expected a list of objects or strings; if it holds one "
            "object a line, name it .jsonl."
        ) from error
    if not isinstance(rows, list):
        raise DataError(f"{name}: holds {_kind(rows)}, expected a list of objects or strings. Put it in a list.")
    for row, value in enumerate(rows):
        document = reading.document(f"{name}:{row}", _field_of(value, reading.field, f"{name}, item {row}"))
        if document is not None:
            yield document


def read_csv(path: Path, name: str, reading: Reading) -> Iterator[Document]:
    """One document a row, from the column `reading.field` of a table with a header."""
    with open_binary(path, name) as stream:
        for row, value in csv_column(stream, name, reading.field):
            document = reading.document(f"{name}:{row}", value)
            if document is not None:
                yield document


def csv_column(stream: io.BufferedIOBase, name: str, field: str) -> Iterator[tuple[int, str | None]]:
    """(row, cell) of one column, rows counted from 0 after the header; None where a row is too short."""
    csv.field_size_limit(max(csv.field_size_limit(), CSV_CELL_LIMIT))
    table = csv.reader(decoded_lines(stream, name), strict=True)
    try:
        header = next(table, [])
        if field not in header:
            raise _no_field(name, field, header, "columns")
        column = header.index(field)
        for row, cells in enumerate(filter(None, table)):
            yield row, cells[column] if column < len(cells) else None
    except csv.Error as error:
        raise DataError(
            f"{name}, line {table.line_num}: not CSV ({error}). Expected commas between cells and closed "
            "quotation marks; mend the line."
        ) from error


def read_parquet(path: Path, name: str, reading: Reading) -> Iterator[Document]:
    """One document a row, from the string column `reading.field`; a few rows in memory at a time."""
    if path.suffix.lower() in COMPRESSIONS:
        raise EPError(
            f"{name}: expected plain parquet, which is compressed inside and cannot be read in pieces from "
            f"{path.suffix}. Decompress it first."
        )
    with damage_named(name), pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as table:
        schema = table.schema_arrow
        if reading.field not in schema.names:
            raise _no_field(name, reading.field, schema.names, "columns")
        kind = schema.field(reading.field).type
        values = kind.value_type if pa.types.is_dictionary(kind) else kind
        if values not in (pa.string(), pa.large_string(), pa.string_view()):
            raise EPError(
                f"{name}: column '{reading.field}' holds {kind}, expected strings. Name another column "
                f"({', '.join(schema.names)}) with field=."
            )
        row = 0
        for batch in table.iter_batches(PARQUET_ROWS, columns=[reading.field], use_threads=False):
            for value in batch.column(0):
                try:
                    text = value.as_py()
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{name}, row {row}: not UTF-8 at byte {error.start} of the text. Write the "
                        "file again with valid strings."
                    ) from error
                document = reading.document(f"{name}:{row}", text)
                row += 1
                if document is not None:
                    yield document


def read_hub(dataset: str, reading: Reading) -> Iterator[Document]:
    """Rows of a Hugging Face dataset `owner/name[:split]`, streamed; the split is `train` unless named."""
    path, _, split = dataset.partition(":")
    split = split or "train"
    name = f"hf:{path}:{split}"
    try:
        rows = import_module("datasets").load_dataset(path, split=split, streaming=True)
        for row, value in enumerate(rows):
            document = reading.document(f"{name}:{row}", _field_of(value, reading.field, name))
            if document is not None:
                yield document
    except EPError:
        raise
    except Exception as error:  # the package raises whatever its network and file layers raise
        kind = ResourceError if isinstance(error, (ConnectionError, TimeoutError)) else EPError
        raise kind(
            f"{name}: cannot be read ({type(error).__name__}: {error}). Expected hf:owner/name[:split] of a "
            "dataset the hub can stream; check the name, the split and the network."
        ) from error


def require_hub(dataset: str) -> None:
    """Raise EPError unless the optional package that reads hub datasets is there."""
    if find_spec("datasets") is None:
        raise EPError(
            f"hf:{dataset}: a dataset of the hub needs the package `datasets`, which is not installed. "
            "Run: pip install 'exemplar-partitioning[datasets]'"
        )


FORMATS: dict[str, Reader] = {
    ".txt": read_text,
    ".md": read_text,
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def reader_of(path: Path) -> Reader | None:
    """The reader for this file name, or None when its extension is not known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def known_extensions() -> str:
    return f"{', '.join(FORMATS)}, each also with {', '.join(COMPRESSIONS)}"


def open_binary(path: Path, name: str) -> io.BufferedReader:
    """The bytes of a file, decompressed on the way when its name ends in .gz, .zst or .bz2."""
    try:
        file = pa.OSFile(str(path))
    except OSError as error:
        raise EPError(f"{name}: cannot be opened ({error}). Check that it exists and may be read.") from error
    compression = COMPRESSIONS.get(path.suffix.lower())
    stream = file if compression is None else pa.CompressedInputStream(file, compression)
    return io.BufferedReader(stream, BUFFER_BYTES)  # pyright: ignore[reportArgumentType]


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turn what decompressors and pyarrow raise on damaged data into a DataError naming the file."""
    try:
        yield
    except (OSError, EOFError, pa.ArrowException) as error:
        raise DataError(f"{name}: damaged or cut short ({error}). Fetch or make the file again.") from error


def decoded_lines(stream: io.BufferedIOBase, name: str) -> Iterator[str]:
    """Lines with their ends, split at newline bytes only; a byte order mark is dropped.

    Raises DataError naming the line when the data is damaged or not UTF-8.
    """
    number, start = 1, 0
    while True:
        with damage_named(f"{name}, line {number}"):
            data = stream.readline()
        if not data:
            return
        try:
            yield data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}, line {number}: not UTF-8 at byte {start + error.start} of the file. Convert it, "
                "for instance with: iconv -f latin1 -t utf-8"
            ) from error
        number += 1
        start += len(data)


def _field_of(value: object, field: str, where: str) -> object:
    if not isinstance(value, dict):
        return value
    if field not in value:
        raise _no_field(where, field, list(value), "fields")
    return value[field]


def _no_field(where: str, field: str, present: list[str], what: str) -> EPError:
    names = ", ".join(map(str, present)) or "none"
    return EPError(f"{where}: no '{field}' among its {what} ({names}). Name the one with the text (field=).")


def _kind(value: object) -> str:
    words = {dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false"}
    shown = re.sub(r"\s+", " ", repr(value))[:60]
    return f"{words.get(type(value), f'of type {type(value).__name__}')} ({shown})"
