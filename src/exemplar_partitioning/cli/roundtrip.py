"""`ep roundtrip`: do regions of two models lead to each other and back?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options


def roundtrip(
    a: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Folder of the other, of any model.", metavar="B")],
    site: Annotated[str | None, typer.Option(help="Site of A, where the folder holds several.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Percentile of A, where the folder holds several.")] = None,
    site_b: Annotated[str | None, typer.Option(help="Site of B, where the folder holds several.")] = None,
    percentile_b: Annotated[str | None, typer.Option(help="Percentile of B.", show_default="that of A")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text whose tokens lead from region to region.", show_default="the exemplars themselves"),
    ] = None,
    max_tokens: Annotated[str, typer.Option(help="Tokens of it to read.")] = "50_000",
    field: Annotated[str, typer.Option(help="Column or key that holds the text.")] = "text",
    final: Annotated[bool, typer.Option("--final", help="Only the last token of each window (prompts).")] = False,
    model: Annotated[str | None, typer.Option(help="Where A's model is, if it has moved.", show_default=False)] = None,
    model_b: Annotated[str | None, typer.Option(help="Where B's model is.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> None:
    """From each region to the other model's and back: how many return, beside chance and beside the text alone."""
    from ..compare.roundtrip import roundtrip as run

    tokens = options.count(max_tokens)
    found = run(
        options.one_dictionary(a, site, percentile),
        options.one_dictionary(b, site_b, percentile_b or percentile),
        text=options.sources(text),
        model_a=model,
        model_b=model_b,
        field=field,
        max_tokens=tokens,
        final=final,
    ).summary()
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    from rich.table import Table

    from .terminal import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trips")
    for name in ("begun", "returned", "share", "re-paired", "highest", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    names = {"from_a": "A to B and back", "text_a": "  A through text alone", "from_b": "B to A and back"}
    for key, name in (names | {"text_b": "  B through text alone"}).items():
        t = found[key]
        table.add_row(
            name,
            f"{t['began']:,}",
            f"{t['returned']:,}",
            f"{t['share']:.1%}",
            f"{t['null_share']:.2%}",
            f"{t['null_high']:,}",
            f"{t['p']:.4f}",
        )
    for key in ("a", "b"):
        d = found[key]
        console().print(f"{key.upper()}: {d['k']:,} regions of {d['model']} {d['site']} p{d['percentile']:g}")
    console().print(f"through {found['units']:,} units: {found['kind']}")
    console().print(table)
