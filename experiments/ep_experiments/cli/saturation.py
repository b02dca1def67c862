"""`ep experiment saturation`: do dictionaries saturate on a kind of text?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .ending import Run


def saturation(
    domain: Annotated[
        list[str], typer.Option(help="name=FILE of a kind of text; may be repeated.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for activations and result.json; interrupted, it goes on.")],
    model: options.Model = options.MODEL,
    site: options.Site = None,
    percentile: options.Percentiles = "1,2,4,8",
    max_tokens: Annotated[
        int, typer.Option(help="Tokens of each domain.", parser=options.count, metavar="COUNT")
    ] = 100_000,
    context_size: options.ContextSize = 128,
    field: Annotated[str, typer.Option(help="Column or key that holds the text.")] = "text",
    seed: Annotated[int, typer.Option(min=0, help="Of the mix that is calibrated on.")] = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="A look at 5,000 tokens of each domain.")] = False,
    as_json: options.Json = False,
) -> None:
    """One pass over each kind of text with a common centre and thresholds; growth, missing mass, saturation."""
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.demo.corpus import documents_of
    from exemplar_partitioning.models.load import load_model
    from exemplar_partitioning.text.windowing import Windowing

    from .. import saturation as experiment
    from ..streamed import stream_to

    run = Run("saturation", seed=seed, as_json=as_json)
    files = dict(_domain(given) for given in domain)
    percentiles = options.percentiles(percentile)
    tokens = 5_000 if quick else max_tokens
    loaded = load_model(model, dtype=dtype, device=device)
    chosen = site or f"resid_post.{loaded.info.n_layers // 2}"
    with steps() as report:
        streams = {}
        for name, file in files.items():
            source = documents_of(file, field=field)
            streams[name] = stream_to(
                out / name, loaded, chosen, source, source.name, tokens, Windowing(context_size=context_size), report
            )
        report("clustering", 0, 1)
        result = experiment.run(streams, percentiles, seed)
    run.finish(out / "result.json", loaded.info, result, _show)


def _domain(given: str) -> tuple[str, Path]:
    name, sign, file = given.partition("=")
    if not (name and sign and file) or "/" in name:
        raise typer.BadParameter(f"{given!r}: expected name=FILE, such as code=corpora/code.jsonl.gz")
    return name, Path(file)


def _show(result: dict[str, Any]) -> None:
    from exemplar_partitioning.cli.terminal import console, interval, table

    figures = (">activations", ">regions", ">a (95 %)", ">missing mass % (95 %)", ">saturated at")
    for percentile in dict.fromkeys(row["percentile"] for row in result["results"]):
        shown = table("domain", *figures, title=f"percentile {percentile:g}: growth as K ~ N^a")
        for row in result["results"]:
            if row["percentile"] == percentile:
                at, missing = row["saturated_at"], [100 * row["unseen"][name] for name in ("estimate", "low", "high")]
                shown.add_row(
                    row["domain"],
                    f"{row['activations']:,}",
                    f"{row['k']:,}",
                    interval([row[name] for name in ("exponent", "exponent_low", "exponent_high")]),
                    interval(missing, 3),
                    f"{at:,}" if at else "not",
                )
        console().print(shown)
