"""A short label from what is counted: the members' tokens, the tokens before them, what the lens promotes."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Any

from ..text.visible import visible

_MOST = 0.5  # share of the members that makes a token speak for the region
_OFTEN = 0.05  # share that makes it worth a mention beside others
_BEFORE = 0.1  # share of the members that a token before them needs to be worth one
_TOKEN = 20  # characters of a token at most
_CONTEXT = 24  # characters of context at most
_PLACE = 60  # characters of the name of a row at most


def automatic(
    region_row: dict[str, Any] | None, exemplar_row: dict[str, Any], common: Container[str] = frozenset()
) -> str:
    """Label of a region from its row of the annotation and its exemplar's row (docs/format.md).

    Says the token most members are, with its share, or else the 2 to 4 most telling; and tokens that often come
    just before. Where the tokens are many, also what exemplar and mean both promote, but for `common` tokens,
    which any direction may promote. Tokens that differ only in case or space around them count as one.
    Without annotation (None), members or known tokens: the exemplar's token and what came before it, else its row.
    Never empty, always one line, at most about 150 characters.
    """
    known = region_row is not None and any(row["token_id"] >= 0 for row in region_row["top_tokens"])
    if region_row is None or not known or not region_row["members"]:
        return _observed(exemplar_row)
    members = region_row["members"]
    groups = _groups(region_row["top_tokens"])
    first = max(groups, key=lambda group: group["count"])
    if first["count"] >= _MOST * members:
        heads, parts = [first], f"{quoted(first)} {min(1, first['count'] / members):.0%}"
    else:
        often = sum(group["count"] >= _OFTEN * members for group in groups[:4])
        heads = groups[: max(2, often)]
        parts = " ".join(map(quoted, heads))
    before = [group for group in _groups(region_row["before_tokens"]) if group["count"] >= _BEFORE * members]
    if before:
        parts += " after " + " ".join(map(quoted, before[:2]))
    if sum(group["count"] for group in heads) < _MOST * members:
        lens = _promoted(region_row, common)
        parts += " \u2192 " + " ".join(lens[:2]) if lens else ""
    return parts


def _promoted(region_row: dict[str, Any], common: Container[str]) -> list[str]:
    """Whole words that the exemplar and the mean direction both promote."""
    both = {row["token"] for row in region_row["lens_top"]}
    return [
        quoted(row)
        for row in region_row["mean_lens_top"]
        if row["token"] in both and row["token"] not in common and re.fullmatch(r" [^\W\d_]{2,}", row["token"])
    ]


def quoted(row: dict[str, Any], longest: int = _TOKEN) -> str:
    """A token in quotes, so that every one can be told: spaces and invisible characters by name, long ones cut."""
    token = row["token"]
    if not token.replace("\ufffd", ""):  # part of a character
        return f"token {row['token_id']}"
    if not (text := token.strip(" ")):
        return "\u201c\u2423\u201d" if len(token) == 1 else f"\u201c\u2423\u201d \u00d7 {len(token)}"
    if not (shown := visible(text)).replace("\ufffd", "").strip():
        shown = " ".join(f"U+{ord(c):04X}" for c in text[:2])
    if len(shown) > longest:
        shown = shown[: longest - 1] + "\u2026"
    return f"\u201c{shown}\u201d"


def _observed(exemplar_row: dict[str, Any]) -> str:
    """The exemplar's token after the last words before it; where no token is known, the row it was."""
    if exemplar_row["token_id"] < 0 and not exemplar_row["token"] and "document" in exemplar_row:
        return visible(exemplar_row["document"])[-_PLACE:]
    words, context = " ".join(exemplar_row["context"][-200:].split()), ""
    for word in reversed(words.split(" ")):
        if len(word) + len(context) >= _CONTEXT:
            break
        context = f"{word} {context}".strip()
    return quoted(exemplar_row) + (f" after \u201c{visible(context)}\u201d" if context else "")


def _groups(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of counted tokens, those that differ only in case or space taken together under the first of them."""
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        group = groups.setdefault(quoted(row).casefold(), row | {"count": 0})
        group["count"] += row["count"]
    return list(groups.values())
