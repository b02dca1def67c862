"""`ep show`: what a folder of dictionaries holds; one region; a text through a dictionary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..text.visible import visible
from . import options

if TYPE_CHECKING:
    from rich.table import Table

    from ..folder.dictionary import StoredDictionary

_DOCUMENT = 26  # columns at most
_WIDE = 120  # columns from which labels leave room for documents


def show(
    path: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    site: Annotated[str | None, typer.Option(help="Only this site, e.g. resid_post.15.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Only this percentile.")] = None,
    region: Annotated[int | None, typer.Option(help="Everything about this region.", show_default=False)] = None,
    text: Annotated[
        str | None, typer.Option(help="Read this text: the region of every token.", show_default=False)
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Read this text file.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the model is that reads, if it has moved.", show_default=False)
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Regions to list per dictionary; examples of each kind for a region.",
            show_default="5; 20 regions of a single dictionary",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON document.")] = False,
) -> None:
    """Show what is in it: dictionaries and their biggest regions; one region; or a text, token by token.

    A region's context and examples are shaded by distance to its exemplar: the nearer, the darker.
    """
    from ..api import load
    from ..errors import EPError

    wanted = options.percentile(percentile) if percentile is not None else None
    if sum(given is not None for given in (region, text, file)) > 1:
        raise EPError("--region, --text and --file are three views: give one of them")
    if region is None and text is None and file is None:
        _show_all(path, site, wanted, top, as_json)
        return
    dictionary = load(path, site=site, percentile=wanted)
    if region is not None:
        from . import show_region

        shown = show_region.view(dictionary, region)
        _print_json(shown) if as_json else show_region.print_region(shown, top or 5)
    else:
        from . import show_text

        shown = show_text.view(dictionary, show_text.text_of(file) if file else text or "", model)
        _print_json(shown) if as_json else show_text.print_text(shown)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _show_all(path: Path, site: str | None, percentile: float | None, top: int | None, as_json: bool) -> None:
    chosen = options.dictionaries(path, site, percentile)
    top = top or (20 if len(chosen) == 1 else 5)
    if as_json:
        _print_json([_as_json(d, top) for d in chosen])
    else:
        _print_all(path, chosen, top)


def biggest(dictionary: StoredDictionary, top: int) -> list[dict[str, Any]]:
    """The regions with most members, as rows of regions.parquet with `members` and `label`.

    Without annotation, those with most arrivals, and neither.
    """
    from ..folder.labels import Labels
    from .show_region import annotation_of

    annotation = annotation_of(dictionary)
    table = annotation.regions.select(["members"]) if annotation else dictionary.regions.select(["arrivals"])
    order = table.column(0).to_numpy().argsort(kind="stable")[::-1][:top]
    rows = dictionary.regions.take(order).to_pylist()
    if annotation:
        labels = Labels.read(dictionary)
        for row, members in zip(rows, table.take(order).column(0).to_pylist(), strict=True):
            row |= {"members": members, "label": labels.best(row["region"]).text}
    return rows


def _as_json(dictionary: StoredDictionary, top: int) -> dict[str, Any]:
    return {
        "path": str(dictionary.path),
        "content_id": dictionary.content_id,
        "config": dictionary.config.model_dump(mode="json"),
        "biggest_regions": biggest(dictionary, top),
    }


def _print_all(path: Path, chosen: list[StoredDictionary], top: int) -> None:
    from rich.text import Text

    from ..building.settings import DictionarySummary
    from .display import dictionaries_table
    from .terminal import console

    out = console()
    first = chosen[0].config
    title = f"{path}: {first.model.id} ({first.model.dtype}) on {first.text.source}"
    out.print(Text(visible(title), style="bold"))
    out.print(dictionaries_table(DictionarySummary.of(d.config) for d in chosen))
    for d in chosen:
        out.print(_biggest_table(d, top, out.width))


def _biggest_table(dictionary: StoredDictionary, top: int, width: int) -> Table:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from .show_region import annotation_of
    from .terminal import cut, ending, place

    annotation, config = annotation_of(dictionary), dictionary.config
    size = "members" if annotation else "arrivals"
    total = annotation.record.n_activations if annotation else config.build.n_activations - config.build.skipped
    documents = not annotation or width >= _WIDE
    room = max(20, width - 6 - 8 - 5 - 3 * 2 - (_DOCUMENT + 2 if documents else 0))
    label_room = (room - 2) * 3 // 5 if annotation else 0
    context_room = room - label_room - (2 if annotation else 0)
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
    table.title = f"\n{config.site.name} p{config.calibration.percentile:g}: biggest of {dictionary.k:,} regions"
    table.add_column("region", justify="right", min_width=6)
    table.add_column(size, justify="right", min_width=8)
    table.add_column("share", justify="right", min_width=5)
    if annotation:
        table.add_column("label", no_wrap=True, width=label_room)
    table.add_column("exemplar in context", justify="right", no_wrap=True, width=context_room)
    if documents:
        table.add_column("document", no_wrap=True, style="dim", width=_DOCUMENT)
    for row in biggest(dictionary, top):
        token = cut(visible(row["token"]), context_room)
        context = ending(visible(row["context"]), context_room - cell_len(token))
        cells: list[str | Text] = [str(row["region"]), f"{row[size]:,}", f"{row[size] / max(1, total):.1%}"]
        if annotation:
            cells.append(cut(visible(row["label"]), label_room))
        cells.append(Text.assemble((context, "dim"), (token, "bold reverse")))
        if documents:
            cells.append(place(row, _DOCUMENT))
        table.add_row(*cells)
    return table
