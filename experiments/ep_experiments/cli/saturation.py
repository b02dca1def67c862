"""`ep experiment saturation`: do dictionaries saturate on a kind of text?"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from exemplar_partitioning.cli import options


def saturation(
    domain: Annotated[
        list[str], typer.Option(help="name=FILE of a kind of text; may be repeated.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for activations and result.json; interrupted, it goes on.")],
    model: Annotated[str, typer.Option(help="Model: packaged name, hub id or path.")] = "smollm2-135m-instruct",
    site: Annotated[str | None, typer.Option(help="One site.", show_default="half way up")] = None,
    percentile: Annotated[str, typer.Option(help="Resolutions.")] = "1,2,4,8",
    max_tokens: Annotated[str, typer.Option(help="Tokens of each domain.")] = "100_000",
    context_size: Annotated[int, typer.Option(min=1, help="Tokens of text in a window.")] = 128,
    field: Annotated[str, typer.Option(help="Column or key that holds the text.")] = "text",
    seed: Annotated[int, typer.Option(min=0, help="Of the mix that is calibrated on.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of the forward pass: auto, float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="A look at 5,000 tokens of each domain.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON instead of a table.")] = False,
) -> None:
    """One pass over each kind of text with a common centre and thresholds; growth, unseen mass, saturation."""
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.demo.corpus import documents_of
    from exemplar_partitioning.files import write_new
    from exemplar_partitioning.folder.dictionary import to_json
    from exemplar_partitioning.models.load import load_model
    from exemplar_partitioning.text.windowing import Windowing

    from .. import saturation as experiment
    from ..record import record
    from ..streamed import stream_to

    begun = time.monotonic()
    files = dict(_domain(given) for given in domain)
    percentiles = options.percentiles(percentile)
    tokens = 5_000 if quick else options.count(max_tokens)
    loaded = load_model(model, dtype=dtype, device=device)
    chosen = site or f"resid_post.{loaded.info.n_layers // 2}"
    with steps() as tell:
        streams = {}
        for name, file in files.items():
            source = documents_of(file, field=field)
            streams[name] = stream_to(
                out / name, loaded, chosen, source, source.name, tokens, Windowing(context_size=context_size), tell
            )
        tell("clustering", 0, 1)
        result = experiment.run(streams, percentiles, seed)
    result = record("saturation", sys.argv[1:], loaded, seed, time.monotonic() - begun) | result
    write_new(out / "result.json", to_json(result))
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=2))
        return
    _show(result["results"])


def _domain(given: str) -> tuple[str, Path]:
    name, sign, file = given.partition("=")
    if not (name and sign and file) or "/" in name:
        raise typer.BadParameter(f"{given!r}: expected name=FILE, such as code=corpora/code.jsonl.gz")
    return name, Path(file)


def _show(results: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from exemplar_partitioning.cli.terminal import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("p", "domain"):
        table.add_column(column)
    for column in ("activations", "regions", "a of K ~ N^a (95 %)", "unseen mass (95 %)", "saturated at"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results:
        unseen, at = row["unseen"], row["saturated_at"]
        table.add_row(
            f"{row['percentile']:g}",
            row["domain"],
            f"{row['activations']:,}",
            f"{row['k']:,}",
            f"{row['exponent']:.2f} ({row['exponent_low']:.2f}-{row['exponent_high']:.2f})",
            f"{unseen['estimate']:.1e} ({unseen['low']:.1e}-{unseen['high']:.1e})",
            f"{at:,}" if at else "not",
        )
    console().print(table)
