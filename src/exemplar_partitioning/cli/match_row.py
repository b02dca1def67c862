"""`ep match --row`: regions along dictionaries in a row, as a table, files and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Column

from .output import print_json, write_tables
from .terminal import console, fixed, table

if TYPE_CHECKING:
    from ..compare.row import Row


def tell(row: Row, *, out: Path | None, csv: bool, as_json: bool) -> None:
    """Show a row, and write summary.json, its table and persistence.svg to a folder."""
    if out is not None:
        from ..show.figures import to_bytes
        from ..show.persistence import persistence

        picture = to_bytes(persistence(row), "svg")
        write_tables(out, row.summary(), {"row": row.table()}, csv=csv, persistence=picture)
    if as_json:
        print_json(row.summary())
        return
    figures = ("regions", "persisted", "by chance", "new", "cosine", "null", "since first")
    shown = table(
        Column("dictionary", min_width=12, overflow="ellipsis", no_wrap=True), *(f">{name}" for name in figures)
    )
    for each in row.rows():
        counts = ["" if each[key] is None else f"{each[key]:,.0f}" for key in ("persisted", "by_chance", "introduced")]
        cosines = [fixed(each[key], 2) for key in ("cosine", "cosine_null")]
        first = f"{each['begun'][0] / each['regions']:.1%}"
        shown.add_row(each["name"], f"{each['regions']:,}", *counts, *cosines, first)
    screen, step = console(), row.steps[0]
    screen.print(shown)
    screen.print(
        f"\npersisted: regions of the one before that are found here, at {step.false_alarms:.0%} false alarms under "
        f"{step.null.name}; by chance: how many would be without correspondence; cosine: the median of best matches; "
        "since first: regions that go back to the first dictionary from each to its nearest before"
    )
    if out is not None:
        typer.echo(f"a picture: {out / 'persistence.svg'}")
