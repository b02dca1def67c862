"""What best matches look like where nothing corresponds, and the cutoff that follows.

Any two sets of directions have best matches: with k of them in d dimensions that share a covariance, some pair up
well by chance. How well is measured here, in two ways that answer two questions.

*Reflections* ask: is there any correspondence? The second set is turned by an orthogonal map, minus along random
ones of the principal axes that both sets share. That leaves every cosine within the set as it was (so it is a net
of the same size and threshold, in a space with the same spectrum), and undoes where its directions point. A Haar
rotation would also spread them over directions that activations never take, and make the null too easy. It needs
the two sets and nothing else. A few dozen regions span less than activations do; of those it asks too much, and of a
single one it can say nothing (the cutoff is 1).

*Random exemplars* ask: do the sets agree beyond both being made of activations of the same text? The second set
is replaced by as many activations drawn at random (for mean directions: by the means of the Voronoi regions
that such activations have). A dictionary covers most activations to within theta, so a region always has some
neighbour in another dictionary of the site; this null has them too. It needs activations, hence text.

Shapes: k and l directions, d = d_model, n activations, r draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from .neighbours import nearest

DRAWS = 8  # of a null at least; each gives as many best matches as there are regions
MATCHES = 1000  # of a null at least
_SIGNS = np.array([-1, 1], np.float32)


@dataclass(frozen=True)
class Null:
    """Best-match cosines without correspondence, sorted.

    name: `reflections` or `random exemplars`.  to_b, to_a: of the first set's directions in the second, and back.
    """

    name: str
    to_b: Float32[np.ndarray, " rk"]
    to_a: Float32[np.ndarray, " rl"]

    def cutoffs(self, false_alarms: float) -> tuple[float, float]:
        """Cosines that this share of matches without correspondence exceeds, for either direction."""
        return _upper(self.to_b, false_alarms), _upper(self.to_a, false_alarms)


def _upper(sorted_n: np.ndarray, share: float) -> float:
    """The smallest value that at most this share of the others exceeds."""
    return float(sorted_n[len(sorted_n) - 1 - int(share * len(sorted_n))])


def reflections(a_kd: Float32[np.ndarray, "k d"], b_ld: Float32[np.ndarray, "l d"], seed: int = 0) -> Null:
    """Best matches with the other set reflected along random principal axes."""
    second_dd = a_kd.T @ a_kd / len(a_kd) + b_ld.T @ b_ld / len(b_ld)
    axes_dd = np.linalg.eigh(second_dd.astype(np.float64))[1].astype(np.float32)
    a, b = a_kd @ axes_dd, b_ld @ axes_dd

    def reflected(x: np.ndarray) -> Callable[[int], np.ndarray]:
        return lambda draw: x * np.random.default_rng([seed, draw]).choice(_SIGNS, size=x.shape[1])

    return _best_matches("reflections", a, b, reflected(a), reflected(b))


def random_exemplars(
    a_kd: Float32[np.ndarray, "k d"],
    b_ld: Float32[np.ndarray, "l d"],
    draw_a: Callable[[int], Float32[np.ndarray, "k d"]],
    draw_b: Callable[[int], Float32[np.ndarray, "l d"]],
) -> Null:
    """Best matches with as many directions drawn in the place of the other set; `draw_*` are given a seed."""
    return _best_matches("random exemplars", a_kd, b_ld, draw_a, draw_b)


def _best_matches(
    name: str,
    a: np.ndarray,
    b: np.ndarray,
    draw_a: Callable[[int], np.ndarray],
    draw_b: Callable[[int], np.ndarray],
) -> Null:
    draws = range(max(DRAWS, -(-MATCHES // min(len(a), len(b)))))
    to_b = np.concatenate([nearest(a, draw_b(draw))[1] for draw in draws])
    to_a = np.concatenate([nearest(b, draw_a(draw))[1] for draw in draws])
    return Null(name, np.sort(to_b), np.sort(to_a))
