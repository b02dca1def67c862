"""`ep report`: one file about one dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def report(
    path: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
    site: Annotated[str | None, typer.Option(help="Which site, where DIR holds several.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Which percentile, where DIR holds several.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Regions to show with their examples, the largest.")] = 50,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if there is one.")] = False,
) -> None:
    """Write a report of an annotated dictionary: one HTML file that opens offline, to read, print or send.

    A report is about one dictionary: name its site and percentile where DIR holds several.
    """
    wanted = options.percentile(percentile) if percentile is not None else None

    from ..api import load
    from ..errors import EPError
    from ..files import disk_errors, write_new
    from ..show.report import render

    if out.is_dir() or (out.exists() and not overwrite):
        hint = "name a file" if out.is_dir() else "choose another name with --out, or say --overwrite"
        raise EPError(f"{out} exists already; {hint}")
    page = render(load(path, site=site, percentile=wanted), top).encode()
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_new(out, page)
    typer.echo(out)
