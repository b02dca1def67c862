"""What goes between owner and workers: arrays, small ones.

Shapes: n rows (activations of a chunk), r of them that a snapshot does not cover, k exemplars, d = d_model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from ..errors import DataError
from ..stream import Chunk
from ..text.windows import Window, by_document


@dataclass(frozen=True)
class Task:
    """What a worker needs to extract as the owner would.

    Attributes:
        source: name or path of the model, and revision.
        remote_code: the owner ran code that came with the model, so this worker may.
        device: a type, such as `cuda`.
        identity: the owner's, as far as it is known without a model; a worker with another loads none.
    """

    source: tuple[str, str | None]
    remote_code: bool
    dtype: str
    device: str
    threads: int
    sites: tuple[str, ...]
    batch_size: int
    context_size: int
    identity: dict[str, str]


@dataclass(frozen=True)
class Windows:
    """The windows of a chunk as one array of ids, and how these become rows. documents: to be pooled, by a number."""

    ids: Int32[np.ndarray, " t"]
    lengths: Int32[np.ndarray, " w"]
    special_ids: frozenset[int]
    counts: Bool[np.ndarray, " t"]
    documents: Int32[np.ndarray, " w"] | None

    @classmethod
    def of(cls, chunk: Chunk) -> Windows:
        ids = [window.ids for window in chunk.windows]
        lengths = np.array([len(each) for each in ids], np.int32)
        counts = np.zeros(lengths.sum(), bool)
        counts[chunk.counted] = True
        documents = None
        if chunk.pooled:
            sizes = [len(part) for part in by_document(chunk.windows)]
            documents = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        return cls(np.concatenate(ids), lengths, chunk.special_ids, counts, documents)

    @property
    def chunk(self) -> Chunk:
        """The chunk, as far as extraction wants to know it."""
        ends = np.cumsum(self.lengths)[:-1]
        documents = np.zeros(len(self.lengths), np.int32) if self.documents is None else self.documents
        parts = zip(documents, np.split(self.ids, ends), np.split(self.counts, ends), strict=True)
        cut = [Window(str(document), at, ids, 0, counts) for at, (document, ids, counts) in enumerate(parts)]
        return Chunk(cut, self.special_ids, len(self.ids), 0, "", None, pooled=self.documents is not None)


@dataclass(frozen=True)
class Known:
    """A dictionary as a worker first hears of it: exemplars in order, the rows of the stream they were.

    Attributes:
        closed: exemplars that cover two later rows or more alone, which is as far as this is counted.
    """

    site: str
    center: Float32[np.ndarray, " d"]
    threshold: float
    exemplars: Float32[np.ndarray, "k d"]
    births: Int64[np.ndarray, " k"]
    closed: Int64[np.ndarray, " c"]


@dataclass(frozen=True)
class News:
    """What became of a chunk, for each dictionary: new exemplars, their rows of the stream, what closed since."""

    exemplars: list[Float32[np.ndarray, "new d"]]
    births: list[Int64[np.ndarray, " new"]]
    closed: list[Int64[np.ndarray, " c"]]


@dataclass(frozen=True)
class Proposal:
    """Rows of a chunk that could become exemplars.

    Attributes:
        rows, x: for each site, rows that some dictionary's snapshot does not cover, ascending, and their activations.
        skipped: for each site, rows without a direction.
        known: for each dictionary, exemplars of its snapshot.
        uncovered: which of its site's rows it does not cover.
    """

    rows: dict[str, Int32[np.ndarray, " r"]]
    x: dict[str, Float32[np.ndarray, "r d"]]
    skipped: dict[str, Int32[np.ndarray, " s"]]
    known: list[int]
    uncovered: list[Int32[np.ndarray, " u"]]

    def check(self, n: int, d: int, dictionaries: list[tuple[str, int]], where: str) -> None:
        """Raise DataError unless this can be of a chunk of n rows; dictionaries: site and number of exemplars."""
        if len(self.known) != len(dictionaries) or len(self.uncovered) != len(dictionaries):
            raise broken(where, f"{len(self.known)} dictionaries instead of {len(dictionaries)}")
        for site in {site for site, _ in dictionaries}:
            rows, x_rd, skipped = (part.get(site) for part in (self.rows, self.x, self.skipped))
            if rows is None or x_rd is None or skipped is None or x_rd.shape != (len(rows), d):
                raise broken(where, f"no activations of width {d} at {site}")
            if not (_ascending(rows, n) and _ascending(skipped, n)) or np.intersect1d(rows, skipped).size:
                raise broken(where, f"rows at {site} that are not among the {n:,} of the chunk, in their order")
            if not np.isfinite(x_rd).all():
                raise broken(where, f"proposed activations at {site} that are not finite")
        for (site, k), known, uncovered in zip(dictionaries, self.known, self.uncovered, strict=True):
            if not 0 <= known <= k or not _ascending(uncovered, len(self.rows[site])):
                raise broken(where, f"a snapshot of {known:,} exemplars at {site}, where there are {k:,}")


@dataclass(frozen=True)
class Segment:
    """Counts over a run of rows: ids of exemplars; rows that arrived at each; of them, covered by it alone, up to 2."""

    ids: np.ndarray
    online: np.ndarray
    sole: np.ndarray

    @classmethod
    def of(cls, ids_n: Int64[np.ndarray, " n"], alone_n: np.ndarray) -> Segment:
        """From the exemplar each row arrived at, -1 for none, and whether this alone covers it."""
        ids, online = np.unique(ids_n[ids_n >= 0], return_counts=True)
        sole = np.minimum(np.bincount(np.searchsorted(ids, ids_n[alone_n]), minlength=len(ids)), 2)
        return cls(_narrow(ids), _narrow(online), sole.astype(np.uint8))

    def dense(self, rows: int, k: int, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Online and sole-cover counts of k exemplars; raises DataError unless so many rows are counted."""
        fits = len(self.ids) == len(self.online) == len(self.sole) and _ascending(self.ids, k)
        if not fits or int(self.online.sum()) != rows or (self.sole > self.online).any() or (self.sole > 2).any():
            raise broken(where, f"counts that do not add up to {rows:,} rows of {k:,} exemplars")
        online, sole = np.zeros((2, k), np.int64)
        online[self.ids], sole[self.ids] = self.online, self.sole
        return online, sole


def broken(where: str, what: str) -> DataError:
    """What to say of a worker that sends nonsense."""
    return DataError(
        f"the worker on {where} sent {what}: its memory or software is broken. Everything before is kept; go on with "
        "the same command and --resume, without that host"
    )


def size(value: Any) -> int:
    """Bytes of the arrays in what is sent."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list | tuple):
        return sum(map(size, value))
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    if is_dataclass(value):
        return sum(size(getattr(value, field.name)) for field in fields(value))
    return 0


def _ascending(rows: np.ndarray, below: int) -> bool:
    return not len(rows) or bool((np.diff(rows.astype(np.int64)) > 0).all() and rows[0] >= 0 and rows[-1] < below)


def _narrow(values: np.ndarray) -> np.ndarray:
    return values.astype(np.min_scalar_type(int(values.max()))) if len(values) else values.astype(np.uint8)
