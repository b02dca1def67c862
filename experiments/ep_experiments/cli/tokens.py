"""`ep experiment tokens`: how many tokens dictionaries need, and how many autoencoders, to be as good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .ending import Run

if TYPE_CHECKING:
    from ..tokens.detection import Question

_TASKS = "Tasks"


def tokens(
    activations: Annotated[Path, typer.Argument(help="Folder that `ep experiment extract` wrote.", show_default=False)],
    sae: Annotated[
        list[Path],
        typer.Option(help="Autoencoder that experiments/studies/train_saes.py trained on them; may be repeated."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    budgets: Annotated[str, typer.Option(help="Activations to build dictionaries from.")] = (
        "10_000,30_000,100_000,300_000,1_000_000"
    ),
    percentile: Annotated[float, typer.Option(help="Resolution.")] = 1.0,
    tasks: Annotated[int, typer.Option(min=0, help="Tasks of the sae-probes collection.", rich_help_panel=_TASKS)] = 16,
    concepts: Annotated[
        list[Path] | None,
        typer.Option(help="AxBench concepts: a folder, or the stem of two files.", rich_help_panel=_TASKS),
    ] = None,
    train: Annotated[int, typer.Option(min=10, help="Texts of a task at most.", rich_help_panel=_TASKS)] = 128,
    test: Annotated[int, typer.Option(min=10, help="Texts of a task at most.", rich_help_panel=_TASKS)] = 128,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a text that are read.", rich_help_panel=_TASKS)] = 128,
    cache: Annotated[
        Path | None, typer.Option(help="Folder to keep activations of texts in.", show_default="cache in --out")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and resampling.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Where the model is.", show_default="where the activations had it")
    ] = None,
    device: options.Device = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="A look: the two smallest budgets, 4 tasks.")] = False,
    as_json: options.Json = False,
) -> None:
    """Quality against tokens streamed, for dictionaries, and trained on, for autoencoders.

    Held-out activations explained, and detection: the unit that tells texts apart best on training texts, tried on
    others. How many times fewer tokens, operations and seconds for the same, with intervals over tasks.
    """
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.errors import EPError
    from exemplar_partitioning.exchange.from_sae import load_sae
    from exemplar_partitioning.models.load import load_model

    from ..activations import text_activations
    from ..agreement import check_fits
    from ..streamed import read_streamed
    from ..tokens import budgets as experiment

    run = Run("tokens", seed=seed, as_json=as_json)
    streamed = read_streamed(activations)
    sizes = sorted(options.count(part) for part in budgets.split(","))[: 2 if quick else None]
    saes = [(load_sae(path), _training(path)) for path in sae]
    for autoencoder, _ in saes:
        check_fits(autoencoder, streamed)
    asked = _questions(min(tasks, 4) if quick else tasks, concepts or [], train, test, seed)
    loaded = load_model(model or streamed.info.id, dtype=streamed.info.dtype, device=device)
    if loaded.info.fingerprint != streamed.info.fingerprint:
        raise EPError(f"{loaded.info.id} is not the model that the activations in {activations} are of")
    with steps() as report:
        site, kept = streamed.record["site"], cache or out / "cache"
        sets = [
            (questions, text_activations(loaded, [site], texts, cache=kept, context_size=context, report=report)[site])
            for questions, texts in asked
        ]
        result = experiment.run(streamed, saes, sets, budgets=sizes, percentile=percentile, seed=seed, report=report)
    run.finish(out / "result.json", loaded.info, result | {"text": streamed.record["text"]}, _show)


def _training(path: Path) -> dict[str, Any]:
    from exemplar_partitioning.errors import EPError

    file = path / "training.json"
    if not file.is_file():
        raise EPError(
            f"{path} has no training.json, which tells what training took; see experiments/studies/train_saes.py"
        )
    return json.loads(file.read_bytes())


def _questions(
    tasks: int, concepts: list[Path], train: int, test: int, seed: int
) -> list[tuple[list[Question], list[str]]]:
    from exemplar_partitioning.errors import EPError

    from ..tokens.detection import from_collection, from_concepts

    if not tasks and not concepts:
        raise EPError("there is nothing to detect: give --tasks or --concepts")
    return [from_collection(tasks, train, test, seed)] * (tasks > 0) + [from_concepts(path) for path in concepts]


def _show(result: dict[str, Any]) -> None:
    from exemplar_partitioning.cli.terminal import console, counted, fixed, interval, table

    figures = (">units", ">tokens", ">seconds", ">operations", ">variance explained", ">AUROC (95 %)")
    shown = table("", *figures, title=counted(len(result["questions"]), "task"))
    for row in (*result["dictionaries"], *result["autoencoders"]):
        shown.add_row(
            row["name"],
            f"{row['units']:,}",
            f"{row['tokens']:,}",
            f"{row['seconds']:,.0f}",
            f"{row['flops']:.2g}",
            fixed(row["quality"]["explained_variance"]),
            interval([row[name] for name in ("mean_auroc", "low", "high")], 3),
        )
    console().print(shown)
    for row in result["equal_quality"]:
        of = row["tokens"]
        bound = "at least " if of["at_least"] else ""
        cost = "no dictionary is as good" if of["not_reached"] else f"{bound}{of['times_fewer']:.3g} times fewer tokens"
        console().print(f"as good as {row['name']}: {cost} ({of['low']:.3g} to {of['high']:.3g})")
