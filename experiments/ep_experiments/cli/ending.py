"""How the command of an experiment ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from exemplar_partitioning.models.loaded import ModelInfo


class Run:
    """An experiment on its way. name: as `ep experiment` has it.  begun: the clock at its start, in seconds."""

    def __init__(self, name: str, *, seed: int, as_json: bool) -> None:
        self.name, self.seed, self.as_json = name, seed, as_json
        self.begun = time.monotonic()

    def finish(
        self,
        file: Path,
        info: ModelInfo,
        result: dict[str, Any],
        show: Callable[[dict[str, Any]], None],
        *,
        seconds: float | None = None,
        encode: Callable[[dict[str, Any]], bytes] | None = None,
    ) -> None:
        """Write the result with what is needed to repeat it, then print it as JSON, or show it and say where it is.

        Args:
            file: Written anew, with the folders above it.
            info: Of the model whose activations were looked at.
            result: Plain values.
            show: Prints the result for people.
            seconds: What the experiment took, if not the time since it began.
            encode: Makes the file's bytes, if not as other JSON files.
        """
        from exemplar_partitioning.cli.output import print_json
        from exemplar_partitioning.files import disk_errors, to_json, write_new

        from ..record import record

        took = time.monotonic() - self.begun if seconds is None else seconds
        result = record(self.name, sys.argv[1:], info, self.seed, took) | result
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_new(file, (encode or to_json)(result))
        if self.as_json:
            print_json(result)
            return
        show(result)
        typer.echo(f"\n{file}")
