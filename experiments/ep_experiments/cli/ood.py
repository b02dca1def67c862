"""`ep experiment ood`: text a dictionary was not made for, told by it and by others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .ending import Run


def ood(
    out: Annotated[Path, typer.Option(help="Folder for dictionaries, cached activations, result.json and the figure.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with corpora/*.jsonl.gz and labelled/*.jsonl.gz; what is not there is skipped.",
            show_default="packaged text only",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="packaged, prose, clinc, separated by commas.", show_default="those there is text for"),
    ] = None,
    model: options.Model = options.MODEL,
    site: Annotated[str | None, typer.Option(help="Where to look.", show_default="residual stream half way up")] = None,
    percentile: options.Percentiles = "1,2,4,8",
    test: Annotated[int, typer.Option(min=8, help="Documents of each kind that are told apart.")] = 150,
    fit: Annotated[int, typer.Option(min=140, help="Ordinary documents the detector is fitted on.")] = 400,
    characters: Annotated[
        int, typer.Option(help="Characters of ordinary text to build from.", parser=options.count, metavar="COUNT")
    ] = 1_200_000,
    seed: Annotated[int, typer.Option(min=0, help="Of parts, orders and intervals.")] = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="A look in a few minutes: less text, two resolutions, coarser intervals.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Tell other languages, code, shuffled words and more from ordinary text, by a dictionary and by its rivals.

    Rivals: k-NN on all activations, as many random ones as exemplars, Mahalanobis, PCA residual, norm, perplexity.
    Then a detector is fitted on ordinary text, and its false alarms on other ordinary text are counted.
    """
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.files import disk_errors
    from exemplar_partitioning.models.load import load_model

    from ..ood import separate as experiment
    from ..ood.tasks import Sizes, suites

    sizes = Sizes(characters, fit, test)
    plan = experiment.Plan(site=site, percentiles=tuple(options.percentiles(percentile)), seed=seed, sizes=sizes)
    if quick:
        sizes = Sizes(min(sizes.build, 100_000), 140, min(test, 24))
        plan = experiment.Plan(
            site=site, percentiles=plan.percentiles[:2], samples=40, false_alarms=(0.05,), seed=seed, calibration=4096
        )
    names = suite.split(",") if suite else ["packaged"] if data is None else ["packaged", "prose", "clinc"]
    loaded = load_model(model, dtype=dtype, device=device)

    def skipped(what: str) -> None:
        typer.secho(f"skipped: {what}", err=True, fg="yellow")

    run = Run("ood", seed=seed, as_json=as_json)
    chosen = suites(names, data, loaded, sizes, seed, skipped)
    with disk_errors(out), steps() as report:
        result = experiment.run(loaded, chosen, plan, out, report)
    run.finish(out / "result.json", loaded.info, result, _show)


def _show(result: dict[str, Any]) -> None:
    """AUROC of every method, a column a task; then the alarms."""
    from rich.table import Column

    from exemplar_partitioning.cli.terminal import console, fixed, interval, table

    console_ = console()
    for suite in result["suites"]:
        for level in ("document", "token"):
            tasks = (Column(task["name"], justify="right") for task in suite["tasks"])
            shown = table(f"{suite['name']}: AUROC per {level}", ">MB", ">us a token", *tasks)
            for name, cost in suite["methods"].items():
                values = (fixed(task["methods"][name][level]["auroc"][0]) for task in suite["tasks"])
                shown.add_row(name, f"{cost['bytes'] / 1e6:.2f}", f"{cost['microseconds_a_token']:.0f}", *values)
            console_.print(shown)
        for fitted in suite["detector"]:
            console_.print(f"flagged by a detector at {fitted['rate']:g}:")
            for name, row in fitted["flagged"].items():
                share = row["flagged"] / row["documents"]
                estimate = interval((share, row["low"], row["high"]), 3)
                tokens = fixed(row["flagged_tokens"])
                console_.print(f"  {name}: {row['flagged']} of {row['documents']}, {estimate}; tokens {tokens}")
