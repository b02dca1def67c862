"""`ep push` and `ep pull`: dictionaries to and from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def push(
    path: options.Folder,
    repository: Annotated[str, typer.Argument(help="Where to, as org/name; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made, for yourself only.")] = False,
) -> None:
    """Upload dictionaries to the hub, with a card; log in first with `hf auth login`.

    They hold excerpts of the text they were built from.
    """
    from ..folder.hub import push as upload

    typer.echo(upload(path, repository, private=private))


def pull(
    repository: Annotated[str, typer.Argument(help="Repository, as org/name.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="the hub's cache")] = None,
    site: options.Site = None,
    percentile: options.Percentile = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download dictionaries from the hub, and say where they are."""
    from ..folder.hub import pull as download

    typer.echo(download(repository, out=out, site=site, percentile=percentile, revision=revision))
