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
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from .candidates import Candidates, Covering, Nearest, TopTwo
from .geometry import UNIT_ROUNDOFF, Array, Block, directions, reference_similarity, similarity_bound
from .intake import as_float32, intake
from .precision import full_precision

Prefilter = Literal["float32", "bfloat16"]

ROWS = 2048  # rows of a tile: many enough that overhead does not count, few enough to stay near the cache
TILE = 2048
DEVICE_TILE = 2**15  # on an accelerator what counts is how often it is called
FEW = 1024  # exemplars of which the two most similar are looked at first
_NARROW = 256  # exemplars that are multiplied in float32 before directions are made ready for another arithmetic
_GROUP = 32  # columns that share one maximum
_SHAPE = 128  # columns by which products in bfloat16 grow: for each new shape code is made, which takes a millisecond
_BFLOAT16 = 2.0**-8 * 1.01  # error of rounding to bfloat16, of what is rounded
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
        self._e = torch.zeros((_SHAPE, d), device=self.device)
        self._e_fast = self._e if self.prefilter == "float32" else self._e.bfloat16()

    @classmethod
    def of(cls, e_kd: Tensor, device: torch.device | str = "cpu", prefilter: Prefilter | None = None) -> ExemplarMatrix:
        """These exemplars."""
        matrix = cls(e_kd.shape[1], device, prefilter)
        matrix.append(e_kd.to(device))
        return matrix

    @property
    def d(self) -> int:
        return self._e.shape[1]

    @property
    def e_kd(self) -> Float32[Tensor, "k d"]:
        return self._e[: self.k]

    def tile(self, first: int, columns: int, *, coarse: bool) -> Float[Tensor, "t d"]:
        """Rows first..first+columns-1 as they are multiplied; up to _SHAPE rows beyond the last are zeros."""
        return (self._e_fast if coarse else self._e)[first : first + columns]

    def append(self, e_kd: Float32[Tensor, "k d"]) -> None:
        new_k = self.k + len(e_kd)
        if new_k + _SHAPE > len(self._e):
            capacity = max(new_k, 2 * self.k, 256) + _SHAPE
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
        return ExemplarMatrix.of, (self.e_kd.clone(), str(self.device), self.prefilter)  # without room to grow

    def _grown(self, old: Tensor, capacity: int) -> Tensor:
        new = torch.zeros((capacity, self.d), dtype=old.dtype, device=self.device)
        new[: self.k] = old[: self.k]
        return new


