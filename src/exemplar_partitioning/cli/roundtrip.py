"""`ep roundtrip`: do regions of two models lead to each other and back?"""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .output import print_json
from .terminal import console, counted, table


def roundtrip(
    a: options.FolderA,
    b: options.FolderB,
    *,
    site: options.Site = None,
    percentile: options.Percentile = None,
    site_b: options.SiteB = None,
    percentile_b: options.PercentileB = None,
    text: options.Text = None,
    max_tokens: options.MaxTokens = 50_000,
    field: options.Field = "text",
    final: Annotated[bool, typer.Option("--final", help="Only the last token of each window (prompts).")] = False,
    model: options.ModelA = None,
    model_b: options.ModelB = None,
    as_json: options.Json = False,
) -> None:
    """From each region to the other model's and back: how many return, beside chance and beside the text alone."""
    from ..compare.roundtrip import roundtrip as run

    trips = run(
        options.chosen_dictionary(a, site, percentile),
        options.chosen_dictionary(b, site_b, percentile_b or percentile),
        text=options.sources(text),
        model_a=model,
        model_b=model_b,
        field=field,
        max_tokens=max_tokens,
        final=final,
    ).summary()
    if as_json:
        print_json(trips)
        return

    shown = table("trips", ">begun", ">returned", ">share", ">re-paired", ">highest", ">p")
    names = {"from_a": "A to B and back", "text_a": "  A through text alone", "from_b": "B to A and back"}
    for key, name in (names | {"text_b": "  B through text alone"}).items():
        t = trips[key]
        shown.add_row(
            name,
            f"{t['began']:,}",
            f"{t['returned']:,}",
            f"{t['share']:.1%}",
            f"{t['null_share']:.2%}",
            f"{t['null_high']:,}",
            f"{t['p']:.4f}",
        )
    for key in ("a", "b"):
        d = trips[key]
        console().print(
            f"{key.upper()}: {counted(d['k'], 'region')} of {d['model']} {d['site']} percentile {d['percentile']:g}"
        )
    console().print(f"through {counted(trips['units'], 'unit')}: {trips['kind']}")
    console().print(shown)
