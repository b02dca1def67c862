"""`ep transport`: the regions of a dictionary in another model, layer or checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..compare.structure import Measure
    from ..folder.dictionary import StoredDictionary


def transport(
    a: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="A")],
    model: Annotated[str, typer.Option(help="Model to carry it to: packaged name, path or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for the dictionary there.")],
    to_site: Annotated[
        str | None, typer.Option("--to-site", "-s", help="Site in that model.", show_default="of the same name")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Which site of A, where it holds several.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Which percentile of A, where it holds several.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text for both models to read: do tokens stay in their region?", show_default=False),
    ] = None,
    max_tokens: Annotated[str, typer.Option(help="Tokens of it to read.")] = "50_000",
    field: Annotated[str, typer.Option(help="Column or key that holds the text.")] = "text",
    keep_center: Annotated[
        bool, typer.Option("--keep-center", help="Keep A's centre and threshold, for checkpoints of one model.")
    ] = False,
    source_model: Annotated[
        str | None, typer.Option(help="Where A's own model is, if it has moved.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the forward pass: auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of lines.")] = False,
) -> None:
    """Embed A's exemplars with another model: the same regions there, how far they moved, whether they still agree."""
    from ..compare.neighbours import common_tokens, places
    from ..compare.structure import drift, structure
    from ..compare.transport import transport as run
    from ..folder.origin import read_origin
    from ..models.load import load_model

    tokens = options.count(max_tokens)
    source = options.one_dictionary(a, site, percentile)
    loaded = load_model(model, dtype=dtype, device=device)
    carried = run(
        source,
        loaded,
        out,
        site=to_site,
        source_model=source_model,
        keep_center=keep_center,
    )
    common = None
    if text:
        first, second = places(source, carried, source_model, loaded, device=device)
        common = common_tokens(first, second, options.sources(text), field=field, max_tokens=tokens)
    found: dict[str, Any] = {"path": str(carried.path), "origin": read_origin(carried)}
    found["structure"] = structure(source, carried, common).as_json() if source.k >= 3 else None
    found["drift"] = drift(source, carried).summary() if source.d_model == carried.d_model else None
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        _show(source, carried, found)


def _show(source: StoredDictionary, carried: StoredDictionary, found: dict[str, Any]) -> None:
    from rich.table import Table

    from .terminal import console

    out, origin = console(), found["origin"]
    out.print(f"{carried.k:,} regions of {source.config.model.id} {source.config.site.name} now in {found['path']}")
    out.print(
        f"centre and theta {carried.threshold:.4f} (there {source.threshold:.4f}): {origin['centre_and_threshold']}"
    )
    if origin["tokenizer"] == "another":
        out.print(
            f"another tokenizer: {len(origin['split']):,} exemplars' tokens begin at another character, "
            f"{len(origin['cut']):,} were part of a character"
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("agreement")
    for name in ("value", "permuted", "highest", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    names = {
        "gram": "cosines of pairs of exemplars (Pearson)",
        "neighbours": "ten nearest exemplars shared",
        "stay": "tokens that stay in their region",
    }
    for key, name in names.items():
        measure = found["structure"] and found["structure"][key]
        if measure:
            table.add_row(name, *_cells(measure))
    if table.row_count:
        out.print(table)
    if found["drift"]:
        d = found["drift"]
        own, common, null = d["cosine"], d["cosine_common_centre"], d["null"]
        out.print(
            f"drift: cosine of a region's exemplar here and there, median {own['median']:.3f} (p10 {own['p10']:.3f}); "
            + (f"around one centre {common['median']:.3f}; " if common else "")
            + f"of different regions {null['median']:.3f} (p99 {null['p99']:.3f}); "
            f"{d['recognised']:.1%} nearest to themselves (chance {d['recognised_null']:.2%})"
        )


def _cells(measure: Measure | dict[str, float]) -> list[str]:
    values = measure if isinstance(measure, dict) else vars(measure)
    return [*(f"{values[name]:.3f}" for name in ("value", "null_mean", "null_high")), f"{values['p']:.3f}"]
