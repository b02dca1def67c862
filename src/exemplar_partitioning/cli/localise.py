"""`ep localise`: the regions that carry a behaviour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Column
from rich.text import Text

from ..text.visible import visible
from . import options
from .chosen import Chosen, of_dictionary
from .output import print_json
from .terminal import console, fixed, interval, table


@of_dictionary
def localise(
    chosen: Chosen,
    *,
    showing: Annotated[Path, typer.Option(help="Prompts that show the behaviour: .txt, one a line, or .jsonl, .csv.")],
    others: Annotated[Path, typer.Option(help="Prompts that do not.")],
    position: Annotated[
        Literal["final", "any"],
        typer.Option(help="final: a prompt meets the region of its last token; any: of any of its tokens."),
    ] = "final",
    field: Annotated[str, typer.Option(help="Column or key that holds the prompts.")] = "text",
    chat: options.Chat = None,
    top: Annotated[int, typer.Option(min=1, help="Regions to list.")] = 20,
    as_json: options.Json = False,
) -> None:
    """Find the regions whose prompts show a behaviour: rates with intervals, lift, p corrected for their number."""
    from ..act.localise import localise as run
    from ..folder.labels import Labels
    from ..text.documents import read_prompts

    dictionary = chosen.dictionary
    with_it, without = read_prompts(showing, field), read_prompts(others, field)
    rates = run(
        dictionary,
        chosen.loaded,
        with_it + without,
        [True] * len(with_it) + [False] * len(without),
        position=position,
        chat=chat,
    )[:top]
    labels = Labels.read(dictionary)
    if as_json:
        rows = [vars(rate) | {"label": labels.best(rate.region).text} for rate in rates]
        print_json(rows)
        return

    shown = table(
        *(">region", ">prompts", ">showing", ">rate (95 %)", ">lift", ">p"),
        Column("label", overflow="ellipsis", no_wrap=True, max_width=30),
    )
    for rate in rates:
        shown.add_row(
            str(rate.region),
            f"{rate.prompts:,}",
            f"{rate.showing:,}",
            interval((rate.rate, rate.low, rate.high)),
            fixed(rate.lift, 1),
            f"{rate.p:.1e}" if rate.p < 0.001 else f"{rate.p:.3f}",
            Text(visible(labels.best(rate.region).text)),
        )
    console().print(shown)
