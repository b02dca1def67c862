"""`ep localise`: the regions that carry a behaviour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options


def localise(
    path: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    showing: Annotated[Path, typer.Option(help="Prompts that show the behaviour: .txt, one a line, or .jsonl, .csv.")],
    others: Annotated[Path, typer.Option(help="Prompts that do not.")],
    position: Annotated[
        str, typer.Option(help="final: a prompt meets the region of its last token; any: of any of its tokens.")
    ] = "final",
    field: Annotated[str, typer.Option(help="Column or key that holds the prompts.")] = "text",
    chat: Annotated[
        bool | None, typer.Option("--chat/--raw", help="Use the chat template or not.", show_default="if there is one")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Regions to list.")] = 20,
    site: Annotated[str | None, typer.Option(help="Dictionary: its site.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Dictionary: its percentile.")] = None,
    model: Annotated[str | None, typer.Option(help="Where the model is, if it has moved.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> None:
    """Find the regions whose prompts show a behaviour: rates with intervals, lift, p corrected for their number."""
    from typing import cast

    from ..act.localise import Position
    from ..act.localise import localise as run
    from ..api import load
    from ..errors import EPError
    from ..folder.labels import Labels
    from ..reading import model_of
    from ..text.documents import read_prompts

    if position not in ("final", "any"):
        raise EPError(f"--position is {position!r}; expected final or any")
    wanted = options.percentile(percentile) if percentile is not None else None
    dictionary = load(path, site=site, percentile=wanted)
    with_it, without = read_prompts(showing, field), read_prompts(others, field)
    found = run(
        dictionary,
        model_of(dictionary, model),
        with_it + without,
        [True] * len(with_it) + [False] * len(without),
        position=cast(Position, position),
        chat=chat,
    )[:top]
    labels = Labels.read(dictionary)
    if as_json:
        rows = [vars(rate) | {"label": labels.best(rate.region).text} for rate in found]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    from ..text.visible import visible
    from .terminal import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("region", "prompts", "showing", "rate (95 %)", "lift", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("label", overflow="ellipsis", no_wrap=True, max_width=30)
    for rate in found:
        table.add_row(
            str(rate.region),
            f"{rate.prompts:,}",
            f"{rate.showing:,}",
            f"{rate.rate:.2f} ({rate.low:.2f}-{rate.high:.2f})",
            f"{rate.lift:.1f}",
            f"{rate.p:.1e}" if rate.p < 0.001 else f"{rate.p:.3f}",
            Text(visible(labels.best(rate.region).text)),
        )
    console().print(table)
