"""`ep experiment reconstruction`: do a dictionary's directions rebuild activations better than others?"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer


def reconstruction(
    folder: Annotated[Path, typer.Argument(help="Activations that `ep experiment extract` kept.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File for the result.")],
    seed: Annotated[int, typer.Option(min=0, help="Of orders, null arms and the rows to rebuild.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON instead of a table.")] = False,
) -> None:
    """Rebuild held-out activations from exemplars, means, random activations, k-means, Gaussian directions and ITDA."""
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.files import write_new
    from exemplar_partitioning.folder.dictionary import to_json

    from ..reconstruction import run as experiment
    from ..record import head
    from ..streamed import read_streamed

    begun = time.monotonic()
    streamed = read_streamed(folder)
    with steps() as tell:
        result = experiment.run(streamed, seed=seed, tell=tell)
    about = {name: streamed.record[name] for name in ("site", "text", "windows", "digest")}
    result = head("reconstruction", sys.argv[1:], streamed.info, seed, time.monotonic() - begun) | about | result
    write_new(out, to_json(result))
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=2))
        return
    _show(result["summary"])


def _show(summary: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from exemplar_partitioning.cli.terminal import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("tokens", "percentile", "arm", "directions", *(f"k {k}" for k in summary[0]["fvu"])):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in summary:
        fvu = [f"{mean:.3f} ({low:.3f}-{high:.3f})" for mean, low, high in row["fvu"].values()]
        table.add_row(f"{row['tokens']:,}", f"{row['percentile']:g}", row["arm"], f"{row['directions']:,}", *fvu)
    console().print(table)
