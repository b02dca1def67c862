"""Which direction of one set goes with which of another, one to one; and which others of its own set are near it.

Shapes: k and l unit directions in two sets of one width d, p pairs, m candidates kept of each row or column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..core.precision import full_precision
from .progress import Tell, ignore, part

EXACT = 4096  # directions of the smaller set up to which one-to-one pairs are the optimum
_ROWS = 1024  # rows multiplied at once
_CANDIDATES = 32  # partners of each row and column that the greedy assignment looks at first
_DUAL_STEPS = 200

Directions = Float32[np.ndarray, "k d"]


@dataclass(frozen=True)
class Pairs:
    """A one-to-one assignment of min(k, l) pairs, by row.

    Attributes:
        row_p, column_p: indices of the two sets.
        cosine_p: of each pair.
        total: sum of the cosines.
        bound: no such assignment has a larger sum; equal to total if this is an optimum.
    """

    row_p: Int64[np.ndarray, " p"]
    column_p: Int64[np.ndarray, " p"]
    cosine_p: Float64[np.ndarray, " p"]
    total: float
    bound: float

    @property
    def gap(self) -> float:
        """How much larger than reached the mean cosine of the pairs could be, at most."""
        return max(0.0, self.bound - self.total) / max(len(self.row_p), 1)


def nearest_others(e_kd: Directions, count: int) -> tuple[Int64[np.ndarray, "k m"], Float32[np.ndarray, "k m"]]:
    """The directions of largest cosine to each in its own set, itself left out, and these cosines, falling.

    Args:
        e_kd: the set.
        count: how many, where there are as many others; the lowest number comes first on a tie.
    """
    k = len(e_kd)
    near_km = np.empty((k, min(count, k - 1)), np.int64)
    cosine_km = np.empty(near_km.shape, np.float32)
    for start, block in _products(e_kd, e_kd):
        rows, cosine_rk = np.arange(len(block)), block.numpy()
        cosine_rk[rows, start + rows] = -np.inf
        for rank in range(near_km.shape[1]):
            near = cosine_rk.argmax(axis=1)
            near_km[start + rows, rank], cosine_km[start + rows, rank] = near, cosine_rk[rows, near]
            cosine_rk[rows, near] = -np.inf
    return near_km, cosine_km


def one_to_one(a_kd: Directions, b_ld: Directions, *, exact: int = EXACT, tell: Tell = ignore) -> Pairs:
    """Pairs such that the sum of their cosines is large, each row and column in at most one of them.

    The optimum (Hungarian method, float64) if the smaller set holds at most `exact` directions. Else greedy:
    candidate pairs from the most similar down, until no more than `exact` rows are left, which are assigned
    optimally; the bound then is a Lagrangian one, from prices on the columns.
    """
    if len(a_kd) > len(b_ld):
        other = one_to_one(b_ld, a_kd, exact=exact, tell=tell)
        order = np.argsort(other.column_p, kind="stable")
        return Pairs(other.column_p[order], other.row_p[order], other.cosine_p[order], other.total, other.bound)
    if len(a_kd) <= exact:
        rows, columns = _optimum(a_kd, b_ld, tell)
        bound = None
    else:
        rows, columns, bound = _greedy(a_kd, b_ld, exact, tell)
    cosine_p = np.einsum("pd,pd->p", a_kd[rows].astype(np.float64), b_ld[columns].astype(np.float64))
    total = float(cosine_p.sum())
    return Pairs(rows, columns, cosine_p, total, total if bound is None else max(total, bound))


def _products(a_kd: Directions, b_ld: Directions, tell: Tell = ignore) -> Iterator[tuple[int, Float[Tensor, "n l"]]]:
    """Cosines of a few rows of a with all of b, and the number of the first."""
    a, b = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for x in (a_kd, b_ld))
    with full_precision():
        for start in range(0, len(a), _ROWS):
            yield start, a[start : start + _ROWS] @ b.T
            tell(min(1.0, (start + _ROWS) / len(a)))


def _optimum(a_kd: Directions, b_ld: Directions, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
    cosine_kl = np.empty((len(a_kd), len(b_ld)))
    for start, block in _products(a_kd, b_ld, tell):
        cosine_kl[start : start + len(block)] = block
    return linear_sum_assignment(cosine_kl, maximize=True)


def _greedy(a_kd: Directions, b_ld: Directions, exact: int, tell: Tell) -> tuple[np.ndarray, np.ndarray, float]:
    column_k = np.full(len(a_kd), -1, np.int64)
    rows, columns = np.arange(len(a_kd)), np.arange(len(b_ld))
    bound, done = float("inf"), 0.0
    while len(rows) > exact:
        before, done = done, (1 + done) / 2  # how many rounds there are is not known
        candidates = _candidates(a_kd[rows], b_ld[columns], part(tell, before, done))
        if len(rows) == len(a_kd):
            bound = _upper_bound(*candidates, len(b_ld))
        _place(column_k, rows, columns, *candidates)
        rows, columns = rows[column_k[rows] < 0], np.setdiff1d(columns, column_k)
    left, right = _optimum(a_kd[rows], b_ld[columns], part(tell, done, 1))
    column_k[rows[left]] = columns[right]
    return np.arange(len(a_kd)), column_k, bound


def _candidates(
    a_kd: Directions, b_ld: Directions, tell: Tell
) -> tuple[Int64[np.ndarray, "k m"], Float64[np.ndarray, "k m"]]:
    """The most similar columns of each row, best first, and their cosines."""
    index, cosine = [], []
    for _, block in _products(a_kd, b_ld, tell):
        top = block.topk(min(_CANDIDATES, len(b_ld)), dim=1)
        index.append(top.indices)
        cosine.append(top.values)
    return torch.cat(index).numpy(), torch.cat(cosine).double().numpy()


def _place(
    column_k: np.ndarray, rows: np.ndarray, columns: np.ndarray, index_km: np.ndarray, cosine_km: np.ndarray
) -> None:
    """Give rows their columns, candidate pairs from the most similar down; every call places at least one."""
    free = np.ones(len(columns), np.bool_)
    width = index_km.shape[1]
    for pair in np.argsort(-cosine_km, axis=None, kind="stable"):
        row, column = pair // width, index_km.flat[pair]
        if free[column] and column_k[rows[row]] < 0:
            column_k[rows[row]] = columns[column]
            free[column] = False


def _upper_bound(index_km: np.ndarray, cosine_km: np.ndarray, n_columns: int) -> float:
    """A bound of the best sum, by subgradient steps on prices v >= 0 of the columns.

    For any such prices no assignment of all rows exceeds sum_i max_j (s_ij - v_j) + sum_j v_j. Columns that are
    no candidates of a row give it at most its last candidate's cosine, prices or not.
    """
    price_l = np.zeros(n_columns)
    floor_k, rows = cosine_km[:, -1], np.arange(len(index_km))
    best = float("inf")
    for step in range(_DUAL_STEPS):
        net_km = cosine_km - price_l[index_km]
        choice_k = net_km.argmax(axis=1)
        best = min(best, float(np.maximum(net_km[rows, choice_k], floor_k).sum() + price_l.sum()))
        wanted_l = np.bincount(index_km[rows, choice_k], minlength=n_columns)
        price_l = np.maximum(0, price_l + 0.05 / (1 + step / 20) * (wanted_l - 1))
    return best
