"""The members that stand for a region: per region the few rows with the smallest keys, one a document.

What remains does not depend on the order in which rows come, nor on how they are grouped: of every
document the best row, of these the best few (law L4).

Shapes: k regions, m examples kept of each, t tokens of context, n rows offered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64, UInt64

NONE = np.iinfo(np.int64).max  # key of an empty place

Payload = dict[str, np.ndarray]


class BestRows:
    """For each region the m rows with the smallest keys, no two of one document; ties go by document and position.

    columns: what is kept of a row beside its key, name -> (shape, dtype).
    """

    def __init__(self, k: int, m: int, columns: dict[str, tuple[tuple[int, ...], np.dtype]]):
        self.k, self.m = k, m
        self.key = np.full((k, m), NONE, np.int64)
        self.document = np.zeros((k, m), np.uint64)
        self.position = np.zeros((k, m), np.int64)
        self.payload: Payload = {name: np.zeros((k, m, *shape), dtype) for name, (shape, dtype) in columns.items()}

    def offer(
        self,
        region_n: Int64[np.ndarray, " n"],
        key_n: Int64[np.ndarray, " n"],
        document_n: UInt64[np.ndarray, " n"],
        position_n: Int64[np.ndarray, " n"],
        payload_of: Callable[[Int64[np.ndarray, " r"]], Payload],
    ) -> None:
        """Take what is better than what is here; `payload_of` is asked about the rows that get in only."""
        new = np.flatnonzero(key_n <= self.key[region_n, -1])  # equal: a tie is decided below
        if not len(new):
            return
        touched = np.unique(region_n[new])
        old_region, old_place = np.nonzero(self.key[touched] != NONE)
        old_region = touched[old_region]
        region = np.concatenate([old_region, region_n[new]])
        key = np.concatenate([self.key[old_region, old_place], key_n[new]])
        document = np.concatenate([self.document[old_region, old_place], document_n[new]])
        position = np.concatenate([self.position[old_region, old_place], position_n[new]])

        # the best row of each document in each region, then the best m rows of each region
        order = np.lexsort((position, key, document, region))
        order = order[_first_of_runs(region[order], document[order])]
        order = order[np.lexsort((position[order], document[order], key[order], region[order]))]
        place = _place_in_run(region[order])
        order, place = order[place < self.m], place[place < self.m]

        is_new = order >= len(old_region)
        source = order[is_new] - len(old_region)
        fresh = payload_of(new[source])
        to_new = region[order[is_new]], place[is_new]
        to_old = region[order[~is_new]], place[~is_new]
        moved = old_region[order[~is_new]], old_place[order[~is_new]]
        for name, values in self.payload.items():
            values[to_old] = values[moved]  # the right side is a copy, so places may swap
            values[to_new] = fresh[name]
        for array, values in ((self.key, key), (self.document, document), (self.position, position)):
            array[region[order], place] = values[order]

    def merge(self, arrays: dict[str, np.ndarray]) -> None:
        """Take what another kept of other rows, as its `arrays` gave it."""
        region, place = np.nonzero(arrays["key"] != NONE)
        key, document, position = (arrays[name][region, place] for name in ("key", "document", "position"))

        def payload_of(rows: np.ndarray) -> Payload:
            return {name: arrays[f"payload.{name}"][region[rows], place[rows]] for name in self.payload}

        self.offer(region, key, document, position, payload_of)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a checkpoint."""
        arrays = {"key": self.key, "document": self.document, "position": self.position}
        return arrays | {f"payload.{name}": values for name, values in self.payload.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.key, self.document, self.position = arrays["key"], arrays["document"], arrays["position"]
        self.payload = {name: arrays[f"payload.{name}"] for name in self.payload}


def _first_of_runs(*sorted_by: np.ndarray) -> np.ndarray:
    """Indices at which any of the arrays has another value than just before."""
    changes = np.zeros(len(sorted_by[0]), bool)
    changes[:1] = True
    for values in sorted_by:
        changes[1:] |= values[1:] != values[:-1]
    return np.flatnonzero(changes)


def _place_in_run(values: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values."""
    starts = _first_of_runs(values)
    lengths = np.diff(np.append(starts, len(values)))
    return np.arange(len(values)) - np.repeat(starts, lengths)


def ascending(distance_n: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Keys by which small distances come first: the bits of a float64 that is not negative are in its order."""
    return (np.abs(distance_n) + 0.0).view(np.int64)


def descending(distance_n: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Keys by which large distances come first."""
    return NONE - 1 - ascending(distance_n)


def shuffled(document_n: UInt64[np.ndarray, " n"], position_n: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Keys in an order like chance's that follows from the rows alone (the finaliser of SplitMix64)."""
    z = document_n + (position_n.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(1)).astype(np.int64) & (NONE - 1)
