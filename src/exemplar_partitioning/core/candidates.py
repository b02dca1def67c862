"""Pairs (row, exemplar) that fast arithmetic leaves for the reference to decide between (docs/exactness.md).

Shapes: n directions, k exemplars, p candidate pairs, t columns of a group, g groups of a tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from .geometry import UNIT_ROUNDOFF


@dataclass(frozen=True)
class Covers:
    """Pairs (row, exemplar) that may lie within a threshold: all of them, for rows with fewer than two sure ones.

    Attributes:
        sure_n: exemplars of the row that surely do; there may be more.
        within_p: whether the pair surely does; the others are for the reference arithmetic to tell.
    """

    sure_n: Int64[Tensor, " n"]
    row_p: Int64[Tensor, " p"]
    col_p: Int64[Tensor, " p"]
    within_p: Bool[Tensor, " p"]

    def merge(self, other: Covers) -> Covers:
        """Covers among the exemplars of both."""
        return Covers(
            self.sure_n + other.sure_n,
            torch.cat([self.row_p, other.row_p]),
            torch.cat([self.col_p, other.col_p]),
            torch.cat([self.within_p, other.within_p]),
        )


@dataclass(frozen=True)
class Candidates:
    """Pairs (row, exemplar) that contain every row's nearest exemplar, ordered by row, then exemplar.

    Attributes:
        best_n: best fast similarity of each row (-inf without exemplars).
        eps_n: bound on |fast - reference| for pairs near the best of the row.
        coarse: whether some similarities are of a coarser arithmetic than float32.
        covers: which exemplars may lie within the threshold, if one was asked about.
    """

    row_p: Int64[Tensor, " p"]
    col_p: Int64[Tensor, " p"]
    sim_p: Float32[Tensor, " p"]
    best_n: Float32[Tensor, " n"]
    eps_n: Float32[Tensor, " n"]
    coarse: bool = False
    covers: Covers | None = None

    def merge(self, other: Candidates) -> Candidates:
        """Candidates over the exemplars of both; `other` holds the higher numbered ones."""
        best_n = torch.maximum(self.best_n, other.best_n)
        row_p = torch.cat([self.row_p, other.row_p])
        col_p = torch.cat([self.col_p, other.col_p])
        sim_p = torch.cat([self.sim_p, other.sim_p])
        eps_n, coarse = torch.maximum(self.eps_n, other.eps_n), self.coarse or other.coarse
        return Candidates(row_p, col_p, sim_p, best_n, eps_n, coarse).survivors()

    def survivors(self) -> Candidates:
        """The pairs near enough to the best of their row, in order."""
        keep = self.sim_p >= (self.best_n - 2 * self.eps_n)[self.row_p]
        row_p, col_p, sim_p = self.row_p[keep], self.col_p[keep], self.sim_p[keep]
        order = torch.argsort(row_p * (int(col_p.max()) + 1 if len(col_p) else 1) + col_p)
        return replace(self, row_p=row_p[order], col_p=col_p[order], sim_p=sim_p[order])


@dataclass(frozen=True)
class TopTwo:
    """The two largest fast similarities of every row: of most rows they tell all that is asked.

    Attributes:
        best_n, second_n: -inf where there are fewer exemplars.
        id_n: exemplar of the largest, -1 without any.
        eps_n: bound on |fast - reference| before similarities are stored.
        rounding_n: relative error of storing them.
    """

    best_n: Float32[Tensor, " n"]
    second_n: Float32[Tensor, " n"]
    id_n: Int64[Tensor, " n"]
    eps_n: Float32[Tensor, " n"]
    rounding_n: Float32[Tensor, " n"]

    @classmethod
    def empty(cls, like_n: Tensor, eps: float, rounding: float) -> TopTwo:
        """Of no exemplars."""
        none_n, id_n = torch.full_like(like_n, -math.inf), torch.full_like(like_n, -1, dtype=torch.int64)
        return cls(none_n, none_n, id_n, torch.full_like(like_n, eps), torch.full_like(like_n, rounding))

    def merge(self, other: TopTwo) -> TopTwo:
        """Of the exemplars of both."""
        lower_n = torch.minimum(self.best_n, other.best_n)
        return TopTwo(
            torch.maximum(self.best_n, other.best_n),
            torch.maximum(lower_n, torch.maximum(self.second_n, other.second_n)),
            torch.where(other.best_n > self.best_n, other.id_n, self.id_n),
            torch.maximum(self.eps_n, other.eps_n),
            torch.maximum(self.rounding_n, other.rounding_n),
        )

    def put(self, rows: Int64[Tensor, " r"], other: TopTwo) -> None:
        """Take some rows of another, of the same exemplars."""
        for name, values_n in vars(self).items():
            values_n[rows] = getattr(other, name)

    @property
    def tied_n(self) -> Bool[Tensor, " n"]:
        """Rows whose nearest exemplar finer arithmetic has to find (lemmas 3 and 4)."""
        stored_n = self.rounding_n * (self.best_n.abs() + 4 * self.eps_n)
        return self.second_n >= self.best_n - 2 * (self.eps_n + stored_n)

    def gaps(self, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """By how much the two lie within a threshold, and how large that must be to be sure (lemma 5)."""
        level = 1.0 - threshold
        sure_n = (self.eps_n + self.rounding_n * abs(level)) * 1.01 + 4 * UNIT_ROUNDOFF
        return self.best_n - level, self.second_n - level, sure_n


def at_least(least_n: Tensor, sim_ntg: Tensor, group_ng: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and similarity of the pairs of a tile that reach a level of their row."""
    row_q, group_q = (group_ng >= least_n[:, None]).nonzero(as_tuple=True)
    sim_qt = sim_ntg[row_q, :, group_q].float()
    q, t = (sim_qt >= least_n[row_q, None]).nonzero(as_tuple=True)
    return row_q[q], t * sim_ntg.shape[2] + group_q[q], sim_qt[q, t]


