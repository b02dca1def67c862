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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int16, Int64
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
_COLUMNS = 1024  # of a tile: with its rows, two megabytes of products
_PAIRS = 256  # computed exactly at a time: stays in the cache
_DEPTH = 320  # columns multiplied at a time: short sums keep the error bound, and so the recount, small
_CODES = 2**15 - 2  # distances are stored as int16 codes within a range; the last one is for "no pair"


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        center: [d] float32.
        thresholds: percentile -> theta, cosine distance in 0..2.
        spread: percentile -> standard deviation of the per-batch percentiles (0 for a single batch).
        n_activations: rows used; with `batch` they define theta.
        batch: rows of a batch.
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

    Returns:
        Centre, spread, and a threshold a percentile.

    Raises:
        EPError: no batch has two rows with a direction, or a percentile falls on copies of the same row, so
            that its theta would be nothing.
    """
    percentiles = check_percentiles(percentiles)
    center_d = center(batches) if center_d is None else center_d
    return settled(center_d, percentiles, [Ranked.of(batch, center_d, percentiles) for batch in batches])


@dataclass(frozen=True)
class Ranked:
    """What a calibration needs to know of a batch.

    Attributes:
        rows: of the batch.
        percentiles: of the distances of its pairs; none below two rows with a direction.
        copies, pairs: pairs of rows with the same direction (to float32), and all.
    """

    rows: int
    percentiles: list[float] | None
    copies: int = 0
    pairs: int = 0

    @classmethod
    def of(cls, batch: Any, center_d: Float32[Tensor, " d"], percentiles: Sequence[float]) -> Ranked:
        """Rank the distances of a batch."""
        x_nd = intake(batch)[:]
        if (values := pairwise_percentiles(x_nd, center_d, percentiles)) is None:
            return cls(len(x_nd), None)
        return cls(len(x_nd), values, *_identical_pairs(x_nd, center_d))


def settled(center_d: Float32[Tensor, " d"], percentiles: Sequence[float], batches: Sequence[Ranked]) -> Calibration:
    """What batches that were ranked by distances around a centre say together; raises as `calibrate` does."""
    used = [batch for batch in batches if batch.percentiles is not None]
    if not used:
        raise EPError("no calibration batch has two different activations; give more text or more varied activations")
    copies, pairs = sum(batch.copies for batch in used), sum(batch.pairs for batch in used)
    thetas = np.array([batch.percentiles for batch in used])
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
        sum(batch.rows for batch in batches),
        max(batch.rows for batch in batches),
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
    exact_nd = reference_directions(x_nd, center_d)[0].numpy(force=True)
    u_nd = torch.from_numpy(exact_nd.astype(np.float32)).to(x_nd.device)
    pairs = len(x_nd) * (len(x_nd) - 1) // 2
    ranks = [Fraction(p) / 100 * (pairs - 1) for p in percentiles]
    codes = _Codes.of(u_nd, *_bracket(u_nd, percentiles))
    if not all(codes.hold(rank) for rank in ranks):
        codes = _Codes.of(u_nd, -0.01, 2.01)
    return [_order_statistic(codes, exact_nd, rank) for rank in ranks]


def _bracket(u_nd: Float32[Tensor, "n d"], percentiles: Sequence[float]) -> tuple[float, float]:
    """A range of distances that should hold all percentiles, from rows spread over the batch."""
    u_nd = u_nd[torch.linspace(0, len(u_nd) - 1, min(len(u_nd), _TILE)).long()]
    i, j = torch.triu_indices(len(u_nd), len(u_nd), offset=1)
    sample = (1 - u_nd @ u_nd.T)[i, j].numpy(force=True)
    low, high = np.percentile(sample, [percentiles[0], percentiles[-1]])
    slack = 0.03 + 0.1 * (high - low)
    return low - slack, high + slack


def _tiles(n: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles that hold all pairs i < j."""
    for start in range(0, n, _TILE):
        for first in range(start, n, _COLUMNS):
            yield slice(start, min(start + _TILE, n)), slice(first, min(first + _COLUMNS, n))


