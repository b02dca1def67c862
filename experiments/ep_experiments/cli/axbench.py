"""`ep experiment axbench`: concept detection by regions, autoencoders and directions, on AxBench's texts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exemplar_partitioning.cli import options

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
    model: Annotated[str, typer.Option(help="Model: packaged name, hub id or path.")] = "smollm2-135m-instruct",
    site: Annotated[list[str] | None, typer.Option(help="Sites; may be repeated.", show_default="half way up")] = None,
    percentile: Annotated[str, typer.Option(help="Resolutions.", rich_help_panel=_TEXT)] = "1,2,4",
    max_tokens: Annotated[
        str, typer.Option(help="Tokens of ordinary text to make dictionaries of.", rich_help_panel=_TEXT)
    ] = "200_000",
    text: Annotated[
        list[str] | None,
        typer.Option(help="Ordinary text; may be repeated.", show_default="packaged", rich_help_panel=_TEXT),
    ] = None,
    field: Annotated[str, typer.Option(help="Column or key of that text.", rich_help_panel=_TEXT)] = "text",
    dictionaries: Annotated[
        Path | None,
        typer.Option(help="Folder of a build, in place of dictionaries made here.", rich_help_panel=_TEXT),
    ] = None,
    sae: Annotated[list[Path] | None, typer.Option(help="Autoencoder; may be repeated.")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a labelled text that are read.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of k-means, random exemplars and LAT.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of the forward pass: auto, float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="Of the forward pass: auto, cpu or cuda.")] = "auto",
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
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON instead of a table.")] = False,
) -> None:
    """Which texts have a concept? Regions against autoencoders, k-means, random exemplars, PCA, supervised directions.

    Every rule is fitted to training texts and tried on evaluation texts, hard negatives among them; mean AUROC over
    concepts, with intervals.
    """
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.demo.corpus import documents_of
    from exemplar_partitioning.files import disk_errors, write_new
    from exemplar_partitioning.folder.dictionary import to_json
    from exemplar_partitioning.models.load import load_model

    from ..axbench import run as experiment
    from ..concepts import first_concepts, read_concepts
    from ..record import record

    begun = time.monotonic()
    sets = [read_concepts(path) for path in concepts]
    if quick:
        sets = [first_concepts(given, _QUICK_CONCEPTS) for given in sets]
    percentiles = tuple(options.percentiles(percentile))
    loaded = load_model(model, dtype=dtype, device=device)
    plan = experiment.Plan(
        sites=tuple(site or [f"resid_post.{loaded.info.n_layers // 2}"]),
        percentiles=percentiles[-1:] if quick else percentiles,
        tokens=_QUICK_TOKENS if quick else options.count(max_tokens),
        context_size=context,
        seed=seed,
    )
    with steps() as tell:
        result = experiment.run(
            loaded,
            sets,
            plan,
            cache=cache or out / "activations",
            text=documents_of(options.sources(text), field=field),
            dictionaries=_dictionaries(dictionaries),
            saes=_saes(sae or []),
            tell=tell,
        )
    result = record("axbench", sys.argv[1:], loaded, seed, time.monotonic() - begun) | result
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_new(out / "result.json", to_json(result))
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=2))
        return
    _show(result)


def _dictionaries(folder: Path | None) -> list[StoredDictionary]:
    return options.dictionaries(folder, None, None) if folder is not None else []


def _saes(paths: list[Path]) -> dict[str, SparseAutoencoder]:
    from exemplar_partitioning.exchange.from_sae import load_sae

    return {path.name: load_sae(path) for path in paths}


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    from exemplar_partitioning.cli.terminal import console

    from ..axbench.run import summary

    count = sum(len(given["concepts"]) for given in result["sets"])
    for site in dict.fromkeys(row["site"] for row in result["rows"]):
        table = Table(
            box=None,
            pad_edge=False,
            header_style="bold",
            title=f"{site}: AUROC over {count} concepts, by training texts",
        )
        table.add_column("features", min_width=16)
        table.add_column("rule")
        table.add_column("texts")
        for column in ("p", "k", "AUROC (95 %)", "plain", "hard"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in result["rows"]:
            if row["site"] != site:
                continue
            found = {kind: summary(row[kind]) for kind in ("auroc", "negative", "hard")}
            mean, low, high = found["auroc"]
            table.add_row(
                row["basis"],
                row["rule"],
                row["training"],
                f"{row['percentile']:g}" if row["percentile"] is not None else "",
                f"{row['k']:,}",
                f"{mean:.3f} ({low:.3f}-{high:.3f})",
                f"{found['negative'][0]:.3f}",
                f"{found['hard'][0]:.3f}",
            )
        console().print(table)
