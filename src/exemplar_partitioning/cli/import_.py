"""`ep import`: a dictionary published as a pickle, as a folder of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def import_(
    file: Annotated[Path, typer.Argument(help="Pickle as published with the paper.", metavar="FILE.pkl")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to write, as that of a build.")],
    model: Annotated[
        str | None,
        typer.Option(help="The model it was built from: name, folder or hub id. Without, some things stay unknown."),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Where in the model, e.g. resid_post.12.", show_default="from metadata.json")
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(
            help="Percentile it was built with.",
            parser=options.percentile,
            metavar="NUMBER",
            show_default="from metadata.json",
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the forward passes it was built from: bfloat16, float16 or float32.")
    ] = "bfloat16",
    trust_remote_code: options.RemoteCode = False,
) -> None:
    """Convert one of the paper's published dictionaries.

    Nothing in the pickle is run: it is read as data, and refused if it holds anything else.
    """
    from ..exchange.from_paper import import_published
    from ..models.load import load_model

    loaded = load_model(model, dtype=dtype, trust_remote_code=trust_remote_code) if model is not None else None
    folder = import_published(file, out, model=loaded, site=site, percentile=percentile, dtype=dtype)
    typer.echo(folder)
