"""Checkpoints of long work: arrays and a record, in a folder that appears whole or not at all.

<work>/checkpoint-<serial>/arrays.npz      written array by array, so that nothing is held twice
                           state.json      the record, and the hash of the arrays; state.json.sha256 is its own
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..errors import DataError
from ..files import check_seal, new_folder, read_json, seal, sha256, verify


class Checkpoints:
    """The checkpoints in a work folder; only the newest counts."""

    def __init__(self, work: Path):
        self.work = work

    def __bool__(self) -> bool:
        return bool(self._folders())

    def _folders(self) -> list[Path]:
        return sorted(self.work.glob("checkpoint-*"))

    def save(self, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Write a checkpoint; those before it go when it is whole. Raises ResourceError if the disk is full."""
        older = self._folders()
        serial = int(older[-1].name.split("-")[1]) + 1 if older else 1
        with new_folder(self.work / f"checkpoint-{serial:08d}") as folder:
            file = folder / "arrays.npz"
            np.savez(file, allow_pickle=False, **dict(arrays))
            stamped = {**record, "arrays": {"digest": sha256(file), "size": file.stat().st_size}}
            (folder / "state.json").write_text(json.dumps(stamped), encoding="utf-8")
            seal(folder / "state.json")
        for folder in older:
            shutil.rmtree(folder, ignore_errors=True)

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and record of the newest checkpoint, None if there is none. Raises DataError if it is damaged."""
        folders = self._folders()
        if not folders:
            return None
        folder = folders[-1]
        try:
            check_seal(folder / "state.json")
            record = read_json(folder / "state.json")
            verify(folder / "arrays.npz", **record.pop("arrays"))
            with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
                return dict(arrays), record
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise self.damaged(error) from error

    def damaged(self, error: Exception) -> DataError:
        """What to say when the newest checkpoint makes no sense."""
        return DataError(
            f"the checkpoint {self._folders()[-1]} is damaged ({error}); remove {self.work} and start again"
        )


def below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
