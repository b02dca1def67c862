"""`ep figures`: figures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options


def figures(
    path: options.Folder,
    out: Annotated[Path, typer.Option(help="Folder to write to; figures of the same name are replaced.")],
    site: options.Site = None,
    percentile: options.Percentile = None,
    kind: Annotated[
        Literal["svg", "png", "pdf"], typer.Option("--format", help="Kind of file; the same input, the same bytes.")
    ] = "svg",
) -> None:
    """Draw figures: sizes of regions, growth along the stream, distances, and regions on a sphere.

    One figure each of the sizes and the growth of all dictionaries, for one column of a paper; and for every
    dictionary one of its sphere, for both columns, and one of its distances, if it is annotated.
    """
    from ..files import disk_errors, write_together
    from ..show.figures import distances, saturation, sizes, sphere, to_bytes

    chosen = options.dictionaries(path, site, percentile)
    names = [f"{dictionary.path.parent.name}-{dictionary.path.name}" for dictionary in chosen]
    drawn = {"sizes": sizes(chosen), "saturation": saturation(chosen)}
    bare = []
    for name, dictionary in zip(names, chosen, strict=True):
        drawn[f"sphere-{name}"] = sphere(dictionary)
        if dictionary.annotated:
            drawn[f"distances-{name}"] = distances(dictionary)
        else:
            bare.append(name)
    if bare:
        typer.echo(f"no distances of {', '.join(bare)}: not annotated; run `ep annotate {path}` first", err=True)
    files = {out / f"{name}.{kind}": to_bytes(figure, kind) for name, figure in drawn.items()}
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    write_together(files)
    for file in files:
        typer.echo(file)
