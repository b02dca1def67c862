"""`ep experiment extract`: activations of a stream of text, kept for other experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def extract(
    out: Annotated[Path, typer.Argument(help="Folder for the activations.", show_default=False)],
    text: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, globs or hf:owner/dataset.", show_default="the packaged text"),
    ] = None,
    model: options.Model = options.MODEL,
    site: options.Site = None,
    max_tokens: options.MaxTokens = 1_000_000,
    context_size: options.ContextSize = 128,
    field: Annotated[str, typer.Option(help="Column or key that holds the text.")] = "text",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Keep the activations of a stream of text on disk, as a build would read it; interrupted, it goes on."""
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.demo.corpus import documents_of
    from exemplar_partitioning.models.load import load_model
    from exemplar_partitioning.text.windowing import Windowing

    from ..streamed import stream_to

    tokens = max_tokens
    source = documents_of(options.sources(text), field=field)
    loaded = load_model(model, dtype=dtype, device=device)
    with steps() as report:
        chosen = site or f"resid_post.{loaded.info.n_layers // 2}"
        streamed = stream_to(
            out, loaded, chosen, source, source.name, tokens, Windowing(context_size=context_size), report
        )
    typer.echo(f"{len(streamed):,} activations of {streamed.record['site']} in {out}")
