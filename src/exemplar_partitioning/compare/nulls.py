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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64

from ..core.nearest import ExemplarMatrix, nearest
from .progress import Tell, ignore, part

DRAWS = 8  # of a null at least; each gives as many best matches as there are regions, up to
_MATCHED = 2048
_AXES = 8192  # of a set at most, for its principal axes
MATCHES = 1000  # of a null at least
_SIGNS = np.array([-1, 1], np.float32)

Matches = Callable[[Float32[np.ndarray, "n d"], int], Float64[np.ndarray, " n"]]
"""Cosines of some directions with their nearest of a draw, given its seed."""


@dataclass(frozen=True)
class Null:
    """Best-match cosines without correspondence, sorted.

    Attributes:
        name: `reflections` or `random exemplars`.
        to_b, to_a: of the first set's directions in the second, and back.
    """

    name: str
    to_b: Float64[np.ndarray, " rk"]
    to_a: Float64[np.ndarray, " rl"]

    def cutoffs(self, false_alarms: float) -> tuple[float, float]:
        """Cosines that this share of matches without correspondence exceeds, for either direction."""
        return _upper(self.to_b, false_alarms), _upper(self.to_a, false_alarms)

    def summary(self, cosine_k: np.ndarray, cosine_l: np.ndarray, false_alarms: float) -> dict[str, Any]:
        """Plain values, with the share of some best matches to b and to a that exceed the cutoffs."""
        sides = {"to_b": (self.to_b, cosine_k), "to_a": (self.to_a, cosine_l)}
        summary: dict[str, Any] = {"name": self.name}
        for (side, (null, cosine)), cutoff in zip(sides.items(), self.cutoffs(false_alarms), strict=True):
            summary |= {f"cosine_{side}": quantiles(null), f"cutoff_{side}": cutoff}
            summary[f"above_{side}"] = float((cosine > cutoff).mean())
        return summary


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Mean and quantiles, by name."""
    names = {"p1": 0.01, "p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99}
    return {"mean": float(values.mean())} | {name: float(np.quantile(values, q)) for name, q in names.items()}


def _upper(sorted_n: np.ndarray, share: float) -> float:
    """The smallest value that at most this share of the others exceeds."""
    return float(sorted_n[len(sorted_n) - 1 - int(share * len(sorted_n))])


def reflections(
    a_kd: Float32[np.ndarray, "k d"], b_ld: Float32[np.ndarray, "l d"], seed: int = 0, tell: Tell = ignore
) -> Null:
    """Best matches with the other set reflected along random principal axes."""
    some_kd, some_ld = (x_nd[:: -(-len(x_nd) // _AXES)] for x_nd in (a_kd, b_ld))
    second_dd = some_kd.T @ some_kd / len(some_kd) + some_ld.T @ some_ld / len(some_ld)
    axes_dd = np.linalg.eigh(second_dd.astype(np.float64))[1].astype(np.float32)
    a, b = a_kd @ axes_dd, b_ld @ axes_dd

    def reflected(set_kd: np.ndarray) -> Matches:
        matrix = ExemplarMatrix.of(torch.from_numpy(set_kd))

        def matches(x_nd: np.ndarray, draw: int) -> np.ndarray:
            # a reflection is its own inverse: x meets the reflected set as its own reflection meets the set
            return nearest(x_nd * np.random.default_rng([seed, draw]).choice(_SIGNS, size=x_nd.shape[1]), matrix)[1]

        return matches

    return drawn("reflections", a, b, reflected(b), reflected(a), tell=part(tell, 0.3, 1))


def drawn(
    name: str,
    a_kd: Float32[np.ndarray, "k d"],
    b_ld: Float32[np.ndarray, "l d"],
    in_b: Matches,
    in_a: Matches,
    *,
    tell: Tell = ignore,
) -> Null:
    """Best matches with directions drawn in the place of the other set; `in_*` look for them there, given a seed.

    Of a large set only some are matched with a draw, others with the next: quantiles of 16,384 matches ask for no more.
    """
    draws = max(DRAWS, -(-MATCHES // min(len(a_kd), len(b_ld))))

    def matches(x_kd: np.ndarray, find: Matches, tell: Tell) -> Iterator[np.ndarray]:
        step = -(-len(x_kd) // _MATCHED)
        for draw in range(draws):
            yield find(x_kd[draw % step :: step], draw)
            tell((draw + 1) / draws)

    to_b = np.concatenate([*matches(a_kd, in_b, part(tell, 0, 0.5))])
    to_a = np.concatenate([*matches(b_ld, in_a, part(tell, 0.5, 1))])
    return Null(name=name, to_b=np.sort(to_b), to_a=np.sort(to_a))
