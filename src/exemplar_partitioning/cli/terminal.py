"""Tokens on a terminal: made safe, cut to columns, shaded by distance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from math import isfinite
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ..text.visible import visible

MARGIN = 11  # columns of the names on the left
# within theta / 2, within theta, within half way from theta to 1
_SHADES = ("bold white on color(24)", "white on color(31)", "black on color(152)")


def console() -> Console:
    """Standard output; characters that its encoding lacks become question marks."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False)


def table(*columns: str | Column, title: str | None = None) -> Table:
    """A table without lines; a name that begins with > is that of a column of figures, to the right."""
    parsed = [
        column
        if isinstance(column, Column)
        else Column(column[1:], justify="right", no_wrap=True)
        if column.startswith(">")
        else Column(column)
        for column in columns
    ]
    return Table(
        *parsed,
        box=None,
        pad_edge=False,
        header_style="bold",
        title=title,
        title_justify="left",
        title_style="bold",
    )


def counted(number: int, what: str) -> str:
    """A number of things, `1 region` or `2 regions`."""
    plural = what if number == 1 else f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {plural}"


def fixed(value: float | None, digits: int = 3) -> str:
    """So many digits after the point, never -0.00; empty where the value is not known."""
    return "" if value is None or not isfinite(value) else f"{value:z.{digits}f}"


def interval(estimate: tuple[float, float, float] | list[float], digits: int = 2) -> str:
    """An estimate and where it lies in 95 % of cases."""
    value, low, high = (fixed(part, digits) for part in estimate)
    return f"{value} ({low}-{high})" if value else ""


def shade(distance: float | None, threshold: float) -> str:
    """Style of a token by its distance: the nearer, the darker."""
    if distance is None:
        return ""
    limits = (threshold / 2, threshold, (threshold + 1) / 2)
    return next((style for style, limit in zip(_SHADES, limits, strict=True) if distance <= limit), "")


def cut(text: str, room: int) -> str:
    """The beginning of a text, in so many columns."""
    shown = Text(text)
    shown.truncate(max(0, room), overflow="ellipsis")
    return shown.plain


def ending(text: str, room: int) -> str:
    """The end of a text, in so many columns."""
    text = text[-room:] if room > 0 else ""
    while cell_len(text) > room:
        text = text[1:]
    return text


def place(row: dict[str, Any], room: int) -> str:
    """Where a token was observed, the end of the document's name if need be."""
    document, position = visible(row["document"]), f" @{row['position']}"
    room -= len(position)
    return (document if cell_len(document) <= room else "\u2026" + ending(document, room - 1)) + position


def highlighted(token: str, marked: bool) -> Text:
    """A token set off from those around it; by characters where there are no colours."""
    if not marked:
        return Text.assemble((token, "bold reverse"))
    word = token.lstrip(" ") or token
    return Text(f"{token.removesuffix(word)}\u00ab{word}\u00bb")


def in_context(tokens: Sequence[str], at: int, styles: Sequence[str], width: int, *, marked: bool) -> Text:
    """Tokens in `width` columns, the one at `at` highlighted and ending at 60 % of them.

    Such lines, one below the other, have their tokens in one place.
    """
    middle = highlighted(cut(visible(tokens[at]), width // 2), marked)
    room = width * 6 // 10 - middle.cell_len
    before: list[tuple[str, str]] = []
    for index in range(at - 1, -1, -1):
        piece = ending(visible(tokens[index]), room)
        before.insert(0, (piece, styles[index]))
        room -= cell_len(piece)
    after = [(visible(tokens[index])[:width], styles[index]) for index in range(at + 1, len(tokens))]
    line = Text.assemble(" " * room, *before, middle, *after, no_wrap=True)
    line.truncate(width, pad=True)
    return line


def named(name: str, *parts: str | Text | tuple[str, str]) -> Table:
    """A name on the left and what it says beside it, wrapped below itself."""
    grid = Table.grid(padding=0)
    grid.add_column(width=MARGIN, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(name, Text.assemble(*parts))
    return grid
