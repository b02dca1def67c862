"""Streaming leader clustering: exact, and the same whatever the batching (laws L1-L3).

A row of the stream becomes an exemplar iff no earlier exemplar lies within the threshold. Rows that
do not, arrive at the nearest exemplar that exists at their moment. Both are statements about the
stream, so they are decided as if rows came one at a time, though the work is done in blocks:

1. rows of a block against the exemplars there were before it (matrix products);
2. the rows that none of those covers, among themselves, one vector operation per new exemplar;
3. all rows against the new exemplars born before them in the block.

Some rows are covered by their nearest exemplar alone. An exemplar that never was the sole cover of a
later row is one that the stream would have met for the first time had its own row come last: counting
them is the leave-one-out form of Good and Turing's estimate (law L5; `statistics.missing_mass`).

Shapes: n rows of a block, r uncovered rows among them, k exemplars, d = d_model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from .candidates import Candidates, Covers
from .geometry import UNIT_ROUNDOFF, Block, check_threshold, directions, reference_similarity, similarity_bound
from .intake import as_float32, intake
from .precision import full_precision
from .search import ROWS, ExemplarMatrix, Prefilter, Search


class LeaderClustering:
    """Exemplars of a stream of activations within one threshold.

    Args:
        center: [d] float32, subtracted before normalising.
        threshold: cosine distance; a row within it (<=) of an earlier exemplar is no exemplar.
        device: where the matrix products run; the result does not depend on it.
        prefilter: arithmetic of those products; the result does not depend on it. By default
            bfloat16 where the hardware has units for it, else float32.

    Attributes:
        online_counts: for each exemplar, rows whose nearest exemplar it was when they came, itself
            included. Not members: those are counted over the frozen dictionary (law L4).
        sole_counts: for each exemplar, later rows that it alone covered when they came, counted up to 2.
        births: for each exemplar, index in the stream of the row that became it.
        position: rows of the stream seen, skipped ones included.
        skipped: rows without a direction (law L7).
    """

    @full_precision()
    def __init__(
        self,
        center: Float32[Tensor, " d"],
        threshold: float,
        *,
        device: torch.device | str = "cpu",
        prefilter: Prefilter | None = None,
    ):
        self.threshold = check_threshold(threshold)
        self.center = as_float32(center).to(device)
        self._matrix = ExemplarMatrix(len(self.center), device, prefilter)
        self._search = Search(self._matrix)
        self.online_counts = np.zeros(0, np.int64)
        self.sole_counts = np.zeros(0, np.int64)
        self.births = np.zeros(0, np.int64)
        self.position = 0
        self.skipped = 0

    @property
    def k(self) -> int:
        """Exemplars so far."""
        return self._matrix.k

    @property
    def arrivals(self) -> Int64[np.ndarray, " k"]:
        """`online_counts`, as they were called."""
        return self.online_counts

    @property
    def soles(self) -> Int64[np.ndarray, " k"]:
        """`sole_counts`, as they were called."""
        return self.sole_counts

    @property
    def exemplars(self) -> Float32[Tensor, "k d"]:
        """Exemplars so far, unit directions; a view that later rows may outgrow."""
        return self._matrix.e_kd

    @full_precision()
    def restore(
        self,
        exemplars: Float32[Tensor, "k d"],
        online_counts: Int64[np.ndarray, " k"],
        sole_counts: Int64[np.ndarray, " k"],
        births: Int64[np.ndarray, " k"],
        *,
        position: int,
        skipped: int,
    ) -> None:
        """Continue where another clustering of the same stream stood."""
        assert self.k == 0 and len(exemplars) == len(online_counts) == len(sole_counts) == len(births)
        self._matrix.append(exemplars.to(self._matrix.device))
        self.online_counts, self.sole_counts, self.births = online_counts.copy(), sole_counts.copy(), births.copy()
        self.position, self.skipped = position, skipped

    @full_precision()
    def add(self, x: Any, *, strict: bool = False) -> Int64[Tensor, " n"]:
        """Add rows of the stream, as they are held; returns the exemplar each joined, -1 for skipped rows."""
        x_nd = intake(x, self._matrix.d)
        ids_n = torch.full((len(x_nd),), -1, dtype=torch.int64)
        for start in range(0, len(x_nd), ROWS):
            part = x_nd[start : start + ROWS].to(self.center.device)
            block = directions(part, self.center, strict=strict)
            ids_n[start + block.rows_n.cpu()] = self.add_block(block, len(part)).cpu()
        return ids_n

    @full_precision()
    def add_block(self, block: Block, rows_offered: int) -> Int64[Tensor, " n"]:
        """Add a prepared block of at most ROWS rows, made of so many of the stream; clusterings can share a block."""
        candidates = self._search.candidates(block, threshold=self.threshold)
        ids_n, within_n = self._search.decide(block, candidates, self.threshold)
        assert within_n is not None and candidates.covers is not None
        uncovered_r = (~within_n).nonzero()[:, 0]
        born_at, covers = uncovered_r[:0], candidates.covers
        if len(uncovered_r):
            ids_n, born_at, covers = self._grow(block, candidates, uncovered_r)
        self._count_sole_covers(block, ids_n, covers, born_at)
        self.position += rows_offered
        self.skipped += rows_offered - len(block)
        self.online_counts += np.bincount(ids_n.cpu().numpy(), minlength=self.k)
        return ids_n

    @full_precision()
    def add_births(self, block: Block, rows_offered: int, known: int) -> None:
        """Add a block of rows that the first `known` exemplars are known not to cover, and count nothing but births."""
        candidates = self._search.candidates(block, known, threshold=self.threshold)
        _, within_n = self._search.decide(block, candidates, self.threshold)
        assert within_n is not None
        uncovered_r = (~within_n).nonzero()[:, 0]
        if len(uncovered_r):
            self._make_exemplars(block, uncovered_r)
        self.position += rows_offered

    @full_precision()
    def append(
        self,
        exemplars: Float32[Tensor, "new d"],
        births: Int64[np.ndarray, " new"],
        online_counts: Int64[np.ndarray, " k"],
        sole_counts: Int64[np.ndarray, " k"],
        *,
        rows: int,
        skipped: int,
    ) -> None:
        """Take what became of the next rows of the stream where another clustering went on from this one.

        Given are the rows that became exemplars, and counts of those rows alone over the exemplars there are then.
        """
        self._matrix.append(exemplars.to(self._matrix.device))
        self.births = np.concatenate([self.births, births])
        none = np.zeros(len(births), np.int64)
        self.online_counts = np.concatenate([self.online_counts, none]) + online_counts
        self.sole_counts = np.minimum(np.concatenate([self.sole_counts, none]) + sole_counts, 2)
        self.position += rows
        self.skipped += skipped

    def _count_sole_covers(self, block: Block, ids_n: Tensor, covers: Covers, born_at: Tensor) -> None:
        """Find rows that only their nearest exemplar covers, among those where it is open and still matters."""
        matters_n = torch.as_tensor(self.sole_counts < 2, device=ids_n.device)[ids_n]
        matters_n[born_at] = False  # a row that became an exemplar was covered by none
        alone = ids_n[covered_alone(self._search, block, covers, self.threshold, matters_n)].cpu().numpy()
        self.sole_counts = np.minimum(self.sole_counts + np.bincount(alone, minlength=self.k), 2)

    def _grow(
        self, block: Block, candidates: Candidates, uncovered_r: Int64[Tensor, " r"]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " new"], Covers]:
        """Make exemplars of uncovered rows; returns the nearest of all rows, the new ones' rows, and all covers."""
        first = self.k
        born_at = self._make_exemplars(block, uncovered_r)
        nearer = self._search.candidates(block, first, born_at, self.threshold)
        assert candidates.covers is not None and nearer.covers is not None
        ids_n, _ = self._search.decide(block, candidates.merge(nearer))
        ids_n[born_at] = torch.arange(first, self.k, device=ids_n.device)
        return ids_n, born_at, candidates.covers.merge(nearer.covers)

    def _make_exemplars(self, block: Block, uncovered_r: Int64[Tensor, " r"]) -> Int64[Tensor, " new"]:
        """Make exemplars of the rows that no exemplar covers, there or among themselves; returns which."""
        u_rd = block.reference(uncovered_r)
        e_rd = u_rd.float()
        new = torch.as_tensor(self._new_leaders(u_rd, e_rd), device=uncovered_r.device)
        born_at = uncovered_r[new]
        self._matrix.append(e_rd[new])
        stream_rows = self.position + block.rows_n[born_at].cpu().numpy()
        self.births = np.concatenate([self.births, stream_rows])
        zeros = np.zeros(len(new), np.int64)
        self.online_counts, self.sole_counts = (
            np.concatenate([self.online_counts, zeros]),
            np.concatenate([self.sole_counts, zeros]),
        )
        return born_at

    def _new_leaders(self, u_rd: Tensor, e_rd: Float32[Tensor, "r d"]) -> list[int]:
        """Rows that become exemplars, among rows that no older exemplar covers."""
        covers_rr = self._covers(u_rd, e_rd)
        leaders, open_r = [], np.ones(len(covers_rr), np.bool_)
        for row in range(len(covers_rr)):
            if open_r[row]:
                leaders.append(row)
                open_r &= ~covers_rr[row]
        return leaders

    def _covers(self, u_rd: Tensor, e_rd: Float32[Tensor, "r d"]) -> Bool[np.ndarray, "r r"]:
        """Whether row j lies within the threshold of row i taken as exemplar, at [i, j], for j > i."""
        sim_rr = e_rd @ u_rd.float().T
        gap_rr = sim_rr - (1.0 - self.threshold)
        covers_rr = gap_rr > 0
        eps = similarity_bound(self._matrix.d, self._matrix.device) + 4 * UNIT_ROUNDOFF
        i, j = torch.triu(gap_rr.abs() <= eps, diagonal=1).nonzero(as_tuple=True)
        for start in range(0, len(i), ROWS):
            a, b = i[start : start + ROWS], j[start : start + ROWS]
            covers_rr[a, b] = (1.0 - reference_similarity(u_rd[b], e_rd[a])) <= self.threshold
        return covers_rr.cpu().numpy()


def covered_alone(
    search: Search, block: Block, covers: Covers, threshold: float, matters_n: Bool[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """Rows, among those that matter, that exactly one exemplar covers."""
    matters_n = matters_n & (covers.sure_n < 2)
    pair = matters_n[covers.row_p].nonzero()[:, 0]
    pair = pair[torch.argsort(covers.row_p[pair], stable=True)]
    row_p, col_p, within_p = covers.row_p[pair], covers.col_p[pair], covers.within_p[pair]
    unsure = (~within_p).nonzero()[:, 0]
    sim_p = search.reference_pairs(block, row_p[unsure], col_p[unsure])
    within_p[unsure] = (1.0 - sim_p) <= threshold
    return matters_n & (torch.bincount(row_p[within_p], minlength=len(block)) == 1)
