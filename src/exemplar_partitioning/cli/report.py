"""`ep report`: one file about one dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import EPError
from . import options


def report(
    path: options.Folder,
    *,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
    site: options.Site = None,
    percentile: options.Percentile = None,
    top: Annotated[int, typer.Option(min=1, help="Regions to show with their examples, the first of the order.")] = 50,
    sort: options.Sort = "interest",
    keep: Annotated[
        str,
        typer.Option("--filter", help="Conditions between commas: several (not one word alone), members>=30."),
    ] = "",
    regions: Annotated[str | None, typer.Option(help="These regions alone, e.g. 1,2,3.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if there is one.")] = False,
) -> None:
    """Write a report of an annotated dictionary: one HTML file that opens offline, to read, print or send.

    A report is about one dictionary: name its site and percentile where DIR holds several.
    """
    from ..files import disk_errors, write_new
    from ..folder.interest import shown
    from ..show.report import render

    if out.is_dir():
        raise EPError(f"{out} exists already; name a file")
    dictionary = options.chosen_dictionary(path, site, percentile)
    chosen = shown(dictionary, sort, keep)[:top]
    if regions is not None:
        chosen = [dictionary.check_region(region) for region in options.regions(regions)]
        if empty := set(chosen) - set(shown(dictionary, sort)):
            raise EPError(f"region {min(empty)} has no members to show; leave it out")
    page = render(dictionary, chosen).encode()
    if out.exists() and out.read_bytes() == page:
        typer.echo(f"{out}: already done")
        return
    if out.exists() and not overwrite:
        raise EPError(f"{out} exists already; choose another name with --out, or say --overwrite")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_new(out, page)
    typer.echo(out)