@dataclass(frozen=True)
class _Codes:
    """Distances of the pairs i < j in float32, coded as int16: 1.._CODES-1 from `low` in steps, 0 and _CODES outside.

    Attributes:
        tiles: codes of each of the `_tiles`; _CODES + 1 where i >= j.
        reach: codes by which exact distances may lie off.
        cumulative: pairs with a code up to each.
    """

    tiles: list[Int16[Tensor, "r c"]]
    reach: int
    cumulative: Int64[np.ndarray, " codes"]

    @classmethod
    def of(cls, u_nd: Float32[Tensor, "n d"], low: float, high: float) -> _Codes:
        step, (n, d) = (high - low) / (_CODES - 1), u_nd.shape
        # rounding of two directions to float32, one dot product per slice of columns, their sum
        slices = -(-d // _DEPTH)
        depth = -(-d // slices)
        eps = (depth + slices + 3) * UNIT_ROUNDOFF * 1.01
        # the codes themselves are computed in float32, off by a few roundings of what they are made from
        largest = (1 + abs(1 - low)) / step + _CODES
        reach = math.ceil(2 * (eps / step + 8 * largest * UNIT_ROUNDOFF + 1e-3))
        parts, buffer = u_nd.split(depth, dim=1), torch.empty(_TILE * _COLUMNS, device=u_nd.device)
        tiles, count = [], np.zeros(_CODES + 2, np.int64)
        for rows, columns in _tiles(n):
            first, *others = ((part[rows], part[columns].T) for part in parts)
            room = buffer[: len(first[0]) * first[1].shape[1]].view(len(first[0]), -1)
            sim = torch.mm(*first, out=room)
            for a, b in others:
                sim.addmm_(a, b)
            # code = 1 + (1 - sim - low) / step, cut to 0.._CODES
            sim.mul_(-1 / step).add_(1 + (1 - low) / step).clamp_(0, _CODES)
            code = sim.to(torch.int16)
            if columns.start < rows.stop:
                i, j = (torch.arange(at.start, at.stop, device=code.device) for at in (rows, columns))
                code.masked_fill_(i[:, None] >= j, _CODES + 1)
            tiles.append(code)
            count += torch.bincount(code.flatten(), minlength=_CODES + 2).numpy(force=True)
        assert count[: _CODES + 1].sum() == n * (n - 1) // 2
        return cls(tiles, reach, np.cumsum(count[: _CODES + 1]))

    def window(self, rank: int) -> tuple[int, int]:
        """Codes that hold every pair whose exact distance could have this rank."""
        code = int(np.searchsorted(self.cumulative, rank, side="right"))
        return code - self.reach, code + self.reach

    def hold(self, rank: Fraction) -> bool:
        """Whether the range does."""
        return self.window(math.floor(rank))[0] > 0 and self.window(math.ceil(rank))[1] < _CODES


def _order_statistic(codes: _Codes, exact_nd: Float[np.ndarray, "n d"], rank: Fraction) -> float:
    """The value at a fractional rank, by linear interpolation between exact order statistics."""
    lower, upper = math.floor(rank), math.ceil(rank)
    first, last = codes.window(lower)[0], codes.window(upper)[1]
    below = int(codes.cumulative[first - 1]) if first > 0 else 0
    values, count = _exact(codes, exact_nd, first, last)
    upto = np.cumsum(count)
    a, b = (float(values[np.searchsorted(upto, at - below, side="right")]) for at in (lower, upper))
    return a + (b - a) * float(rank - lower)


def _exact(
    codes: _Codes, exact_nd: Float[np.ndarray, "n d"], first: int, last: int
) -> tuple[Float[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Reference distances of the pairs with codes first..last, in order, and how often each occurs."""
    parts = []
    for (rows, columns), tile in zip(_tiles(len(exact_nd)), codes.tiles, strict=True):
        code = tile.numpy(force=True)
        i, j = np.divmod(np.flatnonzero((code >= first) & (code <= min(last, _CODES))), code.shape[1])
        exact = np.empty(len(i))
        for begin in range(0, len(i), _PAIRS):
            part = slice(begin, begin + _PAIRS)
            exact[part] = 1 - tree_sum(exact_nd[rows.start + i[part]] * exact_nd[columns.start + j[part]])
        parts.append(np.unique(exact, return_counts=True))  # many pairs may tie: keep one of each
    values, inverse = np.unique(np.concatenate([v for v, _ in parts]), return_inverse=True)
    count = np.zeros(len(values), np.int64)
    np.add.at(count, inverse, np.concatenate([c for _, c in parts]))
    return values, count
