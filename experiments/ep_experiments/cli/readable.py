"""`ep experiment readable`: can members be told from others by a region's label, without a judge?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .ending import Run


def readable(
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    model: options.Model = options.MODEL,
    site: options.Site = None,
    percentile: options.Percentiles = "1,2,4",
    max_tokens: Annotated[
        int, typer.Option(help="Tokens of text; a fifth is held out.", parser=options.count, metavar="COUNT")
    ] = 200_000,
    text: Annotated[list[str] | None, typer.Option(help="Text; may be repeated.", show_default="packaged")] = None,
    field: Annotated[str, typer.Option(help="Column or key of that text.")] = "text",
    seed: Annotated[int, typer.Option(min=0, help="Of nulls and of items.")] = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Folder to keep activations in.", show_default="OUT/activations")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Can held-out members of a region be told from others by its label, beside null regions and random clusters?

    A label is the ten tokens that are most a region's own. A score of one half says nothing.
    """
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.demo.corpus import documents_of
    from exemplar_partitioning.models.load import load_model

    from .. import readable as experiment
    from ..activations import text_activations
    from ..axbench.detect import ORDINARY_CONTEXT, ordinary_texts

    run = Run("readable", seed=seed, as_json=as_json)
    loaded = load_model(model, dtype=dtype, device=device)
    plan = experiment.Plan(
        site=site or f"resid_post.{loaded.info.n_layers // 2}",
        percentiles=tuple(options.percentiles(percentile)),
        tokens=max_tokens,
        seed=seed,
    )
    texts = ordinary_texts(loaded, documents_of(options.sources(text), field=field), max_tokens)
    with steps() as report:
        (acts,) = text_activations(
            loaded, [plan.site], texts, cache=cache or out / "activations", context_size=ORDINARY_CONTEXT, report=report
        ).values()
        result = experiment.run(loaded, acts, plan)
    run.finish(out / "result.json", loaded.info, result, _show)


def _show(result: dict[str, Any]) -> None:
    from rich.table import Column

    from exemplar_partitioning.cli.terminal import console, interval, table

    names = (Column("at", no_wrap=True), Column("clusters", no_wrap=True), ">k", ">score (95 %)", ">regions above")
    shown = table(*names, ">one form")
    for row in result["rows"]:
        above = "" if row["arm"] == "regions" else interval(row["regions_above"], 3)
        facts = (f"{row['k']:,}", interval(row["score"], 3), above, f"{row['one_form']:.0%}")
        shown.add_row(f"{row['percentile']:g}", row["arm"], *facts)
    console().print(shown)
