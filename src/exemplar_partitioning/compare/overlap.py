"""Members that regions of two dictionaries share, on the same tokens; chance beside it.

Shapes: n tokens, k and l regions, p pairs of regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_array

SHUFFLES = 20


@dataclass(frozen=True)
class Overlap:
    """How the members of two dictionaries' regions fall together.

    Attributes:
        members_a_k, members_b_l: tokens in each region.
        shared: sparse [k, l], tokens in both.
        best_k, best_l: partner that shares most by F1, -1 for a region without members.
        f1_k, f1_l: with it (0 without).
        f1_null: mean best F1 of the first's regions with members when tokens are paired at random.
        rand: adjusted Rand index of the two partitions; 0 is chance, 1 the same partition.
    """

    members_a_k: Int64[np.ndarray, " k"]
    members_b_l: Int64[np.ndarray, " l"]
    shared: csr_array
    best_k: Int64[np.ndarray, " k"]
    f1_k: Float64[np.ndarray, " k"]
    best_l: Int64[np.ndarray, " l"]
    f1_l: Float64[np.ndarray, " l"]
    f1_null: float
    rand: float

    def jaccard(self, row_p: Int64[np.ndarray, " p"], column_p: Int64[np.ndarray, " p"]) -> Float64[np.ndarray, " p"]:
        """Shared members over members of either; NaN where neither region has any."""
        both = self._both(row_p, column_p)
        either = self.members_a_k[row_p] + self.members_b_l[column_p] - both
        return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)

    def f1(self, row_p: Int64[np.ndarray, " p"], column_p: Int64[np.ndarray, " p"]) -> Float64[np.ndarray, " p"]:
        """Harmonic mean of the shares of either region's members that lie in the other; NaN where neither has any."""
        jaccard_p = self.jaccard(row_p, column_p)
        return 2 * jaccard_p / (1 + jaccard_p)

    def summary(self, regions_k: Int64[np.ndarray, " k"]) -> dict[str, Any]:
        """How well some regions of the first come back, as plain values; means are over those with members."""
        f1 = self.f1_k[regions_k][self.members_a_k[regions_k] > 0]
        return {
            "mean_best_f1": float(f1.mean()) if len(f1) else None,
            "mean_best_f1_null": self.f1_null,
            "share_best_f1_above_half": float((f1 > 0.5).mean()) if len(f1) else None,
            "regions_with_members": len(f1),
            "adjusted_rand": self.rand,
        }

    def columns(self, row_p: Int64[np.ndarray, " p"], column_p: Int64[np.ndarray, " p"]) -> dict[str, np.ndarray]:
        """Columns of a table of pairs of regions."""
        return {
            "members_a": self.members_a_k[row_p],
            "members_b": self.members_b_l[column_p],
            "jaccard": self.jaccard(row_p, column_p),
            "f1": self.f1(row_p, column_p),
            "best_f1_b": self.best_k[row_p],
            "best_f1": self.f1_k[row_p],
        }

    def _both(self, row_p: np.ndarray, column_p: np.ndarray) -> np.ndarray:
        return np.asarray(self.shared[row_p, column_p]).ravel().astype(np.float64)


def overlap(
    ids_a_n: Int64[np.ndarray, " n"], ids_b_n: Int64[np.ndarray, " n"], k_a: int, k_b: int, seed: int = 0
) -> Overlap:
    """Overlap of two partitions of the same tokens; -1 is no region."""
    from sklearn.metrics import adjusted_rand_score

    placed_n = (ids_a_n >= 0) & (ids_b_n >= 0)
    ids_a_n, ids_b_n = ids_a_n[placed_n], ids_b_n[placed_n]
    shared = contingency(ids_a_n, ids_b_n, k_a, k_b)
    best_k, f1_k = best_f1(shared)
    best_l, f1_l = best_f1(csr_array(shared.T))
    rng = np.random.default_rng(seed)
    nulls = [best_f1(contingency(rng.permutation(ids_a_n), ids_b_n, k_a, k_b))[1] for _ in range(SHUFFLES)]
    members_a_k, members_b_l = np.bincount(ids_a_n, minlength=k_a), np.bincount(ids_b_n, minlength=k_b)
    f1_null = float(np.mean([null[members_a_k > 0].mean() for null in nulls])) if len(ids_a_n) else 0.0
    return Overlap(
        members_a_k=members_a_k,
        members_b_l=members_b_l,
        shared=shared,
        best_k=best_k,
        f1_k=f1_k,
        best_l=best_l,
        f1_l=f1_l,
        f1_null=f1_null,
        rand=float(adjusted_rand_score(ids_a_n, ids_b_n)),
    )


def contingency(ids_a_n: Int64[np.ndarray, " n"], ids_b_n: Int64[np.ndarray, " n"], k_a: int, k_b: int) -> csr_array:
    """Tokens in region i of the first and j of the second, int64 [k_a, k_b]; regions are not negative."""
    ones = np.ones(len(ids_a_n), np.int64)
    return csr_array((ones, (ids_a_n, ids_b_n)), shape=(k_a, k_b))


def best_f1(shared: csr_array) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """For every row, the column of the largest F1 (lowest on a tie), and that F1; -1 and 0 for an empty row."""
    row_total, column_total = (np.asarray(shared.sum(axis=axis)).ravel() for axis in (1, 0))
    pairs = shared.tocoo()
    f1 = 2 * pairs.data / (row_total[pairs.row] + column_total[pairs.col])
    order = np.lexsort((pairs.col, -f1, pairs.row))
    rows, first = np.unique(pairs.row[order], return_index=True)
    best, value = np.full(len(row_total), -1, np.int64), np.zeros(len(row_total))
    best[rows], value[rows] = pairs.col[order][first], f1[order][first]
    return best, value
