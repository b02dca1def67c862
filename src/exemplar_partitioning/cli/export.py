"""`ep export`: a dictionary as files that other tools load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def export(
    path: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    to: Annotated[str, typer.Option(help="saelens, sparsify, neuronpedia, interp-engine, saebench, mib or axbench.")],
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="PATH")],
    site: Annotated[str | None, typer.Option(help="Which site, where DIR holds several.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Which percentile, where DIR holds several.")] = None,
) -> None:
    """Write a dictionary in the form another tool loads, and say how it does.

    Its features are the projections on the exemplars: to SAELens, sparsify and SAEBench a TopK autoencoder with k = 1.
    """
    wanted = options.percentile(percentile) if percentile is not None else None

    from ..api import load
    from ..exchange.export import export as write

    how = write(load(path, site=site, percentile=wanted), to, out)
    typer.echo(f"{out}\n\n{how}")
