"""`ep combine`: set algebra on two dictionaries of one space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options
from .terminal import counted


def combine(
    operation: Annotated[
        Literal["union", "difference", "intersection", "merge"],
        typer.Argument(help="union, difference, intersection or merge.", metavar="OPERATION"),
    ],
    a: options.FolderA,
    b: options.FolderB,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the result.")],
    site: options.Site = None,
    percentile: options.Percentile = None,
    percentile_b: options.PercentileB = None,
) -> None:
    """Join two dictionaries, or keep of A what B lacks or has; merge joins builds that were calibrated apart."""
    from ..compare.algebra import combine as run
    from ..folder.origin import read_origin

    first = options.chosen_dictionary(a, site, percentile)
    second = options.chosen_dictionary(b, site, percentile_b or percentile)
    result = run(operation, first, second, out)
    origin = read_origin(result) or {}
    of_a, of_b = origin["regions_of_a"], origin["regions_of_b"]
    typer.echo(f"{counted(result.k, 'region')} in {result.path}: {of_a:,} of A, {of_b:,} of B")
    if "angle" in origin:
        bound = 1 - math.cos(min(origin["angle"], math.pi))
        typer.echo(
            f"what both were built from lies within cosine distance {bound:.3f} of an exemplar (theta "
            f"{result.threshold:.3f})"
            + (f", if at least {origin['radius']:.4g} from B's centre" if origin["radius"] else "")
        )
