"""What is gathered about one dictionary's regions in a pass with frozen exemplars: sums, counts and best rows.

Everything here merges without a trace of order or grouping (law L4).

Shapes: n rows (activations of a chunk), k regions, t tokens of context, d = d_model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int16, Int32, Int64, UInt64
from torch import Tensor

from ..core.dictionary import Dictionary
from ..core.geometry import Block, has_direction
from ..core.statistics import MemberStatistics
from ..folder.annotation import BIN_WIDTH, BINS
from ..stream import Chunk
from .best_rows import NONE, BestRows, ascending, descending, shuffled
from .token_counts import PairCounts

KEPT = {"nearest": 8, "farthest": 4, "random": 8}  # examples of each kind
BEFORE, AFTER = 20, 10  # tokens of context
CONTEXT = BEFORE + 1 + AFTER
BEYOND = -2  # in place of an id, outside of a window; -1 is a token that is not known

_HEAT_ROWS = 32  # contexts whose distances are computed at once: few enough to stay in the cache


class ChunkRows:
    """The activations of a chunk as rows with their tokens; the same for all sites.

    Attributes:
        token_n, position_n: of each row; token -1 where none is known, or documents are pooled.
        before_n: id of the token before it, -1 after a BOS, at the start, or where documents are pooled.
        document_n: hash of its document; its last bit tells the half.
    """

    def __init__(self, chunk: Chunk):
        windows = chunk.windows
        lengths = np.array([len(window.ids) for window in windows])
        self._ids = np.concatenate([window.ids for window in windows]).astype(np.int64)
        first = np.repeat(np.cumsum(lengths) - lengths + [window.prefix for window in windows], lengths)
        end = np.repeat(np.cumsum(lengths), lengths)
        row_of = np.full(len(self._ids), -1, np.int64)
        row_of[chunk.kept] = np.arange(len(chunk.kept))
        self._row_of, self._at = row_of, chunk.kept
        self._first, self._end = first[chunk.kept], end[chunk.kept]
        hashes = np.array([document_hash(window.document) for window in windows], np.uint64)
        self.document_n: UInt64[np.ndarray, " n"] = np.repeat(hashes, lengths)[chunk.kept]
        self.position_n: Int64[np.ndarray, " n"] = np.concatenate([w.positions for w in windows])[chunk.kept].astype(
            np.int64
        )
        self.token_n: Int64[np.ndarray, " n"] = np.full_like(chunk.kept, -1) if chunk.pooled else self._ids[chunk.kept]
        has_before = (self._at > self._first) & (not chunk.pooled)
        self.before_n: Int64[np.ndarray, " n"] = np.where(has_before, self._ids[self._at - has_before], -1)

    def context(self, rows: Int64[np.ndarray, " r"]) -> tuple[Int32[np.ndarray, "r t"], Int64[np.ndarray, "r t"]]:
        """Ids around rows, each row's own in column BEFORE, BEYOND outside of its window; and which row each is."""
        index = self._at[rows][:, None] + np.arange(-BEFORE, AFTER + 1)
        inside = (index >= self._first[rows][:, None]) & (index < self._end[rows][:, None])
        index = np.where(inside, index, 0)
        return np.where(inside, self._ids[index], BEYOND).astype(np.int32), np.where(inside, self._row_of[index], -1)


def document_names(chunk: Chunk) -> dict[int, str]:
    """The documents of a chunk, by what stands for them."""
    return {document_hash(window.document): window.document for window in chunk.windows}


def document_hash(document: str) -> int:
    """64 bits that stand for a document."""
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest(), "little")


class SiteRows:
    """A chunk's rows at one site that are assigned: their directions in fast arithmetic, NaN where there is none."""

    def __init__(self, rows: ChunkRows, u_nd: Float[np.ndarray, "n d"]):
        self.rows, self.u_nd = rows, u_nd

    @classmethod
    def assign(
        cls, rows: ChunkRows, x_nd: Float[Tensor, "n d"], evidence: Sequence[Evidence]
    ) -> tuple[SiteRows, list[Assignment]]:
        """The rows, and each dictionary's regions and distances of them.

        What blocks prepare is shared, then forgotten. Overwrites the activations: directions take their place.
        """
        assignments = [Assignment.empty(len(x_nd)) for _ in evidence]
        for part, block in evidence[0].dictionary.blocks(x_nd):
            at = part.start + block.rows_n.cpu()
            for each, assignment in zip(evidence, assignments, strict=True):
                each.assign(block, at, rows, assignment)
                each.halves.skipped += part.stop - part.start - len(block)
            x_nd[part] = torch.nan
            x_nd[at] = block.u_nd.cpu()
        return cls(rows, x_nd.numpy()), assignments


