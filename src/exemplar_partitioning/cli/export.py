"""`ep export`: a dictionary as files that other tools load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core import choices
from . import options


def export(
    path: options.Folder,
    *,
    to: Annotated[str, typer.Option(help="saelens, sparsify, neuronpedia, interp-engine, saebench, mib or axbench.")],
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="PATH")],
    readout: Annotated[
        Literal["topk", "pursuit"],
        typer.Option(help="saelens: topk, the largest projection, or pursuit, several regions by matching pursuit."),
    ] = "topk",
    k: Annotated[int, typer.Option("-k", "--k", help="Steps of pursuit.")] = choices.STEPS,
    basis: Annotated[
        choices.Basis, typer.Option(help="saelens: exemplar, or mean for mean directions of members.")
    ] = "exemplar",
    site: options.Site = None,
    percentile: options.Percentile = None,
) -> None:
    """Write a dictionary in the form another tool loads, and say how it does.

    Its features are the projections on the exemplars: to SAELens, sparsify and SAEBench a TopK autoencoder with k = 1.
    With --readout pursuit, SAELens gets a matching-pursuit autoencoder, which rebuilds activations from several.
    """
    from ..exchange.export import export as write

    there = out.exists()
    how = write(
        options.chosen_dictionary(path, site, percentile),
        to,
        out,
        readout=readout,
        k=k,
        basis=basis,
    )
    typer.echo(f"{out}{': already done' if there else ''}\n\n{how}")
