"""How strongly a token and a region go together. Without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


def log_likelihood(
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