@dataclass(frozen=True)
class Assignment:
    """Region of each row, -1 without a direction, and distance to its exemplar (float64)."""

    region_n: Int64[np.ndarray, " n"]
    distance_n: Float64[np.ndarray, " n"]

    @classmethod
    def empty(cls, n: int) -> Assignment:
        return cls(np.full(n, -1, np.int64), np.full(n, np.inf))


class Evidence:
    """The evidence about one dictionary.

    Attributes:
        halves: member statistics of 2 k cells, region r in the first half of the documents being cell 2 r and in the
            second 2 r + 1.
        within_k: members within the threshold.
        histogram_kb: members by distance.
        at, before: tokens at, and just before, the members.
    """

    def __init__(self, dictionary: Dictionary, vocab_size: int):
        self.dictionary = dictionary
        k = dictionary.k
        self.halves = MemberStatistics.empty(2 * k, dictionary.d_model)
        self.within_k = np.zeros(k, np.int64)
        self.histogram_kb = np.zeros((k, BINS), np.int32)
        self.at, self.before = PairCounts(k, vocab_size), PairCounts(k, vocab_size)
        columns = {
            "tokens": ((CONTEXT,), np.dtype(np.int32)),
            "heat": ((CONTEXT,), np.dtype(np.int16)),
            "distance": ((), np.dtype(np.float64)),
        }
        self.examples = {kind: BestRows(k, m, columns) for kind, m in KEPT.items()}

    def assign(self, block: Block, at: Tensor, rows: ChunkRows, assignment: Assignment) -> None:
        """Find the regions of a block's rows, which are at these rows of the chunk, and count them as members."""
        ids_n, distance_n = (part.cpu() for part in self.dictionary.assign_block(block))
        half_n = torch.from_numpy((rows.document_n & np.uint64(1)).astype(np.int64))
        self.halves.add(block, 2 * ids_n + half_n[at], distance_n)
        assignment.region_n[at], assignment.distance_n[at] = ids_n, distance_n

    def add(self, site: SiteRows, assignment: Assignment) -> None:
        """Take what else there is to know of the rows of a chunk that were assigned."""
        rows = site.rows
        placed = np.flatnonzero(assignment.region_n >= 0)
        region_m, distance_m = assignment.region_n[placed], assignment.distance_n[placed]
        k = self.dictionary.k
        self.within_k += np.bincount(region_m[distance_m <= self.dictionary.threshold], minlength=k)
        bin_m = np.minimum(distance_m / BIN_WIDTH, BINS - 1).astype(np.int64)
        self.histogram_kb += np.bincount(region_m * BINS + bin_m, minlength=k * BINS).reshape(k, BINS)
        self.at.add(region_m, rows.token_n[placed])
        self.before.add(region_m, rows.before_n[placed])
        self._offer(site, placed, region_m, distance_m)

    def _offer(self, site: SiteRows, placed: np.ndarray, region_m: np.ndarray, distance_m: np.ndarray) -> None:
        document_m, position_m = site.rows.document_n[placed], site.rows.position_n[placed]
        keys = {
            "nearest": ascending(distance_m),
            "farthest": descending(distance_m),
            "random": shuffled(document_m, position_m),
        }
        for kind, best in self.examples.items():
            best.offer(
                region_m,
                keys[kind],
                document_m,
                position_m,
                lambda got: self._payload(site, placed[got], region_m[got], distance_m[got]),
            )

    def _payload(
        self, site: SiteRows, row_r: np.ndarray, region_r: np.ndarray, distance_r: Float64[np.ndarray, " r"]
    ) -> dict[str, np.ndarray]:
        tokens_rt, around_rt = site.rows.context(row_r)
        heat_rt = np.empty(tokens_rt.shape, np.int16)
        e_kd = self.dictionary.exemplars.numpy(force=True)
        for start in range(0, len(row_r), _HEAT_ROWS):
            part = slice(start, start + _HEAT_ROWS)
            u_rtd = site.u_nd.take(around_rt[part], axis=0, mode="clip")
            heat_rt[part] = thousandths(1 - np.einsum("rtd,rd->rt", u_rtd, e_kd[region_r[part]]))
        heat_rt[around_rt < 0] = -1
        return {"tokens": tokens_rt, "heat": heat_rt, "distance": distance_r}

    @property
    def totals(self) -> MemberStatistics:
        """Member statistics of the k regions, both halves together."""
        k, d = self.dictionary.k, self.dictionary.d_model
        h = self.halves
        return MemberStatistics(
            h.count_k.view(k, 2).sum(1),
            h.direction_kd.view(k, 2, d).sum(1),
            h.distance_k.view(k, 2).sum(1),
            h.square_k.view(k, 2).sum(1),
            h.skipped,
        )

    @property
    def stability(self) -> Float64[np.ndarray, " k"]:
        """Cosine between the mean directions of the two halves' members; NaN where a half has none."""
        return self.halves.cosine_of_pairs

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a checkpoint."""
        h = self.halves
        arrays = {
            "count": h.count_k.numpy(),
            "direction": h.direction_kd.numpy(),
            "distance": h.distance_k.numpy(),
            "square": h.square_k.numpy(),
            "skipped": np.array([h.skipped]),
            "within": self.within_k,
            "histogram": self.histogram_kb,
        }
        for name, part in self._parts().items():
            arrays |= {f"{name}.{field}": array for field, array in part.arrays().items()}
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the state that `arrays` gave."""
        count, direction, distance, square = (
            torch.from_numpy(arrays[name]) for name in ("count", "direction", "distance", "square")
        )
        self.halves = MemberStatistics(count, direction, distance, square, int(arrays["skipped"][0]))
        self.within_k, self.histogram_kb = arrays["within"], arrays["histogram"]
        for name, part in self._parts().items():
            part.restore({f.removeprefix(f"{name}."): a for f, a in arrays.items() if f.startswith(f"{name}.")})

    def merge(self, arrays: dict[str, np.ndarray]) -> None:
        """Add what another gathered about the same dictionary over other rows, as its `arrays` gave it."""
        h = self.halves
        totals = {"count": h.count_k, "direction": h.direction_kd, "distance": h.distance_k, "square": h.square_k}
        for name, sums in totals.items():  # in place, as sums of directions are large; what is given may be read-only
            np.add(sums.numpy(), arrays[name], out=sums.numpy())
        h.skipped += int(arrays["skipped"][0])
        h.check_range()
        self.within_k += arrays["within"]
        self.histogram_kb += arrays["histogram"]
        for name, part in self._parts().items():
            part.merge({f.removeprefix(f"{name}."): a for f, a in arrays.items() if f.startswith(f"{name}.")})

    def _parts(self) -> dict[str, PairCounts | BestRows]:
        return {"at": self.at, "before": self.before, **self.examples}


