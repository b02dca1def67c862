"""Centre and threshold from a sample of activations (law L6; section 3 of the paper).

    centre     c = s g, with g the spherical mean direction and s the mean projection on it
    threshold  theta_p = mean over calibration batches of the p-th percentile of the cosine
               distances of all pairs within the batch (linear interpolation, as numpy)

Every percentile is an exact order statistic in reference arithmetic: a float32 pass over all pairs
counts those that surely lie below or above, and only the few near the percentile are computed again.
So theta does not depend on threads, devices or tile sizes, and five percentiles cost one pass.

Shapes: n rows of a batch, d = d_model, m pairs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ..errors import EPError
from .geometry import (
    MIN_THRESHOLD,
    UNIT_ROUNDOFF,
    directions,
    has_direction,
    reference_directions,
    tree_sum,
    tree_sum_rows,
)
from .intake import as_float32, intake
from .precision import full_precision

BATCH = 16_384  # activations of one calibration batch: 128 windows of 128 tokens
SAMPLE = 13 * BATCH  # the published sample of 200,000, in whole batches

_TILE = 512
_PAIRS = 256  # computed exactly at a time: stays in the cache
_DEPTH = 320  # columns multiplied at a time: short sums keep the error bound, and so the recount, small
_CODES = 2**15 - 2  # distances are stored as int16 codes within a range; the last one is for "no pair"


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    center: [d] float32.
    thresholds: percentile -> theta, cosine distance in 0..2.
    spread: percentile -> standard deviation of the per-batch percentiles (0 for a single batch).
    n_activations, batch: rows used, and rows of a batch; both define theta.
    error: percentile -> standard error of theta, from how batches differ (NaN for a single batch).
    identical: share of the pairs within batches whose rows have the same direction.
    """

    center: Float32[Tensor, " d"]
    thresholds: dict[float, float]
    spread: dict[float, float]
    n_activations: int
    batch: int
    error: dict[float, float]
    identical: float


def check_percentiles(percentiles: Iterable[float]) -> tuple[float, ...]:
    """Percentiles in increasing order without repetition, each strictly between 0 and 100."""
    given = list(percentiles)
    if not given or any(not 0 < p < 100 for p in given):
        raise EPError(f"percentiles must lie between 0 and 100; got {given or 'none'}")
    return tuple(sorted({float(p) for p in given}))


def calibrate(
    batches: Iterable[Any], percentiles: Iterable[float], center_d: Float32[Tensor, " d"] | None = None
) -> Calibration:
    """Calibrate on batches [n, d], as they are held; iterated twice, in bounded memory if they are read lazily.

    Rows that are not finite, or equal to the centre, take no part.

    Args:
        batches: rows among which distances are ranked, each the rows of one batch.
        percentiles: each strictly between 0 and 100.
        center_d: the centre, where it is settled already.

    Raises:
        EPError: no batch has two rows with a direction, or a percentile falls on copies of the same row, so
            that its theta would be nothing.
    """
    percentiles = check_percentiles(percentiles)
    center_d = center(batches) if center_d is None else center_d
    sizes, per_batch, copies, pairs = [], [], 0, 0
    for batch in batches:
        x_nd = intake(batch)[:]
        sizes.append(len(x_nd))
        if found := pairwise_percentiles(x_nd, center_d, percentiles):
            per_batch.append(found)
            batch_copies, batch_pairs = _identical_pairs(x_nd, center_d)
            copies, pairs = copies + batch_copies, pairs + batch_pairs
    if not per_batch:
        raise EPError("no calibration batch has two different activations; give more text or more varied activations")
    thetas = np.array(per_batch)
    mean, spread = thetas.mean(axis=0), thetas.std(axis=0)
    for percentile, theta in zip(percentiles, mean, strict=True):
        if theta < MIN_THRESHOLD:
            raise EPError(
                f"calibration finds no threshold: percentile {percentile:g} of the distances is {max(theta, 0):.1g}, "
                f"nearer than float32 tells apart, as {copies / pairs:.2%} of the pairs of activations are copies of "
                "one direction; drop repeated rows, take a percentile well above that share, or give a threshold"
            )
    error = spread / math.sqrt(len(thetas) - 1) if len(thetas) > 1 else np.full(len(spread), math.nan)
    return Calibration(
        center_d,
        dict(zip(percentiles, mean.tolist(), strict=True)),
        dict(zip(percentiles, spread.tolist(), strict=True)),
        sum(sizes),
        max(sizes),
        dict(zip(percentiles, error.tolist(), strict=True)),
        copies / pairs,
    )


