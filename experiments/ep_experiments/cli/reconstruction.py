"""`ep experiment reconstruction`: do a dictionary's directions rebuild activations better than others?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .ending import Run


def reconstruction(
    folder: Annotated[Path, typer.Argument(help="Activations that `ep experiment extract` kept.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File for the result.")],
    seed: Annotated[int, typer.Option(min=0, help="Of orders, null arms and the rows to rebuild.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON instead of a table.")] = False,
) -> None:
    """Rebuild held-out activations from exemplars, means, random activations, k-means, Gaussian directions and ITDA."""
    from exemplar_partitioning.cli.display import steps

    from ..reconstruction import run as experiment
    from ..streamed import read_streamed

    run = Run("reconstruction", seed=seed, as_json=as_json)
    streamed = read_streamed(folder)
    with steps() as report:
        result = experiment.run(streamed, seed=seed, report=report)
    about = {name: streamed.record[name] for name in ("site", "text", "windows", "digest")}
    run.finish(out, streamed.info, about | result, _show)


def _show(result: dict[str, Any]) -> None:
    from exemplar_partitioning.cli.terminal import console, table

    summary = result["summary"]
    shown = table(">tokens", ">percentile", "arm", ">directions", *(f">k {k}" for k in summary[0]["fvu"]))
    for row in summary:
        fvu = [f"{mean:.3f} ({low:.3f}-{high:.3f})" for mean, low, high in row["fvu"].values()]
        shown.add_row(f"{row['tokens']:,}", f"{row['percentile']:g}", row["arm"], f"{row['directions']:,}", *fvu)
    console().print(shown)
