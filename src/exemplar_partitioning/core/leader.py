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

from .candidates import Covers, TopTwo
from .geometry import UNIT_ROUNDOFF, Block, check_threshold, directions, reference_similarity, similarity_bound
from .intake import as_float32, intake
from .nearest import FEW, ROWS, ExemplarMatrix, Prefilter, Search
from .precision import full_precision

_FOUNDERS = 256  # uncovered rows compared with one another at once


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
            included. Not members: those are counted over the frozen dictionary.
        sole_counts: for each exemplar, later rows that it alone covered when they came, counted up to 2.
        births: for each exemplar, index in the stream of the row that became it.
        position: rows of the stream seen, skipped ones included.
        skipped: rows without a direction.
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
        """Add rows of the stream, as they are held; returns the exemplar each joined, -1 for skipped rows.

        Args:
            x: activations [n, d], in the order of the stream.
            strict: refuse rows that are not finite instead of leaving them out.

        Returns:
            Ids [n], int64.

        Raises:
            EPError: another width; with `strict`, a row that is not finite.
        """
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
        few = self.k <= FEW
        ids_n, alone_n = self._add_to_few(block) if few else self._add_to_many(block)
        alone = np.bincount(ids_n[alone_n].cpu().numpy(), minlength=self.k)
        self.sole_counts = np.minimum(self.sole_counts + alone, 2)
        self.position += rows_offered
        self.skipped += rows_offered - len(block)
        self.online_counts += np.bincount(ids_n.cpu().numpy(), minlength=self.k)
        return ids_n

    def _add_to_few(self, block: Block) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
        """The exemplar that each row joins, and which rows it alone covers, by the two most similar of each.

        Finer arithmetic looks at the rows of which these do not tell, and exact arithmetic at those left.
        """
        first, theta, birth_row_k = self.k, self.threshold, None
        top = self._search.top_two(block)
        rows = self._search.sharpen(top, block, lambda top: _near(top, theta))
        within_n = top.gaps(theta)[0] > 0
        if len(rows):
            within_n[rows] = self._search.exactly(block, rows, theta)[1]
        born_at = self._make_exemplars(block, (~within_n).nonzero()[:, 0])
        if len(born_at):
            top = top.merge(self._search.top_two(block, first, born_at))
            birth_row_k = torch.cat([born_at.new_full((first,), -1), born_at])
        open_k = torch.as_tensor(self.sole_counts < 2, device=born_at.device)

        def unsure(top: TopTwo) -> Bool[Tensor, " n"]:
            _, second_n, sure_n = top.gaps(theta)
            alone_n = (second_n.abs() <= sure_n) | ((second_n < 0) & _near(top, theta))
            unsure_n = top.tied_n | (open_k[top.id_n] & alone_n)
            unsure_n[born_at] = False  # what became an exemplar was covered by none
            return unsure_n

        rows = self._search.sharpen(top, block, unsure, birth_row_k)
        gap_n, second_n, _ = top.gaps(theta)
        alone_n = (gap_n > 0) & open_k[top.id_n] & (second_n < 0)
        if len(rows):
            top.id_n[rows], _, alone = self._search.exactly(block, rows, theta, birth_row_k)
            alone_n[rows] = alone & open_k[top.id_n[rows]]
        top.id_n[born_at], alone_n[born_at] = torch.arange(first, self.k, device=born_at.device), False
        return top.id_n, alone_n

    def _add_to_many(self, block: Block) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
        """The exemplar that each row joins, and which rows it alone covers, where few pairs can be computed again."""
        candidates = self._search.candidates(block, threshold=self.threshold)
        ids_n, within_n = self._search.decide(block, candidates, self.threshold)
        assert within_n is not None and candidates.covers is not None
        first, covers = self.k, candidates.covers
        born_at = self._make_exemplars(block, (~within_n).nonzero()[:, 0])
        if len(born_at):
            nearer = self._search.candidates(block, first, born_at, self.threshold)
            assert nearer.covers is not None
            ids_n, _ = self._search.decide(block, candidates.merge(nearer))
            ids_n[born_at] = torch.arange(first, self.k, device=ids_n.device)
            covers = covers.merge(nearer.covers)
        alone_n = self._alone(block, ids_n, covers, born_at)
        return ids_n, alone_n

    def _alone(
        self, block: Block, ids_n: Tensor, covers: Covers | None, born_at: Tensor | None = None
    ) -> Bool[Tensor, " n"]:
        """Rows that only their nearest exemplar covers, among those where it is open and still matters."""
        assert covers is not None
        matters_n = torch.as_tensor(self.sole_counts < 2, device=ids_n.device)[ids_n]
        if born_at is not None:
            matters_n[born_at] = False  # a row that became an exemplar was covered by none
        return covered_alone(self._search, block, covers, self.threshold, matters_n)

    @full_precision()
    def add_births(self, block: Block, rows_offered: int, known: int) -> None:
        """Add a block of rows that the first `known` exemplars are known not to cover, and count nothing but births."""
        within_n = self._search.covered(block, known, self.threshold)
        self._make_exemplars(block, (~within_n).nonzero()[:, 0])
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

    def _make_exemplars(self, block: Block, uncovered_r: Int64[Tensor, " r"]) -> Int64[Tensor, " new"]:
        """Make exemplars of the rows that no exemplar covers, there or among themselves; returns which."""
        first, made = self.k, [uncovered_r[:0]]
        for rows in uncovered_r.split(_FOUNDERS) if len(uncovered_r) else ():
            if self.k > first:
                rows = rows[~self._search.covered(block[rows], first, self.threshold)]
            new = rows[self._leaders(block[rows])]
            self._matrix.append(block.reference(new).float())
            made.append(new)
        born_at = torch.cat(made)
        self.births = np.concatenate([self.births, self.position + block.rows_n[born_at].cpu().numpy()])
        zeros = np.zeros(len(born_at), np.int64)
        self.online_counts = np.concatenate([self.online_counts, zeros])
        self.sole_counts = np.concatenate([self.sole_counts, zeros])
        return born_at

    def _leaders(self, block: Block) -> Int64[Tensor, " new"]:
        """Rows that become exemplars, among rows that no older exemplar covers."""
        gap_rr = (block.u_nd @ block.u_nd.T - (1.0 - self.threshold)).numpy(force=True)
        # the exemplar is its direction in reference arithmetic, not in the fast one (lemma 1)
        eps = similarity_bound(self._matrix.d, self._matrix.device) + (0.5 * self._matrix.d + 12) * UNIT_ROUNDOFF
        leaders, open_r = [], np.ones(len(gap_rr), np.bool_)
        for row in range(len(gap_rr)):
            if not open_r[row]:
                continue
            leaders.append(row)
            covers_r = gap_rr[row] > eps
            unsure = row + 1 + np.flatnonzero((np.abs(gap_rr[row, row + 1 :]) <= eps) & open_r[row + 1 :])
            if len(unsure):
                at = torch.as_tensor(np.concatenate([[row], unsure]), device=block.x_nd.device)
                u_sd = block.reference(at)
                sim_s = reference_similarity(u_sd[1:], u_sd[:1].float().expand_as(u_sd[1:]))
                covers_r[unsure] = ((1.0 - sim_s) <= self.threshold).numpy(force=True)
            open_r &= ~covers_r
        return torch.as_tensor(leaders, dtype=torch.int64, device=block.x_nd.device)


def _near(top: TopTwo, threshold: float) -> Bool[Tensor, " n"]:
    """Rows of which fast arithmetic cannot tell whether the nearest exemplar covers them."""
    gap_n, _, sure_n = top.gaps(threshold)
    return gap_n.abs() <= sure_n


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
