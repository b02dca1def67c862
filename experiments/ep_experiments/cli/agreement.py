"""`ep experiment agreement`: do regions and an autoencoder's features stand for the same inputs?"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from exemplar_partitioning.cli import options


def agreement(
    dictionaries: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    sae: Annotated[list[Path], typer.Option(help="Autoencoder of the same site; may be repeated.", show_default=False)],
    activations: Annotated[
        Path, typer.Option(help="Folder that `ep experiment extract` wrote: what is looked at.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="File for the result.")] = Path("agreement.json"),
    percentile: Annotated[str | None, typer.Option(help="Resolutions.", show_default="all")] = None,
    tokens: Annotated[str, typer.Option(help="Activations to look at.")] = "200_000",
    seed: Annotated[int, typer.Option(min=0, help="Of the permutations.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A look at 10,000 activations.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON instead of a table.")] = False,
) -> None:
    """For every region the feature that stands for the most of the same inputs, and the reverse; beside chance."""
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.exchange.from_sae import load_sae
    from exemplar_partitioning.files import disk_errors, write_new
    from exemplar_partitioning.folder.dictionary import to_json
    from exemplar_partitioning.folder.origin import describe

    from .. import agreement as experiment
    from ..record import head
    from ..streamed import read_streamed

    count = 10_000 if quick else options.count(tokens)
    begun = time.monotonic()
    streamed = read_streamed(activations)
    wanted = [None] if percentile is None else options.percentiles(percentile)
    found = [d for p in wanted for d in options.dictionaries(dictionaries, streamed.record["site"], p)]
    saes = {path: load_sae(path) for path in sae}
    results: list[dict[str, Any]] = []
    with steps() as tell:
        for dictionary in found:
            for path, autoencoder in saes.items():
                tell(
                    f"p {dictionary.config.calibration.percentile:g}, {path.name}", len(results), len(found) * len(saes)
                )
                result = experiment.run(dictionary, autoencoder, streamed, tokens=count, seed=seed)
                about = {"dictionary": describe(dictionary), "sae": experiment.describe(autoencoder, path)}
                results.append(about | result)
    record = head("agreement", sys.argv[1:], streamed.info, seed, time.monotonic() - begun)
    record |= {"text": streamed.record["text"], "results": results}
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_new(out, to_json(record))
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False, indent=2))
        return
    _show(results)


def _show(results: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from exemplar_partitioning.cli.terminal import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("p", "autoencoder", "by", "of"):
        table.add_column(column)
    for column in ("units", "mean F1", "above 0.5", "by chance", "same token"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        for by in ("top", "members"):
            for of in ("regions", "features"):
                row = result[by][of]
                chance = [result[by][null][of]["mean_f1"] for null in ("chance", "chance_same_token")]
                table.add_row(
                    f"{result['dictionary']['percentile']:g}",
                    result["sae"]["name"],
                    by,
                    of,
                    f"{row['units']:,}",
                    f"{row['mean_f1']:.3f}",
                    f"{row['above_0.5']:.1%}",
                    *(f"{mean:.3f}" for mean in chance),
                )
    console().print(table)
