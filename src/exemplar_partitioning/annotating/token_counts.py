"""Which tokens stand at, or before, the members of each region: counts that merge, and their lift over the text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from ..core.association import log_likelihood

_COMPACT = 1 << 18  # pairs held loose before they are counted together


class PairCounts:
    """How often each token meets each region. Memory follows the number of distinct pairs, not of activations."""

    def __init__(self, k: int, vocab_size: int):
        self.k, self.vocab_size = k, vocab_size
        self._code = np.min_scalar_type(k * vocab_size)  # of pairs: region * vocab_size + token
        self._pairs, self._counts = np.zeros(0, self._code), np.zeros(0, np.int32)
        self._loose: list[np.ndarray] = []

    def add(self, region_n: Int64[np.ndarray, " n"], token_n: Int64[np.ndarray, " n"]) -> None:
        """Count pairs; a token of -1 stands for none."""
        known_n = token_n >= 0
        self._loose.append((region_n[known_n] * self.vocab_size + token_n[known_n]).astype(self._code))
        if sum(map(len, self._loose)) >= _COMPACT:
            self._compact()

    def _compact(self) -> None:
        pairs, counts = np.unique(np.concatenate([self._pairs[:0], *self._loose]), return_counts=True)
        self._loose = []
        self._join(pairs, counts)

    def _join(self, pairs: np.ndarray, counts: np.ndarray) -> None:
        counts = np.concatenate([self._counts, counts.astype(np.int32)])
        self._pairs, inverse = np.unique(np.concatenate([self._pairs, pairs]), return_inverse=True)
        self._counts = np.zeros(len(self._pairs), np.int32)
        np.add.at(self._counts, inverse, counts)

    def arrays(self) -> dict[str, np.ndarray]:
        """The counts, for a checkpoint."""
        self._compact()
        return {"pairs": self._pairs, "counts": self._counts}

    def merge(self, arrays: dict[str, np.ndarray]) -> None:
        """Add the counts of another, as its `arrays` gave them."""
        self._join(arrays["pairs"], arrays["counts"])

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._pairs, self._counts = arrays["pairs"], arrays["counts"]

    def characteristic(self, top: int) -> TokenCounts:
        """For each region, up to `top` tokens that are more frequent in it than in the text, most telling first.

        Ranked by the log-likelihood ratio of the token's frequency inside and outside (Dunning 1993), which
        neither lets chance rule, as lift alone would, nor mere frequency. Ties go to the lower token id.
        """
        self._compact()
        region_p, token_p = np.divmod(self._pairs.astype(np.int64), self.vocab_size)
        n_p = self._counts.astype(np.int64)
        region_k = np.bincount(region_p, n_p, minlength=self.k)
        token_v = np.bincount(token_p, n_p, minlength=self.vocab_size)
        total = n_p.sum()
        lift_p = (n_p / region_k[region_p]) / (token_v[token_p] / max(total, 1))
        ratio_p = log_likelihood(n_p, region_k[region_p], token_v[token_p], total)
        keep = np.flatnonzero(lift_p > 1)
        order = keep[np.lexsort((token_p[keep], -ratio_p[keep], region_p[keep]))]
        pairs_k = np.bincount(region_p[order], minlength=self.k)
        place = np.arange(len(order)) - np.repeat(np.cumsum(pairs_k) - pairs_k, pairs_k)
        order = order[place < top]
        return TokenCounts(np.minimum(pairs_k, top), token_p[order], n_p[order], lift_p[order])


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of regions, those of one after those of another.

    Attributes:
        length_k: of each region.
        token_p, count_p: which, and how often.
        lift_p: how many times more often than in the text as a whole.
    """

    length_k: Int64[np.ndarray, " k"]
    token_p: Int64[np.ndarray, " p"]
    count_p: Int64[np.ndarray, " p"]
    lift_p: Float[np.ndarray, " p"]
