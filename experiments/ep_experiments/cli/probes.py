"""`ep experiment probes`: what logistic regression reads from the bare identity of a region."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .ending import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..tasks import Task

_TASKS = "Tasks"
_QUICK = 8  # tasks


def probes(
    dictionaries: Annotated[Path, typer.Argument(help="Folder of a build.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for result.json and figures; a run that was cut off goes on.")],
    site: Annotated[str | None, typer.Option(help="One site.", show_default="the only one")] = None,
    percentile: options.SomePercentiles = None,
    sae: options.Saes = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A file of labelled texts, FILE or FILE:LABEL-FIELD, or a name of the sae-probes collection; may be "
            "repeated.",
            show_default="its 113 binary tasks",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    text_field: Annotated[str, typer.Option(help="Column of texts, in files.", rich_help_panel=_TASKS)] = "text",
    label_field: Annotated[str, typer.Option(help="Column of labels, in files.", rich_help_panel=_TASKS)] = "label",
    at_most: Annotated[
        int | None,
        typer.Option(min=1, help="Tasks of the collection, drawn at random.", rich_help_panel=_TASKS),
    ] = None,
    train: Annotated[int, typer.Option(min=10, help="Rows of a task at most.", rich_help_panel=_TASKS)] = 600,
    test: Annotated[int, typer.Option(min=10, help="Rows of a task at most.", rich_help_panel=_TASKS)] = 300,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a text that are read.", rich_help_panel=_TASKS)] = 128,
    top: Annotated[int, typer.Option(min=1, help="Features of an autoencoder in its top-k arm.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of splits, folds, resampling and random cells.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Model: packaged name, hub id or path.", show_default="the dictionaries' own")
    ] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder to keep activations in, for other runs.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"A look in minutes: {_QUICK} tasks of 200 + 100 rows, 64 tokens each.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """How much of what a linear probe reads from activations is left in the identity of a region?

    Logistic regression from one-hot regions, shares of regions, cosines, autoencoder features and raw activations,
    beside token ids and random cells; accuracy, AUROC and retention on test rows.
    """
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.exchange.from_sae import load_sae
    from exemplar_partitioning.models.load import load_model

    from ..probes import retention as experiment

    run = Run("probes", seed=seed, as_json=as_json)
    wanted = None if percentile is None else options.percentiles(percentile)
    chosen = [d for p in (wanted or [None]) for d in options.dictionaries(dictionaries, site, p)]
    plan = experiment.Plan(*((200, 100, 64) if quick else (train, test, context)), top, 200 if quick else 1000, seed)
    loaded = load_model(model or chosen[0].config.model.id, dtype=dtype, device=device)
    saes = {path.name: load_sae(path) for path in sae or []}
    with steps() as report:
        tasks = _tasks(task, text_field, label_field, _QUICK if quick else at_most, seed)
        result = experiment.run(chosen, saes, loaded, tasks, plan, out, report, cache=cache)
    seconds = sum(done["seconds"] for done in result["tasks"])  # also of those an earlier run did
    file, encode = out / "result.json", experiment.to_lines
    run.finish(file, loaded.info, result, _show, seconds=seconds, encode=encode)


def _tasks(
    names: list[str] | None, text_field: str, label_field: str, at_most: int | None, seed: int
) -> Iterator[Task]:
    from .. import tasks

    if names is None:
        names = tasks.collection_names()
        if at_most is not None:
            names = Random(seed).sample(names, len(names))[:at_most]  # more tasks are those of fewer, and others
    for name in names:
        file, _, own_field = name.partition(":")
        if Path(file).suffix:
            yield tasks.file_task(Path(file), text_field, own_field or label_field)
        else:
            yield tasks.collection_task(name)


def _show(result: dict[str, Any]) -> None:
    from rich.table import Column

    from exemplar_partitioning.cli.terminal import console, counted, fixed, interval, table

    title = f"{counted(len(result['tasks']), 'task')}, test rows"
    figures = (">accuracy (95 %)", ">AUROC", ">retention (95 %)", ">above chance")
    shown = table(Column("arm", no_wrap=True), *figures, title=title)
    for row in result["pooled"]:
        figures = (interval(row["accuracy"]), fixed(row["auroc"][0], 2))
        name = f"{row['arm']} {row['detail']}".strip()
        shown.add_row(name, *figures, interval(row["retention"]), interval(row["corrected"]))
    console().print(shown)
