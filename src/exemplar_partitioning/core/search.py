"""Exact search for the nearest exemplar.

A matrix product in fast arithmetic proposes, for every direction, the few exemplars that could be
nearest; the reference arithmetic decides between them (law L2). "Could be" is a proven statement:
with |fast - reference| <= eps for every pair, no exemplar more than 2 eps below the best fast
similarity can win. No n x k matrix is ever held, only one tile of it.

Shapes: n directions, k exemplars, d = d_model, p candidate pairs, t columns of a tile, g groups.
"""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from .geometry import UNIT_ROUNDOFF, Array, Block, directions, reference_similarity, similarity_bound
from .intake import as_float32, intake
from .precision import full_precision

Prefilter = Literal["float32", "bfloat16"]

ROWS = 2048  # rows of a tile: many enough that overhead does not count, few enough to stay near the cache
TILE = 2048
_GROUP = 32  # columns that share one maximum
_CLEARLY_POSITIVE = 0.1  # above any margin: nothing negative comes within it of the best


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run on units of their own, accumulating in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class ExemplarMatrix:
    """Exemplars in a growing buffer, with the bfloat16 copy that the prefilter multiplies by.

    `residual` bounds |e - bfloat16(e)| over all exemplars.
    """

    def __init__(self, d: int, device: torch.device | str = "cpu", prefilter: Prefilter | None = None):
        self.device = torch.device(device)
        self.prefilter: Prefilter = prefilter or ("bfloat16" if has_bfloat16_units(self.device) else "float32")
        self.k = 0
        self.residual = 0.0
        self._e = torch.zeros((_GROUP, d), device=self.device)
        self._e_fast = self._e if self.prefilter == "float32" else self._e.bfloat16()

    @property
    def d(self) -> int:
        return self._e.shape[1]

    @property
    def e_kd(self) -> Float32[Tensor, "k d"]:
        return self._e[: self.k]

    def fast_tile(self, first: int, columns: int) -> Float[Tensor, "t d"]:
        """Rows first..first+columns-1 for the prefilter; up to _GROUP rows beyond the last are zeros."""
        return self._e_fast[first : first + columns]

    def append(self, e_kd: Float32[Tensor, "k d"]) -> None:
        new_k = self.k + len(e_kd)
        if new_k + _GROUP > len(self._e):
            capacity = max(new_k, 2 * self.k, 256) + _GROUP
            self._e = self._grown(self._e, capacity)
            self._e_fast = self._e if self.prefilter == "float32" else self._grown(self._e_fast, capacity)
        self._e[self.k : new_k] = e_kd
        if self.prefilter == "bfloat16":
            fast = e_kd.bfloat16()
            self._e_fast[self.k : new_k] = fast
            if len(e_kd):
                self.residual = max(self.residual, float((e_kd - fast).norm(dim=1).max()) * 1.001)
        self.k = new_k

    def __reduce__(self) -> tuple:
        return _matrix_of, (self.e_kd.clone(), str(self.device), self.prefilter)  # without what it may grow into

    def _grown(self, old: Tensor, capacity: int) -> Tensor:
        new = torch.zeros((capacity, self.d), dtype=old.dtype, device=self.device)
        new[: self.k] = old[: self.k]
        return new


def _matrix_of(e_kd: Tensor, device: str, prefilter: Prefilter) -> ExemplarMatrix:
    matrix = ExemplarMatrix(e_kd.shape[1], device, prefilter)
    matrix.append(e_kd)
    return matrix


@dataclass(frozen=True)
class Covers:
    """Pairs (row, exemplar) that may lie within a threshold: all of them, for rows with fewer than two sure ones.

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

    best_n: best fast similarity of each row (-inf without exemplars).
    eps_n: bound on |fast - reference| for pairs near the best of the row.
    covers: which exemplars may lie within the threshold, if one was asked about.
    """

    row_p: Int64[Tensor, " p"]
    col_p: Int64[Tensor, " p"]
    sim_p: Float32[Tensor, " p"]
    best_n: Float32[Tensor, " n"]
    eps_n: Float32[Tensor, " n"]
    covers: Covers | None = None

    def merge(self, other: Candidates) -> Candidates:
        """Candidates over the exemplars of both; `other` holds the higher numbered ones."""
        best_n = torch.maximum(self.best_n, other.best_n)
        row_p = torch.cat([self.row_p, other.row_p])
        col_p = torch.cat([self.col_p, other.col_p])
        sim_p = torch.cat([self.sim_p, other.sim_p])
        return _survivors(row_p, col_p, sim_p, best_n, torch.maximum(self.eps_n, other.eps_n))