class Nearest:
    """Pairs that hold every row's nearest exemplar, tile by tile (lemmas 3 and 4 of docs/exactness.md).

    Attributes:
        eps_n: bound on |fast - reference| before similarities are stored.
        rounding: relative error of storing them.
    """

    def __init__(self, eps_n: Float32[Tensor, " n"], rounding: float):
        self.eps_n, self.rounding = eps_n, rounding
        self.best_n = torch.full_like(eps_n, -math.inf)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, first: int, sim_ntg: Tensor, group_ng: Tensor) -> None:
        self.best_n = torch.maximum(self.best_n, group_ng.amax(dim=1))
        row_p, col_p, sim_p = at_least(self.best_n - 2 * (self.eps_n + self._stored()), sim_ntg, group_ng)
        self.pairs.append((row_p, first + col_p, sim_p))

    def _stored(self) -> Tensor:
        return self.rounding * (self.best_n.abs() + 4 * self.eps_n)

    def candidates(self) -> Candidates:
        row_p, col_p, sim_p = _joined(self.pairs, self.best_n)
        eps_n = self.eps_n + torch.where(self.best_n.isfinite(), self._stored(), 0.0)
        visible = sim_p > -math.inf
        pairs = Candidates(row_p[visible], col_p[visible], sim_p[visible], self.best_n, eps_n, self.rounding > 0)
        return pairs.survivors()


class Covering:
    """Pairs that may lie within a threshold, tile by tile (lemma 5)."""

    def __init__(self, eps_n: Float32[Tensor, " n"], rounding: float, level: float):
        slack_n = eps_n + 1.01 * rounding + 4 * UNIT_ROUNDOFF
        self.above_n, self.below_n = level + slack_n, level - slack_n
        self.sure_n = torch.zeros(len(eps_n), dtype=torch.int64, device=eps_n.device)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, first: int, sim_ntg: Tensor, group_ng: Tensor) -> None:
        self.sure_n += (group_ng > self.above_n[:, None]).sum(dim=1)
        least_n = torch.where(self.sure_n < 2, self.below_n, math.inf)
        row_p, col_p, sim_p = at_least(least_n, sim_ntg, group_ng)
        self.pairs.append((row_p, first + col_p, sim_p))

    def covers(self) -> Covers:
        row_p, col_p, sim_p = _joined(self.pairs, self.above_n)
        return Covers(self.sure_n, row_p, col_p, sim_p > self.above_n[row_p])


def _joined(pairs: list[tuple[Tensor, Tensor, Tensor]], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    none = torch.empty(0, dtype=torch.int64, device=like.device)
    row_p, col_p, sim_p = (torch.cat(parts) for parts in zip((none, none, like[:0]), *pairs, strict=True))
    return row_p, col_p, sim_p
