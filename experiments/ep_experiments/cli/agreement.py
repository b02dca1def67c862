"""`ep experiment agreement`: do regions and an autoencoder's features stand for the same inputs?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .ending import Run


def agreement(
    dictionaries: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    sae: Annotated[list[Path], typer.Option(help="Autoencoder of the same site; may be repeated.", show_default=False)],
    activations: Annotated[
        Path, typer.Option(help="Folder that `ep experiment extract` wrote: what is looked at.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="File for the result.")] = Path("agreement.json"),
    percentile: options.SomePercentiles = None,
    tokens: Annotated[
        int, typer.Option(help="Activations to look at.", parser=options.count, metavar="COUNT")
    ] = 200_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the permutations.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A look at 10,000 activations.")] = False,
    as_json: options.Json = False,
) -> None:
    """For every region the feature that stands for the most of the same inputs, and the reverse; beside chance."""
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.exchange.from_sae import load_sae
    from exemplar_partitioning.folder.origin import describe

    from .. import agreement as experiment
    from ..streamed import read_streamed

    run = Run("agreement", seed=seed, as_json=as_json)
    count = 10_000 if quick else tokens
    streamed = read_streamed(activations)
    wanted = [None] if percentile is None else options.percentiles(percentile)
    chosen = [d for p in wanted for d in options.dictionaries(dictionaries, streamed.record["site"], p)]
    saes = {path: load_sae(path) for path in sae}
    results: list[dict[str, Any]] = []
    with steps() as report:
        for dictionary in chosen:
            for path, autoencoder in saes.items():
                doing = f"percentile {dictionary.config.calibration.percentile:g}, {path.name}"
                report(doing, len(results), len(chosen) * len(saes))
                result = experiment.run(dictionary, autoencoder, streamed, tokens=count, seed=seed)
                about = {"dictionary": describe(dictionary), "sae": experiment.describe(autoencoder, path)}
                results.append(about | result)
    run.finish(out, streamed.info, {"text": streamed.record["text"], "results": results}, _show)


def _show(agreed: dict[str, Any]) -> None:
    from exemplar_partitioning.cli.terminal import console, fixed, table

    for result in agreed["results"]:
        title = f"percentile {result['dictionary']['percentile']:g}, {result['sae']['name']}"
        shown = table("by", "of", ">units", ">mean F1", ">above 0.5", ">by chance", ">same token", title=title)
        for by in ("top", "members"):
            for of in ("regions", "features"):
                row = result[by][of]
                chance = [result[by][null][of]["mean_f1"] for null in ("chance", "chance_same_token")]
                mean, *nulls = (fixed(value) for value in (row["mean_f1"], *chance))
                shown.add_row(by, of, f"{row['units']:,}", mean, f"{row['above_0.5']:.1%}", *nulls)
        console().print(shown)
