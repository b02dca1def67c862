"""`ep check`: whether everything in a folder fits together, and exemplars are what their texts give."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import DataError, EPError
from . import options


def check(
    path: options.Folder,
    model: Annotated[
        str | None,
        typer.Option(
            help="Where the model is: a sample of exemplars is embedded again from their windows.", show_default=False
        ),
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Check dictionaries, their annotations and labels: hashes, ranges, and what must agree between files."""
    from ..api import load
    from ..folder.invariants import check as run
    from ..folder.listing import find

    folders = find(path) if path.is_dir() else []
    damaged = 0
    for folder in folders or [load(path).path]:
        try:
            dictionary = run(folder)
            line = f"{dictionary.k:,} regions, all in order"
            if model is not None:
                from ..compare.transport import embedded_again

                far, count = embedded_again(dictionary, model, device=device)
                line += f"; {count} exemplars embedded again, at most {far:.2g} away (theta {dictionary.threshold:.3f})"
            typer.echo(f"{folder}: {line}")
        except EPError as error:
            damaged += 1
            typer.secho(f"{folder}: {error}", err=True, fg="red")
    if damaged:
        raise DataError(f"{damaged} of {len(folders)} dictionaries did not pass; copy them again, or build them anew")
