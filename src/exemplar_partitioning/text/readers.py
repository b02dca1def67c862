"""Rows to documents: which part of a row is the text, and what is done with what is none."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ..errors import DataError, EPError
from .conversations import CHAT_COLUMNS, Conversation, Message, conversation_of, is_conversation, plain_text
from .raw import DOCUMENT_BYTES, too_long

SkipCallback = Callable[[str, str], None]


@dataclass(frozen=True)
class Document:
    """A text and a stable, human-readable name for it, such as `file.jsonl:17` (row, counted from 0).

    A conversation has its `turns`, messages as chat templates take them, and perhaps `tools`; its text is what
    was said, without roles. `mask` is what the row's field holds that marks tokens, where one is asked for.
    """

    id: str
    text: str
    turns: tuple[Message, ...] = ()
    tools: tuple[Any, ...] = ()
    mask: Any = None

    @property
    def said(self) -> tuple[Message, ...]:
        """Its turns; a text is one, of the user."""
        return self.turns or ({"role": "user", "content": self.text},)


@dataclass(frozen=True)
class Reading:
    """How the user wants documents read.

    Attributes:
        field: where in a row the text is. `meta.text` goes into objects, `choices.0.text` into lists; `title+body`
            joins texts by an empty line. A name that has dots or pluses of its own is taken as it is.
        mask: field that marks tokens.
    """

    field: str
    on_skip: SkipCallback | None
    strict: bool
    mask: str | None = None

    def skip(self, id: str, reason: str) -> None:
        if self.on_skip is not None:
            self.on_skip(id, reason)

    def refuse(self, id: str, reason: str) -> None:
        """Skip and count a document that is not text, or raise DataError when strict."""
        if self.strict:
            raise DataError(f"{id}: {reason}. Expected UTF-8 text; convert or remove it, or read without strict.")
        self.skip(id, reason)

    def columns(self, names: Collection[str], where: str) -> list[str]:
        """Those of a table's columns that are needed; EPError if the text is in none of them, or one is there twice."""
        columns = {_head(part, names) for part in _parts(self.field, names)}
        marks = {_head(self.mask, names)} & set(names) if self.mask is not None else set[str]()
        if not columns <= set(names):
            if self.field != "text" or not is_conversation(names):
                raise _no_field(where, self.field, names, "columns")
            columns = CHAT_COLUMNS & set(names)
        needed = sorted(columns | marks)
        if twice := [column for column in needed if [*names].count(column) > 1]:
            raise EPError(f"{where}: several columns are named '{twice[0]}' ({', '.join(names)}). Rename all but one.")
        return needed

    def document(self, id: str, row: object, where: str) -> Document | None:
        """The document of a row, or None when it is skipped (with its reason).

        Args:
            id: The document's name.
            row: An object with its fields, the text itself, or the bytes of a text file.
            where: The row, for people: file and line.

        Raises:
            EPError: the row has no such field.
            DataError: what is there is not a text, or too long.
        """
        value = self._value(row, where)
        if isinstance(value, bytes):
            value = self._decoded(id, value)
            if value is None:
                return None
        if value is None:
            self.skip(id, "null")
            return None
        conversation = None
        if isinstance(value, Conversation):
            conversation, value = value, plain_text(value)
        if not isinstance(value, str):
            raise DataError(f"{id}: the text is {_kind(value)}, expected a string. Name another field (field=).")
        if not value or value.isspace():
            self.skip(id, "empty")
            return None
        if len(value) > DOCUMENT_BYTES:
            raise too_long(id)
        # Only lone surrogates cannot be written as UTF-8. JSON escapes can hold them, tokenizers cannot.
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            self.refuse(id, f"lone surrogate at character {error.start}")
            return None
        mask = self._mask(row, where)
        if conversation is not None:
            return Document(id, value, conversation.turns, conversation.tools, mask)
        return Document(id, value, mask=mask)

    def _mask(self, row: object, where: str) -> object:
        """What marks a row's tokens: nothing, in a conversation, where its turns may be marked themselves."""
        if self.mask is None:
            return None
        if isinstance(row, dict) and _head(self.mask, row) in row:
            value = _inside(row, self.mask, where)
            return [] if value is None else value
        if isinstance(row, dict) and is_conversation(row):
            return None
        fields = ", ".join(map(str, row)) if isinstance(row, dict) else "none, as it is a text alone"
        raise EPError(
            f"{where}: no {self.mask!r} among its fields ({fields}). Name the one that marks tokens (mask:FIELD)."
        )

    def _value(self, row: object, where: str) -> object:
        if not isinstance(row, dict):
            return row
        parts = _parts(self.field, row)
        if all(_head(part, row) in row for part in parts):
            values = [_inside(row, part, where) for part in parts]
            if len(values) == 1:
                (value,) = values
                return conversation_of(row | {"messages": value}, where) if _are_turns(value) else value
            for value in values:
                if not isinstance(value, (str, type(None))):
                    raise DataError(f"{where}: {self.field!r} joins {_kind(value)}, expected strings.")
            return "\n\n".join(str(value) for value in values if value) or None
        if self.field == "text" and is_conversation(row):
            return conversation_of(row, where)
        raise _no_field(where, self.field, row, "fields")

    def _decoded(self, id: str, data: bytes) -> str | None:
        """The text of a file's bytes; None, having refused it, if they are none."""
        nul = data.find(b"\0")
        if nul >= 0:
            self.refuse(id, f"binary, NUL at byte {nul}")
            return None
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.refuse(id, f"not UTF-8 at byte {error.start}")
            return None


def _parts(field: str, names: Collection[str]) -> list[str]:
    return [field] if field in names else [part.strip() for part in field.split("+")]


def _head(path: str, names: Collection[str]) -> str:
    """The column that a path begins in."""
    return path if path in names else path.split(".")[0]


def _inside(row: dict[str, Any], path: str, where: str) -> object:
    if path in row:
        return row[path]
    value: Any = row
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and re.fullmatch(r"\d+", step) and int(step) < len(value):
            value = value[int(step)]
        elif value is None:
            return None
        else:
            inside = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
            raise _no_field(where, path, [*map(str, inside)], f"fields at '{step}'")
    return value


def _are_turns(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _no_field(where: str, field: str, present: Collection[str], what: str) -> EPError:
    names = ", ".join(map(str, present)) or "none"
    return EPError(f"{where}: no '{field}' among its {what} ({names}). Name the one with the text (field=).")


def _kind(value: object) -> str:
    words = {dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false"}
    shown = re.sub(r"\s+", " ", repr(value)[:200])[:60]
    return f"{words.get(type(value), f'of type {type(value).__name__}')} ({shown})"
