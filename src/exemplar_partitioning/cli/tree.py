"""`ep tree`: dictionaries of one stream at several percentiles, from coarse to fine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.tree import Tree as Branch

from ..errors import EPError
from ..text.visible import visible
from . import options
from .output import print_json
from .terminal import console, counted, table

if TYPE_CHECKING:
    from ..compare.tree import Tree

_CHILDREN = 12  # shown of a region


def tree(
    path: Annotated[Path, typer.Argument(help="Folder of a build.", metavar="DIR")],
    *,
    site: options.Site = None,
    region: Annotated[int | None, typer.Option(help="A region: its ancestors and descendants.")] = None,
    percentile: Annotated[
        float | None,
        typer.Option(
            help="Percentile of --region.", parser=options.percentile, metavar="NUMBER", show_default="the coarsest"
        ),
    ] = None,
    to: Annotated[int | None, typer.Option(help="Another region: the path to it at every percentile.")] = None,
    as_json: options.Json = False,
) -> None:
    """Show how regions divide from coarse to fine; of one region, its family, or the path to another."""
    from ..compare.tree import paths
    from ..compare.tree import tree as grow
    from ..folder.labels import Labels

    if region is None and (to is not None or percentile is not None):
        raise EPError("--percentile and --to go with --region, the number of a region")
    levels = grow(options.dictionaries(path, site, None))
    level = levels.level(percentile) if percentile is not None else 0
    if region is None:
        _levels(levels, as_json)
        return
    labels = [Labels.read(d) for d in levels.levels]

    def name(at: int, index: int) -> dict[str, Any]:
        percentile = levels.levels[at].config.calibration.percentile
        return {"percentile": percentile, "region": index, "label": labels[at].best(index).text}

    if to is not None:
        steps = paths(levels, level, region, to)
        _paths([[name(at, index) for index in steps[at]] for at in range(len(steps))], levels, as_json)
        return
    above = levels.ancestors(level, region)
    family = {
        "ancestors": [name(level - 1 - i, index) for i, index in enumerate(above)],
        **_family(levels, level, region, name),
    }
    if as_json:
        print_json(family)
        return

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
    return f"percentile {node['percentile']:g} region {node['region']}  {visible(node['label'])}"


def _grow(branch: Branch, node: dict[str, Any]) -> None:
    for child in node["children"][:_CHILDREN]:
        _grow(branch.add(_line(child)), child)
    if (more := len(node["children"]) - _CHILDREN) > 0:
        branch.add(f"and {more} more")


def _levels(tree: Tree, as_json: bool) -> None:
    rows = tree.summary()
    if as_json:
        print_json(rows)
        return

    shown = table(
        *(">percentile", ">theta", ">regions", ">split"),
        *(">childless", ">kept", ">nested", ">by chance"),
    )
    for row in rows:
        shares = [row[key] for key in ("split", "childless", "same_exemplar", "nested", "nested_chance")]
        shown.add_row(
            f"{row['percentile']:g}",
            f"{row['threshold']:.4f}",
            f"{row['k']:,}",
            *("" if share is None else f"{share:.1%}" for share in shares),
        )
    console().print(shown)


def _paths(steps: list[list[dict[str, Any]]], tree: Tree, as_json: bool) -> None:
    if as_json:
        print_json(steps)
        return

    for d, nodes in zip(tree.levels, steps, strict=True):
        length = counted(len(nodes) - 1, "step") if nodes else "no path"
        console().print(f"percentile {d.config.calibration.percentile:g}: {length}")
        for node in nodes:
            console().print("  " + _line(node).split(" ", 2)[2], no_wrap=True, overflow="ellipsis")
