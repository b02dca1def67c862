"""`ep show`: what a folder of dictionaries holds; one region; a text through a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len
from rich.table import Column, Table
from rich.text import Text

from ..errors import EPError
from ..text.visible import visible
from . import options
from .output import print_json
from .terminal import console, counted, cut, ending, fixed, place, table

if TYPE_CHECKING:
    from ..folder.listing import OnDisk

_FIRST = {"interest": "most telling", "members": "biggest"}
_DOCUMENT = 26  # columns at most
_LISTED = 20  # dictionaries; of more, the regions of one are listed: labels of 150 take minutes
_WIDE = 120  # columns from which labels leave room for documents


def show(
    path: options.Folder,
    *,
    site: options.Site = None,
    percentile: options.Percentile = None,
    region: Annotated[int | None, typer.Option(help="Everything about this region.")] = None,
    text: Annotated[str | None, typer.Option(help="Read this text: the region of every token.")] = None,
    file: Annotated[Path | None, typer.Option(help="Read this text file.")] = None,
    model: options.Model = None,
    trust_remote_code: options.RemoteCode = False,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Regions to list per dictionary; examples of each kind for a region.",
            show_default="5; 20 regions of a single dictionary",
        ),
    ] = None,
    sort: options.Sort = "interest",
    as_json: options.Json = False,
) -> None:
    """Show what is in it: dictionaries and their most telling regions; one region; or a text, token by token.

    A region's context and examples are shaded by distance to its exemplar: the nearer, the darker.
    """
    if sum(given is not None for given in (region, text, file)) > 1:
        raise EPError("--region, --text and --file are three views: give one of them")
    if region is None and text is None and file is None:
        _show_all(path, options.listed(path, site, percentile), top, sort, as_json)
        return
    dictionary = options.chosen_dictionary(path, site, percentile)
    if region is not None:
        from . import show_region

        shown = show_region.view(dictionary, region)
        print_json(shown) if as_json else show_region.print_region(shown, top or 5)
    else:
        from . import show_text

        shown = show_text.view(
            dictionary,
            show_text.text_of(file) if file else text or "",
            options.reader(dictionary.path, model, trust_remote_code),
        )
        print_json(shown) if as_json else show_text.print_text(shown)


def _show_all(path: Path, chosen: Sequence[OnDisk], top: int | None, sort: str, as_json: bool) -> None:
    for dictionary in chosen:
        dictionary.verified("exemplars.safetensors")
    top = top or (20 if len(chosen) == 1 else 5)
    if as_json:
        print_json([_as_json(d, top, sort) for d in chosen])
    else:
        _print_all(path, chosen, top, sort)


def first(dictionary: OnDisk, top: int, sort: str) -> list[dict[str, Any]]:
    """The first regions of an order, as rows of regions.parquet with `members`, `label`, and how interesting they are.

    Without annotation, those with the largest online counts, and none of these.
    """
    from ..folder.interest import ordered
    from ..folder.labels import Labels

    order = ordered(dictionary, sort)[:top]
    rows = dictionary.regions.take(order).to_pylist()
    if dictionary.annotated:
        interest = dictionary.annotation.interest
        labels = Labels.read(dictionary).some(order.tolist())
        for row, label in zip(rows, labels, strict=True):
            members = interest.members[row["region"]].item()
            row |= {"members": members, "label": label.text, "label_score": label.score} | interest.row(row["region"])
    return rows


def _as_json(dictionary: OnDisk, top: int, sort: str) -> dict[str, Any]:
    return {
        "path": str(dictionary.path),
        "content_id": dictionary.content_id,
        "config": dictionary.config.model_dump(mode="json"),
        "biggest_regions": first(dictionary, top, "members"),
        "regions": first(dictionary, top, sort),
    }


def _print_all(path: Path, chosen: Sequence[OnDisk], top: int, sort: str) -> None:
    from ..folder.interest import ENOUGH, advised
    from ..folder.summary import DictionarySummary
    from .display import dictionaries_table

    out = console()
    config = chosen[0].config
    title = f"{path}: {config.model.id} ({config.model.dtype}) on {config.text.source}"
    out.print(Text(visible(title), style="bold"))
    out.print(dictionaries_table(DictionarySummary.of(d.config) for d in chosen))
    if (best := advised(chosen)) is not None:
        config, share = best[0].config, best[1]
        told = f"{share:.0%} of its regions hold {ENOUGH} members or more, and several words"
        out.print(f"To read first: percentile {config.calibration.percentile:g} of {config.site.name}; {told}")
    listed = chosen if len(chosen) <= _LISTED else [best[0] if best else chosen[0]]
    for d in listed:
        out.print(_table(d, top, sort, out.width))
    if len(listed) < len(chosen):
        out.print(f"\nRegions of the other {len(chosen) - 1} dictionaries are shown by --site and --percentile")


def _table(dictionary: OnDisk, top: int, sort: str, width: int) -> Table:

    annotation = dictionary.annotation if dictionary.annotated else None
    config = dictionary.config
    size, heading = ("members", "members") if annotation else ("arrivals", "online count")
    total = annotation.record.n_activations if annotation else config.build.n_activations - config.build.skipped
    documents, detection = not annotation or width >= _WIDE, annotation is not None and width >= _WIDE
    sizes = max(8, len(heading))
    room = max(20, width - 6 - sizes - 5 - 3 * 2 - 11 * detection - (_DOCUMENT + 2) * documents)
    label_room = (room - 2) * 3 // 5 if annotation else 0
    context_room = room - label_room - (2 if annotation else 0)
    shown = table(
        Column("region", justify="right", min_width=6),
        Column(heading, justify="right", min_width=sizes),
        Column("share", justify="right", min_width=5),
        *([Column("label", no_wrap=True, width=label_room)] if annotation else []),
        *([Column("detection", justify="right", min_width=9)] if detection else []),
        Column("exemplar in context", justify="right", no_wrap=True, width=context_room),
        *([Column("document", no_wrap=True, style="dim", width=_DOCUMENT)] if documents else []),
        title=f"\n{config.site.name} percentile {config.calibration.percentile:g}: "
        f"{_FIRST[sort if annotation else 'members']} of {counted(dictionary.k, 'region')}",
    )
    for row in first(dictionary, top, sort):
        token = cut(visible(row["token"]), context_room)
        context = ending(visible(row["context"]), context_room - cell_len(token))
        cells: list[str | Text] = [str(row["region"]), f"{row[size]:,}", f"{row[size] / max(1, total):.1%}"]
        if annotation:
            cells.append(cut(visible(row["label"]), label_room))
        if detection:
            cells.append(fixed(row["label_score"], 2))
        cells.append(Text.assemble((context, "dim"), (token, "bold reverse")))
        if documents:
            cells.append(place(row, _DOCUMENT))
        shown.add_row(*cells)
    return shown
