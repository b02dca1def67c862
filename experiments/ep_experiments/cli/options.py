"""Options that experiments share beside those of the command line itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exemplar_partitioning.cli.options import Device as Device
from exemplar_partitioning.cli.options import Dtype as Dtype
from exemplar_partitioning.cli.options import Json as Json
from exemplar_partitioning.cli.options import MaxTokens as MaxTokens
from exemplar_partitioning.cli.options import count as count
from exemplar_partitioning.cli.options import dictionaries as dictionaries
from exemplar_partitioning.cli.options import percentiles as percentiles
from exemplar_partitioning.cli.options import sources as sources

MODEL = "smollm2-135m-instruct"

Model = Annotated[str, typer.Option(help="Model: packaged name, hub id or path.")]
Site = Annotated[str | None, typer.Option(help="One site.", show_default="half way up")]
Percentiles = Annotated[str, typer.Option("--percentile", help="Percentiles, separated by commas.")]
SomePercentiles = Annotated[
    str | None, typer.Option("--percentile", help="Percentiles, separated by commas.", show_default="all")
]
ContextSize = Annotated[int, typer.Option(min=1, help="Tokens of text in a window.")]
Saes = Annotated[list[Path] | None, typer.Option("--sae", help="Autoencoder of the same site; may be repeated.")]
