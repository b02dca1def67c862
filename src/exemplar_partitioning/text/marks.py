"""Which tokens of a text a field of its row marks, in the forms that data sets have."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError, EPError
from .chat import Span
from .readers import Document

_WORD = re.compile(r"\S+")


def document_marks(
    document: Document, spans: Sequence[Span], offsets: Sequence[tuple[int, int]], field: str
) -> np.ndarray:
    """Those tokens that a field marks, of the row or of each turn.

    A row's field is of its text. Of a conversation it has a mark a turn, or one a token of all that is rendered; or
    turns have the field themselves.

    Args:
        document: with what its row's field holds.
        spans: what its turns say; of a plain text, all of it.
        offsets: where each token lies.
        field: for people.

    Raises:
        EPError: no such field.
        DataError: it marks nothing that is known (see `marked`).
    """
    where, turns, mask = f"{document.id}, {field}", document.turns, document.mask
    if turns and mask is None:
        if not any(field in turn for turn in turns):
            raise EPError(f"{document.id}: neither the row nor any of its turns has a field {field!r}")
        values = [turn.get(field) for turn in turns]
    elif turns:
        values = _read(mask, where) or [None] * len(turns)
        if isinstance(values, list) and len(values) == len(offsets):
            return marked(values, "", offsets, where)
        if not isinstance(values, list) or len(values) != len(turns):
            raise DataError(
                f"{where}: expected a mark for each of {len(turns):,} turns, or of {len(offsets):,} tokens; got "
                f"{len(values) if isinstance(values, list) else values}"
            )
    else:
        values = [mask]
    said = np.zeros(len(offsets), bool)
    for span in (span for span in spans if span.turn >= 0):
        text = str(turns[span.turn].get("content") or "") if turns else document.text
        inside = [i for i, (start, stop) in enumerate(offsets) if start < span.stop and stop > span.start]
        trimmed = len(text) - len(text.lstrip()) if span.stop - span.start < len(text) else 0
        begin = span.start - trimmed
        own = [(_within(offsets[i][0] - begin, text), _within(offsets[i][1] - begin, text)) for i in inside]
        said[inside] |= marked(values[span.turn], text, own, where)
    return said


def _within(at: int, text: str) -> int:
    return min(max(0, at), len(text))


def marked(value: Any, text: str, offsets: Sequence[tuple[int, int]], where: str) -> np.ndarray:
    """Those tokens that any marked character belongs to.

    Args:
        value: True or 1 for all of the text; spans of characters, `[[start, stop], ...]` or objects with `start` and
            `end`; or a list of 0 and 1, one a token, else one a character, else one a word (between white space).
            JSON of these, or a string of 0 and 1, is read.
        text: what is marked.
        offsets: start and stop of each token in it, in characters.
        where: the mask, for people.

    Raises:
        DataError: another form, spans outside of the text, or marks of another number.
    """
    value = _read(value, where)
    if isinstance(value, bool | int):
        return np.array([bool(value) and start < stop for start, stop in offsets], bool)
    if not isinstance(value, list):
        raise DataError(f"{where}: is {type(value).__name__}, expected spans [[start, stop], ...] or a list of 0 and 1")
    if not (value and all(mark in (0, 1) for mark in value)):
        spans = [_span(each, text, where) for each in value]
    elif len(value) == len(offsets):
        return np.array([mark == 1 for mark in value], bool)
    else:
        spans = _units(value, text, where, len(offsets))
    return _covered(spans, text, offsets)


def _read(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return [] if value is None else value
    if value and set(value) <= {"0", "1"}:
        return [int(mark) for mark in value]
    try:
        return json.loads(value or "[]")
    except ValueError as error:
        raise DataError(f"{where}: {value[:40]!r} is no list ({error})") from error


def _units(value: list[Any], text: str, where: str, tokens: int) -> list[tuple[int, int]]:
    """The spans of the characters, or of the words, that a list of 0 and 1 marks."""
    if len(value) == len(text):
        return [(i, i + 1) for i, mark in enumerate(value) if mark == 1]
    words = [match.span() for match in _WORD.finditer(text)]
    if len(value) != len(words):
        raise DataError(
            f"{where}: {len(value):,} marks for {tokens:,} tokens, {len(text):,} characters and {len(words):,} words; "
            "expected one each of any of these (tokens: by this model's tokenizer)"
        )
    return [word for word, mark in zip(words, value, strict=True) if mark == 1]


def _span(value: Any, text: str, where: str) -> tuple[int, int]:
    ends: Any = [value.get("start"), value.get("end", value.get("stop"))] if isinstance(value, dict) else value
    whole = isinstance(ends, list | tuple) and len(ends) == 2 and all(type(end) is int for end in ends)
    if not whole or not 0 <= ends[0] <= ends[1] <= len(text):
        raise DataError(f"{where}: {str(value)[:40]} is no span [start, stop] of a text of {len(text):,} characters")
    return ends[0], ends[1]


def _covered(spans: list[tuple[int, int]], text: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    inside = np.zeros(len(text) + 1, np.int64)
    for start, stop in spans:
        inside[start + 1 : stop + 1] = 1
    before = np.cumsum(inside)
    return np.array([before[stop] > before[start] for start, stop in offsets], bool)
