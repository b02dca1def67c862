"""Token ratios: how many times the tokens of directions an autoencoder took to rebuild no better than they do.

Intervals draw documents anew, the same ones for every loss. Shapes: w documents, b their resamples after the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from exemplar_partitioning.evaluating.result import Bootstrap

Losses = Float64[np.ndarray, " b"]
Ratio = tuple[float, Literal["", "at least", "less than"]]
"""With what is known where the directions are as good at the least tokens measured, or not at the most."""


def losses(bootstrap: Bootstrap, above_w: np.ndarray, below_w: np.ndarray) -> Losses:
    """A ratio of sums over documents, the less the better: as measured, then for each resample."""
    count_bw = np.concatenate([np.ones((1, len(above_w))), bootstrap.count_bd])
    return (count_bw @ above_w) / (count_bw @ below_w)


def token_ratio(tokens: float, target: float, curve: Sequence[tuple[int, float]]) -> Ratio:
    """Tokens over those at which a curve of losses reaches the target first, log-linear between measured numbers."""
    if curve[0][1] <= target:
        return tokens / curve[0][0], "at least"
    for (low, before), (high, after) in pairwise(curve):
        if after <= target:
            share = (target - before) / (after - before)
            return tokens / (low * (high / low) ** share), ""
    return tokens / curve[-1][0], "less than"


def token_ratios(
    targets: Sequence[tuple[int, Losses]], curves: Sequence[Sequence[tuple[int, Losses]]]
) -> dict[str, Any]:
    """Of every autoencoder and curve (their seeds and orders) as measured, and between what 95 % of resamples lie."""
    found: list[Ratio] = []
    resampled: list[Ratio] = []
    for tokens, target_b in targets:
        for curve in curves:
            for b, target in enumerate(target_b):
                ratio = token_ratio(tokens, float(target), [(at, float(loss_b[b])) for at, loss_b in curve])
                (resampled if b else found).append(ratio)
    resampled.sort()
    last = len(resampled) - 1
    ends = [resampled[math.floor(0.025 * last)], resampled[math.ceil(0.975 * last)]]
    return {"estimates": [_rounded(ratio) for ratio in sorted(found)], "95 %": [_rounded(ratio) for ratio in ends]}


def _rounded(ratio: Ratio) -> list[Any]:
    return [round(ratio[0], 3), ratio[1]]
