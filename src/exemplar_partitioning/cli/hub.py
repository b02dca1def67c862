"""`ep push` and `ep pull`: dictionaries to and from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def push(
    path: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    repository: Annotated[str, typer.Argument(help="Where to, as org/name; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made, for yourself only.")] = False,
) -> None:
    """Upload dictionaries to the hub, with a card; log in first with [bold]hf auth login[/].

    They hold excerpts of the text they were built from.
    """
    from ..folder.hub import push as upload

    typer.echo(upload(path, repository, private=private))


def pull(
    repository: Annotated[str, typer.Argument(help="Repository, as org/name.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="the hub's cache")] = None,
    site: Annotated[str | None, typer.Option(help="Only this site, e.g. resid_post.15.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Only this percentile.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.", show_default=False)] = None,
) -> None:
    """Download dictionaries from the hub, and say where they are."""
    wanted = options.percentile(percentile) if percentile is not None else None

    from ..folder.hub import pull as download

    typer.echo(download(repository, out=out, site=site, percentile=wanted, revision=revision))
