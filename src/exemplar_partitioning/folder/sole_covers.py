"""sole_covers.json beside a dictionary's config.json: what the missing mass goes on from when the dictionary grows.

For each region, how many later activations its exemplar alone covered while the dictionary was built: 0, 1, or 2 for
more. Like labels it is no part of the dictionary: without it, an extension counts over the new text alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ..errors import DataError
from ..files import sealed, unsealed

FILE = "sole_covers.json"
_FORMAT = "exemplar-partitioning/sole-covers"


def sole_covers(content_ids: Sequence[str], sole_counts: Int64[np.ndarray, " k"]) -> dict[str, bytes]:
    """The file, to be saved beside the dictionary of these exemplars."""
    counts = "".join(map(str, sole_counts.tolist()))
    return {FILE: sealed({"format": _FORMAT, "schema_version": "1.0", "regions": _name(content_ids), "counts": counts})}


def read_sole_covers(folder: Path, content_ids: Sequence[str]) -> Int64[np.ndarray, " k"] | None:
    """The counts; None where none are kept. Raises DataError if they are damaged, or another dictionary's."""
    path = folder / FILE
    if not path.is_file():
        return None
    record = unsealed(path, always=True)
    counts = str(record.get("counts"))
    fits = len(counts) == len(content_ids) and set(counts) <= set("012")
    if record.get("format") != _FORMAT or record.get("regions") != _name(content_ids) or not fits:
        raise DataError(f"{path} is damaged, or another dictionary's; remove it, or copy the whole folder again")
    return np.array(list(counts), np.int64)


def _name(content_ids: Sequence[str]) -> str:
    return hashlib.sha256("".join(content_ids).encode()).hexdigest()
