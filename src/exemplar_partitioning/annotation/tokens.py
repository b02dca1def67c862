"""Which tokens stand at, or before, the members of each region: counts that merge, and their lift over the text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int64

_COMPACT = 1 << 20  # pairs held loose before they are counted together


class PairCounts:
    """How often each token meets each region. Memory follows the number of distinct pairs, not of activations."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self._pairs, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._loose: list[np.ndarray] = []

    def add(self, region_n: Int64[np.ndarray, " n"], token_n: Int64[np.ndarray, " n"]) -> None:
        """Count pairs; a token of -1 stands for none."""
        there = token_n >= 0
        self._loose.append(region_n[there] * self.vocab_size + token_n[there])
        if sum(map(len, self._loose)) >= _COMPACT:
            self._compact()

    def _compact(self) -> None:
        pairs, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *self._loose]), return_counts=True)
        merged = np.concatenate([self._pairs, pairs])
        self._pairs, inverse = np.unique(merged, return_inverse=True)
        counts = np.concatenate([self._counts, counts])
        self._counts = np.zeros(len(self._pairs), np.int64)
        np.add.at(self._counts, inverse, counts)
        self._loose = []

    def arrays(self) -> dict[str, np.ndarray]:
        """The counts, for a checkpoint."""
        self._compact()
        return {"pairs": self._pairs, "counts": self._counts}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._pairs, self._counts = arrays["pairs"], arrays["counts"]

    def characteristic(self, k: int, top: int) -> list[list[TokenCount]]:
        """For each of k regions, up to `top` tokens that are more frequent in it than in the text, most telling first.

        Ranked by the log-likelihood ratio of the token's frequency inside and outside (Dunning 1993), which
        neither lets chance rule, as lift alone would, nor mere frequency. Ties go to the lower token id.
        """
        self._compact()
        region_p, token_p, n_p = self._pairs // self.vocab_size, self._pairs % self.vocab_size, self._counts
        region_k = np.bincount(region_p, n_p, minlength=k)[:k]
        token_v = np.bincount(token_p, n_p, minlength=self.vocab_size)
        total = n_p.sum()
        lift_p = (n_p / region_k[region_p]) / (token_v[token_p] / max(total, 1))
        ratio_p = _log_likelihood(n_p, region_k[region_p], token_v[token_p], total)
        keep = np.flatnonzero(lift_p > 1)
        order = keep[np.lexsort((token_p[keep], -ratio_p[keep], region_p[keep]))]
        starts = np.searchsorted(region_p[order], np.arange(k + 1))
        return [
            [TokenCount(int(token_p[i]), int(n_p[i]), float(lift_p[i])) for i in order[first : min(first + top, end)]]
            for first, end in pairwise(starts)
        ]


@dataclass(frozen=True)
class TokenCount:
    """A token in a region: how often, and how many times more often than in the text as a whole."""

    token_id: int
    count: int
    lift: float


def _log_likelihood(
    both: Int64[np.ndarray, " p"], region: Float[np.ndarray, " p"], token: Float[np.ndarray, " p"], total: int
) -> Float[np.ndarray, " p"]:
    """G2 of the two-by-two table (in the region or not) x (this token or another)."""

    def term(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(observed > 0, observed * np.log(observed / expected), 0.0)

    cells = [
        (both, region * token / total),
        (region - both, region * (total - token) / total),
        (token - both, (total - region) * token / total),
        (total - region - token + both, (total - region) * (total - token) / total),
    ]
    return 2 * np.sum([term(observed, expected) for observed, expected in cells], axis=0)
