"""`ep experiment ood`: text a dictionary was not made for, told by it and by others."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from exemplar_partitioning.cli import options


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
    model: Annotated[str, typer.Option(help="Model: packaged name, hub id or path.")] = "smollm2-135m-instruct",
    site: Annotated[str | None, typer.Option(help="Where to look.", show_default="residual stream half way up")] = None,
    percentile: Annotated[str, typer.Option(help="Resolutions.")] = "1,2,4,8",
    test: Annotated[int, typer.Option(min=8, help="Documents of each kind that are told apart.")] = 150,
    fit: Annotated[int, typer.Option(min=140, help="Ordinary documents the detector is fitted on.")] = 400,
    characters: Annotated[str, typer.Option(help="Characters of ordinary text to build from.")] = "1_200_000",
    seed: Annotated[int, typer.Option(min=0, help="Of parts, orders and intervals.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="A look in a few minutes: less text, two resolutions, coarser intervals.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON instead of a table.")] = False,
) -> None:
    """Tell other languages, code, shuffled words and more from ordinary text, by a dictionary and by its rivals.

    Rivals: k-NN on all activations, as many random ones as exemplars, Mahalanobis, PCA residual, norm, perplexity.
    Then a detector is fitted on ordinary text, and its false alarms on other ordinary text are counted.
    """
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.files import disk_errors, write_new
    from exemplar_partitioning.folder.dictionary import to_json
    from exemplar_partitioning.models.load import load_model

    from ..ood import run as experiment
    from ..ood.tasks import Sizes, suites
    from ..record import record

    sizes = Sizes(options.count(characters), fit, test)
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

    begun = time.monotonic()
    chosen = suites(names, data, loaded, sizes, seed, skipped)
    with disk_errors(out), steps() as tell:
        found = experiment.run(loaded, chosen, plan, out, tell)
    result = record("ood", sys.argv[1:], loaded, seed, time.monotonic() - begun) | found
    with disk_errors(out):
        write_new(out / "result.json", to_json(result))
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=2))
        return
    _show(result)
    typer.echo(f"\n{out / 'result.json'}")


def _show(result: dict[str, Any]) -> None:
    """AUROC of every method, a column a task; then the alarms."""
    from rich.table import Table

    from exemplar_partitioning.cli.terminal import console

    console_ = console()
    for suite in result["suites"]:
        for level in ("document", "token"):
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column(f"{suite['name']}: AUROC per {level}")
            for name in ("MB", "us a token", *(task["name"] for task in suite["tasks"])):
                table.add_column(name, justify="right")
            for name, cost in suite["methods"].items():
                values = (f"{task['methods'][name][level]['auroc'][0]:.3f}" for task in suite["tasks"])
                table.add_row(name, f"{cost['bytes'] / 1e6:.2f}", f"{cost['microseconds_a_token']:.0f}", *values)
            console_.print(table)
        for fitted in suite["detector"]:
            console_.print(f"flagged by a detector at {fitted['rate']:g}:")
            for name, row in fitted["flagged"].items():
                share = row["flagged"] / row["documents"]
                console_.print(
                    f"  {name}: {row['flagged']} of {row['documents']}, {share:.3f} ({row['low']:.3f}-"
                    f"{row['high']:.3f}); tokens {row['flagged_tokens']:.3f}"
                )
