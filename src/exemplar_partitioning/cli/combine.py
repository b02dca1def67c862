"""`ep combine`: set algebra on two dictionaries of one space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, cast

import typer

from . import options


def combine(
    operation: Annotated[str, typer.Argument(help="union, difference, intersection or merge.", metavar="OPERATION")],
    a: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Folder of the other.", metavar="B")],
    out: Annotated[Path, typer.Option(help="Folder for the result.")],
    site: Annotated[str | None, typer.Option(help="Which site, where a folder holds several.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Which percentile, where a folder holds several.")] = None,
    percentile_b: Annotated[str | None, typer.Option(help="Percentile of B, if another.", show_default=False)] = None,
) -> None:
    """Join two dictionaries, or keep of A what B lacks or has; merge joins builds that were calibrated apart."""
    from ..compare.algebra import Operation
    from ..compare.algebra import combine as run
    from ..folder.origin import read_origin

    first = options.one_dictionary(a, site, percentile)
    second = options.one_dictionary(b, site, percentile_b or percentile)
    found = run(cast(Operation, operation), first, second, out)
    origin = read_origin(found) or {}
    typer.echo(f"{found.k:,} regions in {found.path}: {origin['regions_of_a']:,} of A, {origin['regions_of_b']:,} of B")
    if "angle" in origin:
        bound = 1 - math.cos(min(origin["angle"], math.pi))
        typer.echo(
            f"what both were built from lies within cosine distance {bound:.3f} of an exemplar (theta "
            f"{found.threshold:.3f})"
            + (f", if at least {origin['radius']:.4g} from B's centre" if origin["radius"] else "")
        )
