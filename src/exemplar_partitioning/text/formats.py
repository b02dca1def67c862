"""The file formats documents are read from, row by row and in bounded memory.

Every reader is a generator `(path, name, columns) -> rows`: an id, the row, and where it is for people; `columns`
tells those of a table that are needed. Errors name
the file as the user knows it and the line (counted from 1, as editors do); ids hold the row (counted from 0, as
programs do).
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DataError
from .raw import COMPRESSIONS, DOCUMENT_BYTES, check_values, damage_named, decoded_lines, open_binary, too_long, whole
from .readers import Document, Reading
from .tables import Columns, Row, read_arrow, read_parquet

_PIECE = 1 << 18  # characters of JSON read at a time
_SPACE = re.compile(r"[ \t\r\n]*")

Reader = Callable[[Path, str, Columns], Iterator[Row]]


def read_text(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    """One document a file, as bytes."""
    with open_binary(path, name) as stream:
        yield name, whole(stream, name), name


def read_jsonl(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    """One document a line: an object or a string. Blank lines give none."""
    with open_binary(path, name) as stream:
        for row, line in enumerate(decoded_lines(stream, name)):
            if not line.strip():
                continue
            where = f"{name}, line {row + 1}"
            check_values(line, where)
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                if "\r" in line.strip():
                    raise _old_ends(name) from error
                raise DataError(
                    f"{where}: not JSON ({error}). Expected one JSON object a line; mend or remove the line."
                ) from error
            yield f"{name}:{row}", value, where


def read_json(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    """One list of objects or strings, or objects one after another; an item in memory at a time."""
    with open_binary(path, name) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as characters:
        for row, value in enumerate(_items(characters, name)):
            yield f"{name}:{row}", value, f"{name}, item {row}"


def _items(characters: io.TextIOBase, name: str) -> Iterator[object]:
    """The items of the list that JSON text holds, or its values one after another."""
    text = _Ahead(characters, name)
    listed = text.next() == "["
    text.at += listed
    while (following := text.next()) and not (listed and following == "]"):
        yield text.value()
        if listed:
            following = text.next()
            text.expect(following in ("", ",", "]"), "a comma or the end of the list is missing")
            text.at += following == ","
    text.expect(bool(following) or not listed, "it ends within the list")
    text.at += listed
    text.expect(not text.next(), "there is more after its end")


class _Ahead:
    """JSON text of which no more than an item, or a piece, is in memory."""

    def __init__(self, characters: io.TextIOBase, name: str) -> None:
        self.at = 0
        self._characters, self._name = characters, name
        self._text, self._values = "", 0
        self._parse = json.JSONDecoder().raw_decode

    @property
    def where(self) -> str:
        return f"{self._name}, item {self._values}"

    def expect(self, good: bool, otherwise: str) -> None:
        if not good:
            raise DataError(
                f"{self.where}: not JSON ({otherwise}). Expected a list of objects or strings; if it holds one object "
                "a line, name it .jsonl."
            )

    def next(self) -> str:
        """The next character that is not white space, not taken; nothing at the end."""
        while True:
            space = _SPACE.match(self._text, self.at)
            assert space is not None  # it may be empty
            self.at = space.end()
            if self.at < len(self._text) or not self._more():
                return self._text[self.at : self.at + 1]

    def value(self) -> object:
        """The value that begins here, taken."""
        while True:
            try:
                value, end = self._parse(self._text, self.at)
                problem = ""
            except (ValueError, RecursionError) as error:
                value, end, problem = None, len(self._text), str(error)
            # What ends where the piece does may go on in the next one.
            if end < len(self._text) or not self._more():
                break
        self.expect(not problem, problem)
        self.at, self._values = end, self._values + 1
        return value

    def _more(self) -> bool:
        """Read on, twice as far each time as no value is whole; False at the end of the file."""
        self._text, self.at = self._text[self.at :], 0
        if len(self._text) > DOCUMENT_BYTES:
            raise too_long(self.where)
        check_values(self._text, self.where)
        try:
            with damage_named(self.where):
                piece = self._characters.read(max(_PIECE, len(self._text)))
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where}: not UTF-8 ({error.reason}). Convert it.") from error
        self._text += piece
        return bool(piece)


def read_csv(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    """One document a row of a table with a header; tabs between cells where the name says .tsv."""
    delimiter = "\t" if format_of(path) == ".tsv" else ","
    with open_binary(path, name) as stream:
        yield from csv_rows(stream, name, columns, delimiter)


def csv_rows(stream: io.BufferedIOBase, name: str, columns: Columns, delimiter: str = ",") -> Iterator[Row]:
    """The rows of a CSV stream, their needed cells by column; None where a row is too short."""
    csv.field_size_limit(max(csv.field_size_limit(), DOCUMENT_BYTES))

    def lines() -> Iterator[str]:
        for number, line in enumerate(decoded_lines(stream, name), 1):
            check_values(line, f"{name}, line {number}", delimiter)
            yield line

    table = csv.reader(lines(), strict=True, delimiter=delimiter)
    try:
        header = next(table, [])
        needed = {column: header.index(column) for column in columns(header, name)}
        for row, cells in enumerate(filter(None, table)):
            value = {column: cells[i] if i < len(cells) else None for column, i in needed.items()}
            yield f"{name}:{row}", value, f"{name}, line {table.line_num}"
    except csv.Error as error:
        if "new-line character" in str(error):
            raise _old_ends(name) from error
        raise DataError(
            f"{name}, line {table.line_num}: not CSV ({error}). Expected "
            f"{'tabs' if delimiter != ',' else 'commas'} between cells and closed quotation marks; mend the line."
        ) from error


def _old_ends(name: str) -> DataError:
    return DataError(
        f"{name}: its lines end in CR alone, as on old Macs. Convert it, for instance with: tr '\\r' '\\n' < {name}"
    )


FORMATS: dict[str, Reader] = {
    ".txt": read_text,
    ".md": read_text,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".jsonlines": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}


def format_of(path: Path) -> str | None:
    """The extension that tells a file's format, of those known; None if none does."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def read_rows(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    """The rows of a file of known format."""
    kind = format_of(path)
    assert kind is not None, path
    return FORMATS[kind](path, name, columns)


def read_file(path: Path, name: str, reading: Reading) -> Iterator[Document]:
    """The documents of a file of known format."""
    for id, row, where in read_rows(path, name, reading.columns):
        document = reading.document(id, row, where)
        if document is not None:
            yield document


def known_extensions() -> str:
    """Extensions of files that can be read, for messages."""
    return f"{', '.join(FORMATS)}, each also with {', '.join(COMPRESSIONS)}"
