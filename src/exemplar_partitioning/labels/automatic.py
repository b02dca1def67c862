"""A short label from what is counted: the members' tokens, the tokens before them, what the lens promotes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..visible import visible

_MOST = 0.5  # share of the members that makes a token speak for the region
_OFTEN = 0.05  # share that makes it worth a mention beside others
_TOKEN = 20  # characters of a token at most
_CONTEXT = 24  # characters of context at most


def automatic(region_row: dict[str, Any] | None, exemplar_row: dict[str, Any]) -> str:
    """Label of a region from its row of the annotation and its exemplar's row (docs/format.md).

    Says the token most members are, with its share, or else the 2 to 4 most telling; the token before, where
    most members share it; and what the mean direction promotes. Tokens that differ only in case or
    space around them count as one. Without annotation (None) or members: the exemplar's token and what
    came before it. Never empty, always one line, at most about 150 characters.
    """
    if region_row is None or not region_row["members"]:
        return _observed(exemplar_row)
    members = region_row["members"]
    groups = _groups(region_row["top_tokens"])
    if not groups:
        return _observed(exemplar_row)
    first = max(groups, key=lambda group: group["count"])
    if first["count"] >= _MOST * members:
        heads, said = [first], f"{quoted(first)} {first['count'] / members:.0%}"
    else:
        often = sum(group["count"] >= _OFTEN * members for group in groups[:4])
        heads = groups[: max(2, often)]
        said = " ".join(map(quoted, heads))
    before = [group for group in _groups(region_row["before_tokens"]) if group["count"] >= _MOST * members]
    if before:
        said += f" after {quoted(before[0])}"
    known = {_key(group["token"]) for group in heads}
    lens = [row for row in _groups(region_row["mean_lens_top"]) if _is_word(row["token"]) and row["key"] not in known]
    if lens:
        said += " \u2192 " + " ".join(map(quoted, lens[:2]))
    return said


def quoted(row: dict[str, Any]) -> str:
    """A token in quotes, so that every one can be told: spaces and invisible characters by name, long ones cut."""
    token = row["token"]
    if not token.replace("\ufffd", ""):  # part of a character
        return f"token {row['token_id']}"
    if not (text := token.strip(" ")):
        return "\u201c\u2423\u201d" if len(token) == 1 else f"\u201c\u2423\u201d \u00d7 {len(token)}"
    if not (shown := visible(text)).replace("\ufffd", "").strip():
        shown = " ".join(f"U+{ord(c):04X}" for c in text[:2])
    if len(shown) > _TOKEN:
        shown = shown[: _TOKEN - 1] + "\u2026"
    return f"\u201c{shown}\u201d"


def _observed(exemplar_row: dict[str, Any]) -> str:
    """The exemplar's token after the last words before it."""
    words, context = " ".join(exemplar_row["context"][-200:].split()), ""
    for word in reversed(words.split(" ")):
        if len(word) + len(context) >= _CONTEXT:
            break
        context = f"{word} {context}".strip()
    return quoted(exemplar_row) + (f" after \u201c{visible(context)}\u201d" if context else "")


def _key(token: str) -> str:
    return token.strip().casefold() or token


def _groups(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of tokens, those that differ only in case or space taken together under the first of them."""
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = _key(row["token"]) if row["token"].replace("\ufffd", "") else f"token {row['token_id']}"
        if key in groups and "count" in row:
            groups[key]["count"] += row["count"]
        else:
            groups.setdefault(key, {**row, "key": key})
    return list(groups.values())


def _is_word(token: str) -> bool:
    return "\ufffd" not in token and any(c.isalnum() for c in token)
