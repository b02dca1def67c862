"""`ep experiment axbench`: concept detection by regions, autoencoders and directions, on AxBench's texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .ending import Run

if TYPE_CHECKING:
    from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
    from exemplar_partitioning.folder.dictionary import StoredDictionary

_QUICK_TOKENS = 20_000
_QUICK_CONCEPTS = 3
_TEXT = "Ordinary text and what is made of it"


def axbench(
    concepts: Annotated[
        list[Path],
        typer.Argument(
            help="Concepts: folders as AxBench has them, or STEM for STEM_train.jsonl.gz and STEM_eval.jsonl.gz.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    model: options.Model = options.MODEL,
    site: Annotated[list[str] | None, typer.Option(help="Sites; may be repeated.", show_default="half way up")] = None,
    percentile: Annotated[str, typer.Option(help="Percentiles, separated by commas.", rich_help_panel=_TEXT)] = "1,2,4",
    max_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens of ordinary text to make dictionaries of.",
            parser=options.count,
            metavar="COUNT",
            rich_help_panel=_TEXT,
        ),
    ] = 200_000,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Ordinary text; may be repeated.", show_default="packaged", rich_help_panel=_TEXT),
    ] = None,
    field: Annotated[str, typer.Option(help="Column or key of that text.", rich_help_panel=_TEXT)] = "text",
    dictionaries: Annotated[
        Path | None,
        typer.Option(help="Folder of a build, in place of dictionaries made here.", rich_help_panel=_TEXT),
    ] = None,
    sae: options.Saes = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a labelled text that are read.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of k-means, random exemplars and LAT.")] = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Folder to keep activations in.", show_default="OUT/activations")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help=f"A look: the coarsest percentile, {_QUICK_TOKENS:,} tokens, {_QUICK_CONCEPTS} concepts of each set.",
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Which texts have a concept? Regions against autoencoders, k-means, random exemplars, PCA, supervised directions.

    Every rule is fitted to training texts and tried on evaluation texts, hard negatives among them; mean AUROC over
    concepts, with intervals.
    """
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.demo.corpus import documents_of
    from exemplar_partitioning.models.load import load_model

    from ..axbench import detect as experiment
    from ..concepts import first_concepts, read_concepts

    run = Run("axbench", seed=seed, as_json=as_json)
    sets = [read_concepts(path) for path in concepts]
    if quick:
        sets = [first_concepts(given, _QUICK_CONCEPTS) for given in sets]
    percentiles = tuple(options.percentiles(percentile))
    loaded = load_model(model, dtype=dtype, device=device)
    plan = experiment.Plan(
        sites=tuple(site or [f"resid_post.{loaded.info.n_layers // 2}"]),
        percentiles=percentiles[-1:] if quick else percentiles,
        tokens=_QUICK_TOKENS if quick else max_tokens,
        context_size=context,
        seed=seed,
    )
    with steps() as report:
        result = experiment.run(
            loaded,
            sets,
            plan,
            cache=cache or out / "activations",
            text=documents_of(options.sources(text), field=field),
            dictionaries=_dictionaries(dictionaries),
            saes=_saes(sae or []),
            report=report,
        )
    run.finish(out / "result.json", loaded.info, result, _show)


def _dictionaries(folder: Path | None) -> list[StoredDictionary]:
    return options.dictionaries(folder, None, None) if folder is not None else []


def _saes(paths: list[Path]) -> dict[str, SparseAutoencoder]:
    from exemplar_partitioning.exchange.from_sae import load_sae

    return {path.name: load_sae(path) for path in paths}


def _show(result: dict[str, Any]) -> None:
    from rich.table import Column

    from exemplar_partitioning.cli.terminal import console, counted, fixed, interval, table

    from ..axbench.detect import summary

    what = f"AUROC by training texts over {counted(sum(len(given['concepts']) for given in result['sets']), 'concept')}"
    for site, percentile in dict.fromkeys((row["site"], row["percentile"]) for row in result["rows"]):
        basis = f"{site}, percentile {percentile:g}" if percentile is not None else site
        names = (Column("features", no_wrap=True), "rule", "texts", ">k", ">all (95 %)", ">plain", ">hard")
        shown = table(*names, title=f"{basis}: {what}")
        for row in result["rows"]:
            if (row["site"], row["percentile"]) == (site, percentile):
                every, plain, hard = (summary(row[kind]) for kind in ("auroc", "negative", "hard"))
                figures = (f"{row['k']:,}", interval(every, 3), fixed(plain[0]), fixed(hard[0]))
                shown.add_row(row["basis"], row["rule"], row["training"], *figures)
        console().print(shown)