def _survivors(row_p: Tensor, col_p: Tensor, sim_p: Tensor, best_n: Tensor, eps_n: Tensor) -> Candidates:
    keep = sim_p >= (best_n - 2 * eps_n)[row_p]
    row_p, col_p, sim_p = row_p[keep], col_p[keep], sim_p[keep]
    order = torch.argsort(row_p * (int(col_p.max()) + 1 if len(col_p) else 1) + col_p)
    return Candidates(row_p[order], col_p[order], sim_p[order], best_n, eps_n)


def at_least(least_n: Tensor, sim_ntg: Tensor, group_ng: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and similarity of the pairs of a tile that reach a level of their row."""
    row_q, group_q = (group_ng >= least_n[:, None]).nonzero(as_tuple=True)
    sim_qt = sim_ntg[row_q, :, group_q].float()
    q, t = (sim_qt >= least_n[row_q, None]).nonzero(as_tuple=True)
    return row_q[q], t * sim_ntg.shape[2] + group_q[q], sim_qt[q, t]


class Search:
    """The tiles of one search and their buffers, reused from call to call."""

    def __init__(self, matrix: ExemplarMatrix):
        self.matrix = matrix
        self._tile = torch.empty(0, device=matrix.device)

    def __reduce__(self) -> tuple:
        return Search, (self.matrix,)  # without its buffers

    def fast(self, block: Block) -> tuple[Tensor, Tensor]:
        """Directions as the prefilter multiplies them, and their part of the error bound per row."""
        bound = similarity_bound(self.matrix.d, self.matrix.device)
        if self.matrix.prefilter == "float32":
            return block.u_nd, torch.full((len(block),), bound, device=block.u_nd.device)
        fast_nd, residual_n = block.bfloat16
        # |u.e - fast(u).fast(e)| <= |u - fast(u)| |e| + |fast(u)| |e - fast(e)|, then accumulation
        return fast_nd, residual_n + self.matrix.residual * 1.01 + bound

    @full_precision()
    def nearest(self, block: Block) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"]]:
        """Nearest exemplar of every row, lowest id on an exact tie, and reference similarity to it."""
        ids_n, _ = self.decide(block, self.candidates(block))
        return ids_n, reference_similarity(block.exact, self.matrix.e_kd[ids_n])

    def candidates(
        self,
        block: Block,
        first: int = 0,
        birth_row_k: Int64[Tensor, " k"] | None = None,
        threshold: float = -1.0,
    ) -> Candidates:
        """Candidates among exemplars first..k-1; at most ROWS rows.

        threshold: cosine distance to look for covers within.
        birth_row_k: row of the block that became each of these exemplars; it is invisible to that
        row and the rows before it.
        """
        assert len(block) <= ROWS
        n, k, device = len(block), self.matrix.k - first, block.u_nd.device
        fast_nd, eps_n = self.fast(block)
        best_n = torch.full((n,), -math.inf, device=device)
        # the similarity that a bfloat16 product stores is itself rounded, relative to its size
        rounding = 2.0**-8 * 1.01 if self.matrix.prefilter == "bfloat16" else 0.0
        slack_n, level = eps_n + 1.01 * rounding + 4 * UNIT_ROUNDOFF, 1.0 - threshold
        sure_n = torch.zeros(n, dtype=torch.int64, device=device)
        none = torch.empty(0, dtype=torch.int64, device=device)
        found = [(none, none, torch.empty(0, device=device))]
        near = [(none, none, none.bool())]
        for start in range(0, k, TILE):
            sim_ntg = self._multiply(fast_nd, first + start, min(TILE, k - start))
            if birth_row_k is not None:
                unborn_tg = self._grouped(birth_row_k[start : start + TILE], n, sim_ntg.shape[1:])
                rows_n = torch.arange(n, device=device)
                sim_ntg.masked_fill_(unborn_tg[None] >= rows_n[:, None, None], -math.inf)
            group_ng = self._group_maxima(sim_ntg, level)
            best_n = torch.maximum(best_n, group_ng.amax(dim=1))
            if threshold >= 0:
                sure_n += (group_ng > (level + slack_n)[:, None]).sum(dim=1)
                least_n = torch.where(sure_n < 2, level - slack_n, math.inf)
                row_p, col_p, sim_p = at_least(least_n, sim_ntg, group_ng)
                near.append((row_p, first + start + col_p, sim_p > (level + slack_n)[row_p]))
            margin_n = 2 * (eps_n + rounding * (best_n.abs() + 4 * eps_n))
            row_p, col_p, sim_p = at_least(best_n - margin_n, sim_ntg, group_ng)
            found.append((row_p, first + start + col_p, sim_p))
        eps_n = eps_n + torch.where(best_n.isfinite(), rounding * (best_n.abs() + 4 * eps_n), 0.0)
        row_p, col_p, sim_p = (torch.cat(parts) for parts in zip(*found, strict=True))
        visible = sim_p > -math.inf
        candidates = _survivors(row_p[visible], col_p[visible], sim_p[visible], best_n, eps_n)
        covers = Covers(sure_n, *(torch.cat(parts) for parts in zip(*near, strict=True)))
        return replace(candidates, covers=covers)

    def _multiply(self, fast_nd: Tensor, first: int, t: int) -> Tensor:
        """Similarities to t exemplars as [n, columns within a group, groups]; padding is -inf.

        Column j of the tile lies at [:, j // groups, j % groups]: maxima over the middle axis then
        run along contiguous memory.
        """
        n, depth = len(fast_nd), min(_GROUP, t)
        groups = -(-t // depth)
        columns = depth * groups
        if self._tile.numel() < n * columns or self._tile.dtype != fast_nd.dtype:
            self._tile = torch.empty(n * columns, dtype=fast_nd.dtype, device=fast_nd.device)
        sim_nt = self._tile[: n * columns].view(n, columns)
        torch.mm(fast_nd, self.matrix.fast_tile(first, columns).T, out=sim_nt)
        sim_nt[:, t:] = -math.inf
        return sim_nt.view(n, depth, groups)

    def _group_maxima(self, sim_ntg: Tensor, level: float) -> Float32[Tensor, "n g"]:
        """Largest similarity of each group; those below both `level` and the row's best may come out too low."""
        if sim_ntg.dtype == torch.bfloat16 and level > _CLEARLY_POSITIVE:
            # Integers compare much faster. Read as such, bfloat16 numbers >= 0 keep their order and lie above all
            # negative ones, so this is right unless a maximum that could matter is negative.
            group_ng = sim_ntg.view(torch.int16).amax(dim=1).view(torch.bfloat16).float()
            if bool((group_ng.amax(dim=1) > _CLEARLY_POSITIVE).all()):
                return group_ng
        return sim_ntg.amax(dim=1).float()

    @staticmethod
    def _grouped(values_t: Tensor, beyond: int, shape: torch.Size) -> Tensor:
        padded = torch.full((shape.numel(),), beyond, dtype=values_t.dtype, device=values_t.device)
        padded[: len(values_t)] = values_t
        return padded.view(shape)

    def decide(
        self, block: Block, found: Candidates, threshold: float | None = None
    ) -> tuple[Int64[Tensor, " n"], Tensor | None]:
        """Nearest exemplar of every row (lowest id on an exact tie, -1 without exemplars).

        With a threshold, also whether the nearest lies within it: bool [n]. Only rows with two or
        more candidates, or too near the threshold, are computed in reference arithmetic.
        """
        if self.matrix.prefilter == "bfloat16":
            found = self._refined(block, found, threshold)
        n, device = len(block), block.u_nd.device
        count_n = torch.bincount(found.row_p, minlength=n)
        start_n = torch.cumsum(count_n, 0) - count_n
        nearest_n = torch.full((n,), -1, dtype=torch.int64, device=device)
        has_n = count_n > 0
        nearest_n[has_n] = found.col_p[start_n[has_n]]
        within_n = None if threshold is None else found.best_n - (1.0 - threshold) > 0
        unsure_n = self._unsure(found, count_n, threshold)
        pair = unsure_n[found.row_p].nonzero()[:, 0]
        if len(pair):
            row_p, col_p = found.row_p[pair], found.col_p[pair]
            sim_p = self.reference_pairs(block, row_p, col_p)
            top_n = torch.full((n,), -math.inf, dtype=torch.float64, device=device)
            top_n.scatter_reduce_(0, row_p, sim_p, "amax")
            winner = sim_p == top_n[row_p]
            nearest_n.scatter_reduce_(0, row_p[winner], col_p[winner], "amin", include_self=False)
            if within_n is not None and threshold is not None:
                rows = unsure_n.nonzero()[:, 0]
                within_n[rows] = (1.0 - top_n[rows]) <= threshold
        return nearest_n, within_n

    @staticmethod
    def _unsure(found: Candidates, count_n: Tensor, threshold: float | None) -> Bool[Tensor, " n"]:
        """Rows with several candidates, or with a best one too near the threshold to tell."""
        unsure_n = count_n > 1
        if threshold is not None:
            # the comparison itself is in float32: two more roundings of a number of at most 2
            gap_n = (found.best_n - (1.0 - threshold)).abs()
            unsure_n |= (gap_n <= found.eps_n + 4 * UNIT_ROUNDOFF) & (count_n > 0)
        return unsure_n

    def _refined(self, block: Block, found: Candidates, threshold: float | None) -> Candidates:
        """The candidates that float32 leaves of those of a coarser arithmetic, computed for unsure rows only."""
        unsure_n = self._unsure(found, torch.bincount(found.row_p, minlength=len(block)), threshold)
        pair = unsure_n[found.row_p].nonzero()[:, 0]
        row_p, col_p, sim_p = found.row_p[pair], found.col_p[pair], found.sim_p.clone()
        for start in range(0, len(pair), ROWS):
            part = slice(start, start + ROWS)
            sim_p[pair[part]] = torch.linalg.vecdot(block.u_nd[row_p[part]], self.matrix.e_kd[col_p[part]])
        best_n = torch.where(unsure_n, -math.inf, found.best_n).scatter_reduce(0, row_p, sim_p[pair], "amax")
        eps_n = torch.where(unsure_n, similarity_bound(self.matrix.d, self.matrix.device), found.eps_n)
        keep = ~unsure_n[found.row_p] | (sim_p >= (best_n - 2 * eps_n)[found.row_p])
        return Candidates(found.row_p[keep], found.col_p[keep], sim_p[keep], best_n, eps_n)

    def reference_pairs(self, block: Block, row_p: Tensor, col_p: Tensor) -> Float[Tensor, " p"]:
        """Reference similarity of pairs (row, exemplar), rows sorted; bounded memory."""
        parts = []
        for start in range(0, len(row_p), ROWS):
            part = slice(start, start + ROWS)
            rows, inverse = torch.unique_consecutive(row_p[part], return_inverse=True)
            u_rd = block.reference(rows)
            parts.append(reference_similarity(u_rd[inverse], self.matrix.e_kd[col_p[part]]))
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


@full_precision()
def nearest(u_nd: Array, e_kd: Array, *, device: torch.device | str = "cpu") -> tuple[Array, Array]:
    """The nearest of a set of directions to each of others: largest cosine, lowest index on an exact tie.

    Args:
        u_nd: [n, d]; lengths do not count.
        e_kd: [k, d] unit directions, float32.
        device: where it is computed; the answer does not depend on it.

    Returns:
        Index, int64 [n], and cosine, float64 [n] in reference arithmetic, of the kind that `u_nd` is of;
        -1 and NaN for a row without a direction, or where the set is empty.
    """
    rows, set_kd = intake(u_nd), as_float32(e_kd)
    matrix = ExemplarMatrix(set_kd.shape[1], device)
    matrix.append(set_kd.to(device))
    search, origin_d = Search(matrix), torch.zeros(matrix.d, device=device)
    ids_n = torch.full((len(rows),), -1)
    cosine_n = torch.full((len(rows),), math.nan, dtype=torch.float64)
    for start in range(0, len(rows) if matrix.k else 0, ROWS):
        block = directions(rows[start : start + ROWS].to(device), origin_d).shifted(start)
        ids, cosine = search.nearest(block)
        ids_n[block.rows_n.cpu()], cosine_n[block.rows_n.cpu()] = ids.cpu(), cosine.cpu()
    return rows.like(ids_n), rows.like(cosine_n)
