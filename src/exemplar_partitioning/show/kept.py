"""Arrays that take long to compute, kept in the user's cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..demo import wheels
from ..errors import ResourceError

Arrays = dict[str, np.ndarray]


def kept(name: str, compute: Callable[[], Arrays]) -> Arrays:
    """The arrays of this name, computed if they are not in the cache; each time, where nothing can be written to it.

    Raises what `compute` raises, and DataError for a file that belongs to another user.
    """
    arrays: Arrays = {}

    def make(path: Path) -> None:
        arrays.update(compute())
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]

    try:
        path = wheels.kept(f"{name}.npz", make)
    except ResourceError:
        return arrays or compute()
    if not arrays:
        with path.open("rb") as file, np.load(file) as read:
            arrays.update(read)
    return arrays