def thousandths(distance: Float[np.ndarray, "*shape"]) -> Int16[np.ndarray, "*shape"]:
    """Cosine distances in thousandths, -1 for NaN.

    Three digits are what an eye can see; the rounding also hides the last bits of fast sums.
    """
    return np.nan_to_num(np.rint(np.clip(distance, 0, 2) * 1000), nan=-1).astype(np.int16)


class Sample:
    """Activations of a site drawn at random: those whose keys are the smallest, whatever the order they come in."""

    def __init__(self, size: int, center: Float[Tensor, " d"]):
        self.center = center
        self.key, self.x = np.full(size, NONE, np.int64), np.zeros((size, len(center)), np.float32)

    def add(self, rows: ChunkRows, x_nd: Float[Tensor, "n d"]) -> None:
        """Take the rows of a chunk; those without a direction stay out."""
        directed = has_direction(x_nd, self.center).numpy().nonzero()[0]
        self._keep(shuffled(rows.document_n[directed], rows.position_n[directed]), x_nd.numpy(), directed)

    def merge(self, arrays: dict[str, np.ndarray]) -> None:
        """Take what another drew from other rows, as its `arrays` gave it."""
        filled = np.flatnonzero(arrays["key"] != NONE)
        self._keep(arrays["key"][filled], arrays["x"], filled)

    def _keep(self, key: Int64[np.ndarray, " m"], x_nd: np.ndarray, rows: np.ndarray) -> None:
        """Keep the rows with the smallest keys of those here and these, which are at some places in x_nd."""
        smallest = np.argsort(np.concatenate([self.key, key]), kind="stable")[: len(self.key)]
        new = smallest[smallest >= len(self.key)] - len(self.key)
        places = np.setdiff1d(np.arange(len(self.key)), smallest)  # empty, or of rows that others have driven out
        self.key[places], self.x[places] = key[new], x_nd[rows[new]]

    @property
    def ordered(self) -> Float[np.ndarray, "n d"]:
        """The activations in the order of their keys."""
        return self.x[np.argsort(self.key, kind="stable")[: np.count_nonzero(self.key != NONE)]]

    def arrays(self) -> dict[str, np.ndarray]:
        return {"key": self.key, "x": self.x}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.key, self.x = arrays["key"], arrays["x"]
