"""`ep tree`: dictionaries of one stream at several percentiles, from coarse to fine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from rich.tree import Tree as Branch

    from ..compare.tree import Tree

_CHILDREN = 12  # shown of a region


def tree(
    path: Annotated[Path, typer.Argument(help="Folder of a build.", metavar="DIR")],
    site: Annotated[str | None, typer.Option(help="Which site, where DIR holds several.")] = None,
    region: Annotated[
        str | None, typer.Option(help="A region: its ancestors and descendants.", show_default=False)
    ] = None,
    percentile: Annotated[str | None, typer.Option(help="Percentile of --region.", show_default="the coarsest")] = None,
    to: Annotated[
        str | None, typer.Option(help="Another region: the path to it at every percentile.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a display.")] = False,
) -> None:
    """Show how regions divide from coarse to fine; of one region, its family, or the path to another."""
    from ..compare.tree import paths
    from ..compare.tree import tree as grow
    from ..errors import EPError
    from ..folder.labels import Labels

    if region is None and (to is not None or percentile is not None):
        raise EPError("--percentile and --to go with --region, the number of a region")
    found = grow(options.dictionaries(path, site, None))
    level = found.level(options.percentile(percentile)) if percentile is not None else 0
    if region is None:
        _levels(found, as_json)
        return
    labels = [Labels.read(d) for d in found.levels]

    def name(at: int, index: int) -> dict[str, Any]:
        percentile = found.levels[at].config.calibration.percentile
        return {"percentile": percentile, "region": index, "label": labels[at].best(index).text}

    start = options.region(region)
    if to is not None:
        steps = paths(found, level, start, options.region(to))
        _paths([[name(at, index) for index in steps[at]] for at in range(len(steps))], found, as_json)
        return
    above = found.ancestors(level, start)
    family = {
        "ancestors": [name(level - 1 - i, index) for i, index in enumerate(above)],
        **_family(found, level, start, name),
    }
    if as_json:
        typer.echo(json.dumps(family, ensure_ascii=False))
        return
    from rich.tree import Tree as Branch

    from .terminal import console

    chain = [*reversed(family["ancestors"]), family]
    top = branch = Branch(_line(chain[0]))
    for node in chain[1:]:
        branch = branch.add(_line(node))
    _grow(branch, family)
    console().print(top)


def _family(tree: Tree, level: int, region: int, name: Any) -> dict[str, Any]:
    children = [_family(tree, level + 1, child, name) for child in tree.children(level, region)]
    return {**name(level, region), "children": children}


def _line(node: dict[str, Any]) -> str:
    from ..text.visible import visible

    return f"p{node['percentile']:g} {node['region']}  {visible(node['label'])}"


def _grow(branch: Branch, node: dict[str, Any]) -> None:
    for child in node["children"][:_CHILDREN]:
        _grow(branch.add(_line(child)), child)
    if (more := len(node["children"]) - _CHILDREN) > 0:
        branch.add(f"and {more} more")


def _levels(tree: Tree, as_json: bool) -> None:
    rows = tree.summary()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from rich.table import Table

    from .terminal import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("p", "theta", "regions", "that split", "childless", "kept exemplar", "nested", "by chance"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        shares = [row[key] for key in ("split", "childless", "same_exemplar", "nested", "nested_chance")]
        table.add_row(
            f"{row['percentile']:g}",
            f"{row['threshold']:.4f}",
            f"{row['k']:,}",
            *("" if share is None else f"{share:.1%}" for share in shares),
        )
    console().print(table)


def _paths(steps: list[list[dict[str, Any]]], tree: Tree, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(steps, ensure_ascii=False))
        return
    from .terminal import console

    for d, nodes in zip(tree.levels, steps, strict=True):
        console().print(f"p{d.config.calibration.percentile:g}: " + (f"{len(nodes) - 1} steps" if nodes else "no path"))
        for node in nodes:
            console().print("  " + _line(node).split(" ", 1)[1], no_wrap=True, overflow="ellipsis")