def _identical_pairs(x_nd: Float32[Tensor, "n d"], center_d: Float32[Tensor, " d"]) -> tuple[int, int]:
    """Pairs of rows with the same direction (to float32), and all pairs."""
    u_nd = directions(x_nd, center_d.to(x_nd.device)).u_nd.numpy(force=True) + np.float32(0)  # -0 is 0
    count = Counter(row.tobytes() for row in u_nd)
    return sum(many * (many - 1) // 2 for many in count.values()), len(u_nd) * (len(u_nd) - 1) // 2


def center(batches: Iterable[Any]) -> Float32[Tensor, " d"]:
    """The centre `s g`: spherical-mean direction times mean projection on it.

    Each batch is summed in reference arithmetic, batches in order. A sample without a mean
    direction (exactly balanced) has its centre at the origin.
    """
    sums = _Sums()
    for batch in batches:
        sums.add(batch)
    return sums.center


class _Sums:
    """Sums of activations and of their directions around the origin, in reference arithmetic."""

    def __init__(self) -> None:
        self.x: Any = 0
        self.u: Any = 0
        self.n = 0

    @full_precision()
    def add(self, batch: Any) -> None:
        x_nd = intake(batch)[:].cpu()
        origin = torch.zeros(x_nd.shape[1])
        x_nd = x_nd[has_direction(x_nd, origin)]
        for start in range(0, len(x_nd), _TILE):
            part = x_nd[start : start + _TILE]
            u_nd, _ = reference_directions(part, origin)
            self.x, self.u = self.x + tree_sum_rows(part.double()), self.u + tree_sum_rows(u_nd)
            self.n += len(part)

    @property
    @full_precision()
    def center(self) -> Float32[Tensor, " d"]:
        if not self.n:
            raise EPError("no activation to calibrate on: all rows are zero or not finite")
        length = math.sqrt(tree_sum(self.u * self.u))
        if length <= self.n * 1e-12:
            return torch.zeros(len(self.x))
        g_d = self.u / length
        return (tree_sum(self.x / self.n * g_d) * g_d).float()


@full_precision()
def pairwise_percentiles(x: Any, center_d: Float32[Tensor, " d"], percentiles: Sequence[float]) -> list[float] | None:
    """Percentiles of the cosine distances of all pairs of rows, exact; None below two rows."""
    x_nd = intake(x)[:]
    center_d = as_float32(center_d).to(x_nd.device)
    x_nd = x_nd[has_direction(x_nd, center_d)]
    if len(x_nd) < 2:
        return None
    return _PairDistances(x_nd, center_d).percentiles(percentiles)


class _PairDistances:
    """All pairs i < j of one batch: distances in float32 as int16 codes, any of them exactly on demand."""

    def __init__(self, x_nd: Float32[Tensor, "n d"], center_d: Float32[Tensor, " d"]):
        n, d = x_nd.shape
        self.exact_nd = np.empty((n, d))
        for start in range(0, n, _TILE):
            u_nd, _ = reference_directions(x_nd[start : start + _TILE], center_d)
            self.exact_nd[start : start + _TILE] = u_nd.numpy(force=True)
        self.u_nd = torch.from_numpy(self.exact_nd.astype(np.float32)).to(x_nd.device)
        self.n_pairs = n * (n - 1) // 2
        # rounding of two directions to float32, one dot product per slice of columns, their sum
        self.slices = -(-d // _DEPTH)
        self.depth = -(-d // self.slices)
        self.eps = (self.depth + self.slices + 3) * UNIT_ROUNDOFF * 1.01

    def percentiles(self, percentiles: Sequence[float]) -> list[float]:
        ranks = [Fraction(p) / 100 * (self.n_pairs - 1) for p in percentiles]
        low, high = self._bracket(percentiles)
        self._encode(low, high)
        if not self._inside(ranks):
            self._encode(-0.01, 2.01)
        return [self._order_statistic(rank) for rank in ranks]

    def _bracket(self, percentiles: Sequence[float]) -> tuple[float, float]:
        """A range of distances that should hold all percentiles, from rows spread over the batch."""
        u_nd = self.u_nd[torch.linspace(0, len(self.u_nd) - 1, min(len(self.u_nd), _TILE)).long()]
        i, j = torch.triu_indices(len(u_nd), len(u_nd), offset=1)
        sample = (1 - u_nd @ u_nd.T)[i, j].numpy(force=True)
        low, high = np.percentile(sample, [percentiles[0], percentiles[-1]])
        slack = 0.03 + 0.1 * (high - low)
        return low - slack, high + slack

    def _encode(self, low: float, high: float) -> None:
        """Codes 1.._CODES-1 tell distances within [low, high]; 0 and _CODES lie outside."""
        n = len(self.u_nd)
        self.low, self.step = low, (high - low) / (_CODES - 1)
        self.codes = torch.empty(_tiles_size(n), dtype=torch.int16, device=self.u_nd.device)
        self.histogram = np.zeros(_CODES + 2, np.int64)
        buffer, spare = torch.empty((2, _TILE * n), device=self.u_nd.device)
        offset = 0
        for start in range(0, n, _TILE):
            rows = self.u_nd[start : start + _TILE]
            columns = self.u_nd[start:]
            sim = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows[:, : self.depth], columns[:, : self.depth].T, out=sim)
            for first in range(self.depth, rows.shape[1], self.depth):
                part = slice(first, first + self.depth)
                sim += torch.mm(rows[:, part], columns[:, part].T, out=spare[: sim.numel()].view_as(sim))
            # code = 1 + (1 - sim - low) / step, cut to 0.._CODES
            sim.mul_(-1 / self.step).add_(1 + (1 - low) / self.step).clamp_(0, _CODES)
            code = self.codes[offset : offset + sim.numel()].view_as(sim)
            code.copy_(sim)
            below = torch.ones(len(rows), len(rows), dtype=torch.bool, device=sim.device).tril()
            code[:, : len(rows)].masked_fill_(below, _CODES + 1)
            self.histogram += torch.bincount(code.flatten(), minlength=_CODES + 2).numpy(force=True)
            offset += sim.numel()
        self.cumulative = np.cumsum(self.histogram[: _CODES + 1])
        assert self.cumulative[-1] == self.n_pairs

    def _window(self, rank: int) -> tuple[int, int]:
        """Codes that hold every pair whose exact distance could have this rank."""
        code = int(np.searchsorted(self.cumulative, rank, side="right"))
        # the codes themselves are computed in float32, off by a few roundings of what they are made from
        largest = (1 + abs(1 - self.low)) / self.step + _CODES
        reach = math.ceil(2 * (self.eps / self.step + 8 * largest * UNIT_ROUNDOFF + 1e-3))
        return code - reach, code + reach

    def _inside(self, ranks: Sequence[Fraction]) -> bool:
        return all(
            self._window(math.floor(rank))[0] > 0 and self._window(math.ceil(rank))[1] < _CODES for rank in ranks
        )

    def _order_statistic(self, rank: Fraction) -> float:
        """The value at a fractional rank, by linear interpolation between exact order statistics."""
        lower, upper = math.floor(rank), math.ceil(rank)
        first, last = self._window(lower)[0], self._window(upper)[1]
        below = int(self.cumulative[first - 1]) if first > 0 else 0
        values, count = self._exact(first, last)
        upto = np.cumsum(count)
        a, b = (float(values[np.searchsorted(upto, at - below, side="right")]) for at in (lower, upper))
        return a + (b - a) * float(rank - lower)

    def _exact(self, first: int, last: int) -> tuple[Float[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """Reference distances of the pairs with codes first..last, in order, and how often each occurs."""
        n, offset, found = len(self.u_nd), 0, []
        for start in range(0, n, _TILE):
            rows, columns = min(_TILE, n - start), n - start
            code = self.codes[offset : offset + rows * columns].numpy(force=True)
            at = np.flatnonzero((code >= first) & (code <= min(last, _CODES)))
            exact = np.empty(len(at))
            for begin in range(0, len(at), _PAIRS):
                pairs = at[begin : begin + _PAIRS]
                products = self.exact_nd[start + pairs // columns] * self.exact_nd[start + pairs % columns]
                exact[begin : begin + _PAIRS] = 1 - tree_sum(products)
            found.append(np.unique(exact, return_counts=True))  # many pairs may tie: keep one of each
            offset += rows * columns
        values, inverse = np.unique(np.concatenate([v for v, _ in found]), return_inverse=True)
        count = np.zeros(len(values), np.int64)
        np.add.at(count, inverse, np.concatenate([c for _, c in found]))
        return values, count


def _tiles_size(n: int) -> int:
    return sum(min(_TILE, n - start) * (n - start) for start in range(0, n, _TILE))