def _padded(t: int, *, coarse: bool) -> int:
    """Columns of a tile of t exemplars, in whole groups."""
    step = _SHAPE if coarse else min(_GROUP, t)
    return step * -(-t // step)


class Search:
    """The tiles of one search and their buffers, reused from call to call."""

    def __init__(self, matrix: ExemplarMatrix):
        self.matrix = matrix
        self._tile = torch.empty(0, device=matrix.device)

    def __reduce__(self) -> tuple:
        return Search, (self.matrix,)  # without its buffers

    @full_precision()
    def nearest(self, block: Block) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"]]:
        """Nearest exemplar of every row, lowest id on an exact tie, and reference similarity to it."""
        ids_n = self.ids(block)
        return ids_n, reference_similarity(block.exact, self.matrix.e_kd.index_select(0, ids_n))

    @full_precision()
    def ids(self, block: Block) -> Int64[Tensor, " n"]:
        """Nearest exemplar of every row, lowest id on an exact tie, of one or more."""
        if self.matrix.k > FEW:
            return self.decide(block, self.candidates(block))[0]
        top = self.top_two(block)
        if len(rows := self.sharpen(top, block, lambda top: top.tied_n)):
            top.id_n[rows] = self.exactly(block, rows, -math.inf)[0]
        return top.id_n

    def covered(self, block: Block, first: int, threshold: float) -> Bool[Tensor, " n"]:
        """Whether one of exemplars first..k-1 lies within a threshold of each row."""
        _, within_n = self.decide(block, self.candidates(block, first, threshold=threshold), threshold)
        assert within_n is not None
        return within_n

    def top_two(self, block: Block, first: int = 0, birth_row_k: Int64[Tensor, " k"] | None = None) -> TopTwo:
        """The two largest fast similarities among exemplars first..k-1; for births see `candidates`."""
        if self.matrix.prefilter == "bfloat16" and self.matrix.k - first > _NARROW:
            return self._top_two(*block.rounded, first, birth_row_k)
        return self._top_two(block.y_nd, block.norm_n, first, birth_row_k)

    def sharpen(
        self,
        top: TopTwo,
        block: Block,
        unsure: Callable[[TopTwo], Bool[Tensor, " n"]],
        birth_row_k: Int64[Tensor, " k"] | None = None,
    ) -> Int64[Tensor, " r"]:
        """Have float32 find the two largest of unsure rows, in place; returns the rows that are unsure still."""
        rows = unsure(top).nonzero()[:, 0]
        if self.matrix.prefilter == "float32" or self.matrix.k <= _NARROW or not len(rows):
            return rows
        top.put(rows, self._top_two(*block.some(rows), 0, birth_row_k, rows))
        return unsure(top).nonzero()[:, 0]

    def exactly(
        self, block: Block, rows: Int64[Tensor, " r"], threshold: float, birth_row_k: Int64[Tensor, " k"] | None = None
    ) -> tuple[Int64[Tensor, " r"], Bool[Tensor, " r"], Bool[Tensor, " r"]]:
        """By reference arithmetic, of some rows: the nearest exemplar, whether it covers, and whether it alone does."""
        y_rd, norm_r = block.some(rows)
        sim_rk = (y_rd @ self.matrix.e_kd.T).div_(norm_r[:, None])
        if birth_row_k is not None:
            sim_rk.masked_fill_(birth_row_k >= rows[:, None], -math.inf)
        eps, level = similarity_bound(self.matrix.d, self.matrix.device) + 4 * UNIT_ROUNDOFF, 1.0 - threshold
        several_r = (sim_rk > level + eps).sum(dim=1) > 1  # cover it, surely; then only the nearest is asked for
        nearest_r = sim_rk.amax(dim=1) - 2 * eps
        least_r = torch.where(several_r, nearest_r, nearest_r.clamp(max=level - eps))
        row_p, col_p = (sim_rk >= least_r[:, None]).nonzero(as_tuple=True)
        sim_p = self.reference_pairs(block, rows[row_p], col_p)
        top_r = sim_p.new_full((len(rows),), -math.inf).scatter_reduce_(0, row_p, sim_p, "amax")
        winner = sim_p == top_r[row_p]
        id_r = torch.full_like(rows, self.matrix.k).scatter_reduce_(0, row_p[winner], col_p[winner], "amin")
        covers_r = torch.bincount(row_p[(1.0 - sim_p) <= threshold], minlength=len(rows))
        return id_r, (1.0 - top_r) <= threshold, (covers_r == 1) & ~several_r

    def _top_two(
        self, fast_nd: Tensor, norm_n: Tensor, first: int, birth_row_k: Tensor | None, rows: Tensor | None = None
    ) -> TopTwo:
        """The two largest products of rows of these lengths, as directions; of some rows of a block, or all."""
        eps, rounding = similarity_bound(self.matrix.d, self.matrix.device), 0.0
        if coarse := fast_nd.dtype == torch.bfloat16:
            eps, rounding = eps + _BFLOAT16 + self.matrix.residual * 1.01, _BFLOAT16
        top = TopTwo.empty(norm_n, eps, rounding)
        most = FEW if coarse else _NARROW
        for start in range(first, self.matrix.k, most):
            t = min(most, self.matrix.k - start)
            tile_td = self.matrix.tile(start, _padded(t, coarse=coarse), coarse=coarse)
            sim_nt = self._multiply(fast_nd, tile_td, t).flatten(1)
            if birth_row_k is not None:
                rows = torch.arange(len(fast_nd), device=sim_nt.device) if rows is None else rows
                sim_nt[:, :t].masked_fill_(birth_row_k[start - first :][:t] >= rows[:, None], -math.inf)
            best_n, second_n, id_n = self._largest_two(sim_nt, norm_n)
            found = replace(top, best_n=best_n / norm_n, second_n=second_n / norm_n, id_n=id_n + start)
            top = top.merge(found) if start > first else found
        return top

    @staticmethod
    def _largest_two(sim_nt: Tensor, norm_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The two largest of each row, the second of which may come out too low if it is negative; overwrites them."""
        order_nt = sim_nt.view(torch.int16) if sim_nt.dtype == torch.bfloat16 else sim_nt
        id_n = _argmax(order_nt)
        best_n = sim_nt.gather(1, id_n[:, None])[:, 0].float()
        if order_nt.dtype == torch.int16 and not bool((best_n > _CLEARLY_POSITIVE * norm_n).all()):
            order_nt, id_n = sim_nt, sim_nt.argmax(dim=1)  # see `_group_maxima`
            best_n = sim_nt.gather(1, id_n[:, None])[:, 0].float()
        sim_nt.scatter_(1, id_n[:, None], -math.inf)
        return best_n, order_nt.amax(dim=1).view(sim_nt.dtype).float(), id_n

    def candidates(
        self,
        block: Block,
        first: int = 0,
        birth_row_k: Int64[Tensor, " k"] | None = None,
        threshold: float | None = None,
    ) -> Candidates:
        """Candidates among exemplars first..k-1; at most ROWS rows.

        With a threshold, covers are looked for too. An exemplar that a row of the block became, given as its
        `birth_row_k`, is invisible to that row and the rows before it.
        """
        assert len(block) <= ROWS
        k = self.matrix.k - first
        worth = _NARROW if "bfloat16" not in vars(block) else _GROUP  # more, if directions have still to be converted
        coarse = self.matrix.prefilter == "bfloat16" and k > worth
        fast_nd, eps_n = self._fast(block, coarse=coarse)
        # the similarity that a bfloat16 product stores is itself rounded, relative to its size
        rounding = _BFLOAT16 if coarse else 0.0
        level = 2.0 if threshold is None else 1.0 - threshold
        nearest = Nearest(eps_n, rounding)
        covering = None if threshold is None else Covering(eps_n, rounding, level)
        most = TILE if fast_nd.device.type == "cpu" else DEVICE_TILE
        for start in range(0, k, most):
            t = min(most, k - start)
            sim_ntg = self._multiply(
                fast_nd, self.matrix.tile(first + start, _padded(t, coarse=coarse), coarse=coarse), t
            )
            if birth_row_k is not None:
                unborn_tg = self._grouped(birth_row_k[start : start + t], len(block), sim_ntg.shape[1:])
                rows_n = torch.arange(len(block), device=fast_nd.device)
                sim_ntg.masked_fill_(unborn_tg[None] >= rows_n[:, None, None], -math.inf)
            group_ng = self._group_maxima(sim_ntg, level)
            nearest.add(first + start, sim_ntg, group_ng)
            if covering is not None:
                covering.add(first + start, sim_ntg, group_ng)
        return replace(nearest.candidates(), covers=covering and covering.covers())

    def _fast(self, block: Block, *, coarse: bool) -> tuple[Tensor, Tensor]:
        """Directions as they are multiplied, and their part of the error bound per row (lemmas 1 and 2)."""
        bound = similarity_bound(self.matrix.d, self.matrix.device)
        if not coarse:
            return block.u_nd, torch.full((len(block),), bound, device=block.u_nd.device)
        fast_nd, residual_n = block.bfloat16
        return fast_nd, residual_n + self.matrix.residual * 1.01 + bound

    def _multiply(self, fast_nd: Tensor, tile_td: Tensor, t: int) -> Tensor:
        """Similarities to t exemplars as [n, columns within a group, groups]; padding is -inf.

        Column j of the tile lies at [:, j // groups, j % groups]: maxima over the middle axis then
        run along contiguous memory.
        """
        n, columns = len(fast_nd), len(tile_td)
        sim_nt = self._room(n * columns, fast_nd.dtype).view(n, columns)
        torch.mm(fast_nd, tile_td.T, out=sim_nt)
        sim_nt[:, t:] = -math.inf
        depth = min(_GROUP, columns)
        return sim_nt.view(n, depth, columns // depth)

    def _room(self, numbers: int, dtype: torch.dtype) -> Tensor:
        """A buffer for so many numbers, the same from call to call."""
        if self._tile.numel() < numbers or self._tile.dtype != dtype:
            self._tile = torch.empty(numbers, dtype=dtype, device=self.matrix.device)
        return self._tile[:numbers]

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
        self, block: Block, candidates: Candidates, threshold: float | None = None
    ) -> tuple[Int64[Tensor, " n"], Tensor | None]:
        """Nearest exemplar of every row (lowest id on an exact tie, -1 without exemplars).

        With a threshold, also whether the nearest lies within it: bool [n]. Only rows with two or
        more candidates, or too near the threshold, are computed in reference arithmetic.
        """
        if candidates.coarse:
            candidates = self._refined(block, candidates, threshold)
        n, device = len(block), block.y_nd.device
        count_n = torch.bincount(candidates.row_p, minlength=n)
        start_n = torch.cumsum(count_n, 0) - count_n
        nearest_n = torch.full((n,), -1, dtype=torch.int64, device=device)
        has_n = count_n > 0
        nearest_n[has_n] = candidates.col_p[start_n[has_n]]
        within_n = None if threshold is None else candidates.best_n - (1.0 - threshold) > 0
        unsure_n = self._unsure(candidates, count_n, threshold)
        pair = unsure_n[candidates.row_p].nonzero()[:, 0]
        if len(pair):
            row_p, col_p = candidates.row_p[pair], candidates.col_p[pair]
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
    def _unsure(candidates: Candidates, count_n: Tensor, threshold: float | None) -> Bool[Tensor, " n"]:
        """Rows with several candidates, or with a best one too near the threshold to tell."""
        unsure_n = count_n > 1
        if threshold is not None:
            # the comparison itself is in float32: two more roundings of a number of at most 2
            gap_n = (candidates.best_n - (1.0 - threshold)).abs()
            unsure_n |= (gap_n <= candidates.eps_n + 4 * UNIT_ROUNDOFF) & (count_n > 0)
        return unsure_n

    def _refined(self, block: Block, rough: Candidates, threshold: float | None) -> Candidates:
        """The candidates that float32 leaves of those of a coarser arithmetic, computed for unsure rows only."""
        unsure_n = self._unsure(rough, torch.bincount(rough.row_p, minlength=len(block)), threshold)
        pair = unsure_n[rough.row_p].nonzero()[:, 0]
        row_p, col_p, sim_p = rough.row_p[pair], rough.col_p[pair], rough.sim_p.clone()
        for start in range(0, len(pair), ROWS):
            part = slice(start, start + ROWS)
            sim_p[pair[part]] = torch.linalg.vecdot(block.u_nd[row_p[part]], self.matrix.e_kd[col_p[part]])
        best_n = torch.where(unsure_n, -math.inf, rough.best_n).scatter_reduce(0, row_p, sim_p[pair], "amax")
        eps_n = torch.where(unsure_n, similarity_bound(self.matrix.d, self.matrix.device), rough.eps_n)
        keep = ~unsure_n[rough.row_p] | (sim_p >= (best_n - 2 * eps_n)[rough.row_p])
        return replace(
            rough, row_p=rough.row_p[keep], col_p=rough.col_p[keep], sim_p=sim_p[keep], best_n=best_n, eps_n=eps_n
        )

    def reference_pairs(self, block: Block, row_p: Tensor, col_p: Tensor) -> Float[Tensor, " p"]:
        """Reference similarity of pairs (row, exemplar), rows sorted; bounded memory."""
        parts = []
        for start in range(0, len(row_p), ROWS):
            part = slice(start, start + ROWS)
            rows, inverse = torch.unique_consecutive(row_p[part], return_inverse=True)
            u_rd = block.reference(rows)
            parts.append(reference_similarity(u_rd[inverse], self.matrix.e_kd[col_p[part]]))
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64, device=row_p.device)


def _argmax(order_nt: Tensor) -> Int64[Tensor, " n"]:
    """The first of the largest of each row; NumPy finds it in a fraction of torch's time."""
    on_cpu = order_nt.device.type == "cpu"
    return torch.from_numpy(order_nt.numpy().argmax(axis=1)) if on_cpu else order_nt.argmax(dim=1)


@full_precision()
def nearest(
    u_nd: Array,
    e_kd: Array | ExemplarMatrix,
    *,
    device: torch.device | str = "cpu",
    tell: Callable[[float], object] = lambda share: None,
) -> tuple[Array, Array]:
    """The nearest of a set of directions to each of others: largest cosine, lowest index on an exact tie.

    Args:
        u_nd: [n, d]; lengths do not count.
        e_kd: [k, d] unit directions, float32; as a matrix, if more than one question is asked of them.
        device: where it is computed, unless a matrix says; the answer does not depend on it.
        tell: called every so often with the share of rows that are done; what it raises ends the work.

    Returns:
        Index, int64 [n], and cosine, float64 [n] in reference arithmetic, of the kind that `u_nd` is of;
        -1 and NaN for a row without a direction, or where the set is empty.
    """
    rows = intake(u_nd)
    matrix = e_kd if isinstance(e_kd, ExemplarMatrix) else ExemplarMatrix.of(as_float32(e_kd), device)
    search, origin_d = Search(matrix), torch.zeros(matrix.d, device=matrix.device)
    ids_n, cosine_n = torch.full((len(rows),), -1), torch.full((len(rows),), math.nan, dtype=torch.float64)
    for start in range(0, len(rows) if matrix.k else 0, ROWS):
        block = directions(rows[start : start + ROWS].to(matrix.device), origin_d).shifted(start)
        ids, cosine = search.nearest(block)
        ids_n[block.rows_n.cpu()], cosine_n[block.rows_n.cpu()] = ids.cpu(), cosine.cpu()
        tell(min(1.0, (start + ROWS) / len(rows)))
    return rows.like(ids_n), rows.like(cosine_n)
