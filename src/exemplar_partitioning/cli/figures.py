"""`ep figures`: figures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options


def figures(
    path: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Folder to write to; figures of the same name are replaced.")],
    site: Annotated[str | None, typer.Option(help="Only this site, e.g. resid_post.15.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Only this percentile.")] = None,
    kind: Annotated[
        Literal["svg", "png", "pdf"], typer.Option("--format", help="Kind of file; the same input, the same bytes.")
    ] = "svg",
) -> None:
    """Draw figures: sizes of regions, growth along the stream, distances, and regions on a sphere.

    One figure each of the sizes and the growth of all dictionaries, for one column of a paper; and for every
    dictionary one of its sphere, for both columns, and one of its distances, if it is annotated.
    """
    wanted = options.percentile(percentile) if percentile is not None else None

    from ..files import disk_errors, write_new
    from ..folder.annotation import FOLDER
    from ..show.figures import distances, saturation, sizes, sphere, to_bytes

    chosen = options.dictionaries(path, site, wanted)
    names = [f"{dictionary.path.parent.name}-{dictionary.path.name}" for dictionary in chosen]
    drawn = {"sizes": sizes(chosen), "saturation": saturation(chosen)}
    bare = []
    for name, dictionary in zip(names, chosen, strict=True):
        drawn[f"sphere-{name}"] = sphere(dictionary)
        if (dictionary.path / FOLDER).is_dir():
            drawn[f"distances-{name}"] = distances(dictionary)
        else:
            bare.append(name)
    if bare:
        typer.echo(f"no distances of {', '.join(bare)}: not annotated; run `ep annotate {path}` first", err=True)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        file = out / f"{name}.{kind}"
        write_new(file, to_bytes(figure, kind))
        typer.echo(file)
