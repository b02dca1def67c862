"""`ep figures`: figures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import options

if TYPE_CHECKING:
    from ..store import StoredDictionary


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

    from ..figures import saturation, sizes, to_bytes
    from ..files import disk_errors, write_new

    chosen = _chosen(path, site, wanted)
    drawn = {"sizes": sizes(chosen), "saturation": saturation(chosen)}
    for dictionary in chosen:
        drawn |= _of_one(dictionary)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        file = out / f"{name}.{kind}"
        write_new(file, to_bytes(figure, kind))
        typer.echo(file)


def _of_one(dictionary: StoredDictionary) -> dict:
    from ..errors import DataError, EPError
    from ..figures import distances, sphere

    name = f"{dictionary.path.parent.name}-{dictionary.path.name}"
    drawn = {f"sphere-{name}": sphere(dictionary)}
    try:
        drawn[f"distances-{name}"] = distances(dictionary)
    except DataError:
        raise
    except EPError as error:
        typer.echo(f"no figure of distances: {error}", err=True)
    return drawn


def _chosen(path: Path, site: str | None, percentile: float | None) -> list[StoredDictionary]:
    """All dictionaries that fit; EPError, saying which there are, if none does."""
    from ..store import find, load

    folders = find(path) if path.is_dir() else []
    every = [load(folder) for folder in folders]
    fitting = [
        d
        for d in every
        if (site is None or site in (d.config.site.name, d.config.site.transformer_lens, d.config.site.module_path))
        and (percentile is None or d.config.calibration.percentile == percentile)
    ]
    return fitting or [load(path, site=site, percentile=percentile)]
