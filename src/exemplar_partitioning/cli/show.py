"""`ep show`: what a folder of dictionaries holds, and which tokens its exemplars are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..visible import visible
from . import options

if TYPE_CHECKING:
    from ..store import StoredDictionary

_DOCUMENT = 26  # characters at most
_OTHER_COLUMNS = 6 + 8 + 5 + _DOCUMENT + 4 * 2  # beside the text


def show(
    path: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    site: Annotated[str | None, typer.Option(help="Only this site, e.g. resid_post.15.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Only this percentile.")] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Regions to list per dictionary.", show_default="5, or 20 of a single one"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON document.")] = False,
) -> None:
    """Show what is in it: dictionaries, their biggest regions, and the token each exemplar was observed at."""
    wanted = options.percentile(percentile) if percentile is not None else None

    from ..errors import EPError
    from ..store import find, load

    folders = find(path) if path.is_dir() else []
    chosen = [load(folder) for folder in folders]
    chosen = [
        d
        for d in chosen
        if (site is None or site in (d.config.site.name, d.config.site.transformer_lens, d.config.site.module_path))
        and (wanted is None or d.config.calibration.percentile == wanted)
    ]
    if not chosen:
        load(path, site=site, percentile=wanted)  # says what is wrong
        raise EPError(f"no dictionary in {path}")
    top = top or (20 if len(chosen) == 1 else 5)
    if as_json:
        typer.echo(json.dumps([_as_json(d, top) for d in chosen], ensure_ascii=False, indent=2))
    else:
        _print(path, chosen, top)


def biggest(dictionary: StoredDictionary, top: int) -> list[dict[str, Any]]:
    """The regions with most arrivals, as rows of regions.parquet."""
    table = dictionary.regions
    order = table.column("arrivals").to_numpy().argsort(kind="stable")[::-1][:top]
    return table.take(order).to_pylist()


def _as_json(dictionary: StoredDictionary, top: int) -> dict[str, Any]:
    return {
        "path": str(dictionary.path),
        "content_id": dictionary.content_id,
        "config": dictionary.config.model_dump(mode="json"),
        "biggest_regions": biggest(dictionary, top),
    }


def _print(path: Path, chosen: list[StoredDictionary], top: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..builder.settings import DictionarySummary
    from .display import dictionaries_table

    console = Console()
    first = chosen[0].config
    console.print(Text(f"{path}: {first.model.id} ({first.model.dtype}) on {first.text.source}", style="bold"))
    console.print(dictionaries_table(DictionarySummary.of(d.config) for d in chosen))
    width = max(20, console.width - _OTHER_COLUMNS)
    for d in chosen:
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
        table.title = f"\n{d.config.site.name} p{d.config.calibration.percentile:g}: biggest of {d.k:,} regions"
        table.add_column("region", justify="right", min_width=6)
        table.add_column("arrivals", justify="right", min_width=8)
        table.add_column("share", justify="right", min_width=5)
        table.add_column("exemplar after its context", justify="right", no_wrap=True, min_width=width)
        table.add_column("document", no_wrap=True, overflow="ellipsis", style="dim", max_width=_DOCUMENT)
        total = max(1, d.config.build.n_activations - d.config.build.skipped)
        for row in biggest(d, top):
            token = visible(row["token"])[:width]
            context = visible(row["context"])
            context = context[max(0, len(context) - width + len(token)) :]
            table.add_row(
                str(row["region"]),
                f"{row['arrivals']:,}",
                f"{row['arrivals'] / total:.1%}",
                Text.assemble((context, "dim"), (token, "bold reverse")),
                _shortened(visible(row["document"]), f" @{row['position']}"),
            )
        console.print(table)


def _shortened(document: str, position: str) -> str:
    room = _DOCUMENT - len(position)
    return (document if len(document) <= room else "\u2026" + document[-room + 1 :]) + position
