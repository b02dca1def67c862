"""What a reader needs to repeat an experiment: command, seed, versions, machine."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exemplar_partitioning.files import to_json, write_new
from exemplar_partitioning.models.loaded import ModelInfo

_PACKAGES = ("exemplar-partitioning", "torch", "transformers", "numpy", "scikit-learn")


def record(
    name: str, arguments: list[str], info: ModelInfo, seed: int, seconds: float, *, study: str | None = None
) -> dict[str, Any]:
    """The head of a result file, of `ep` or of a study. Paths in the command are cut to their last parts."""
    program = f"python -m experiments.studies.{study}" if study else "ep"
    return {
        "experiment": name,
        "command": " ".join([program, *(shlex.quote(_short(argument)) for argument in arguments)]),
        "seed": seed,
        "model": {
            "id": info.id,
            "revision": info.revision,
            "dtype": info.dtype,
            "fingerprint": info.fingerprint,
        },
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "machine": platform.machine(),
        "minutes": round(seconds / 60, 1),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_study(file: Path, name: str, info: ModelInfo, begun: float, result: dict[str, Any], *, study: str) -> None:
    """Write what a study found, whole, with its head. begun: by the monotonic clock."""
    head = record(name, sys.argv[1:], info, 0, time.monotonic() - begun, study=study)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_new(file, to_json(head | result))


def _short(argument: str) -> str:
    name, equals, value = argument.rpartition("=")
    path = Path(value)
    return f"{name}{equals}{path.name}" if path.is_absolute() else argument
