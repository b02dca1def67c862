"""How much of what comes would lie beyond all regions: estimated, and counted along the stream. Without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int64


@dataclass(frozen=True)
class MissingMass:
    """Good-Turing estimate of the share of future activations that would found a new region.

    Attributes:
        estimate: exemplars met once / activations.
        low, high: its 95 % interval (Esty 1983), cut to 0..1.
    """

    estimate: float
    low: float
    high: float


def missing_mass(sole_counts_k: Int64[np.ndarray, " k"], n: int) -> MissingMass:
    """Missing mass after n activations with a direction; 1 before the first.

    Had an activation come last, it would have founded a region iff it is an exemplar that covers none alone: so the
    count of those, over n, is the leave-one-out estimate, unbiased where the order of the stream does not matter.
    (Counting by online counts would fall short: regions overlap, and neighbours share what comes.) Text in the order
    of its sources brings more than it says, many times more where a source has yet to begin; see `recent_births`. And
    documents of which nothing was read bring about a quarter more (docs/saturation.md).

    Args:
        sole_counts_k: how many later activations each exemplar alone covered, up to 2.
        n: activations with a direction.

    Returns:
        The estimate with its interval of 95 %.
    """
    if n == 0:
        return MissingMass(1.0, 0.0, 1.0)
    once, twice = int((sole_counts_k == 0).sum()), int((sole_counts_k == 1).sum())
    half = 1.96 * np.sqrt(max(once * (1 - once / n) + 2 * twice, 0)) / n
    return MissingMass(once / n, float(max(0.0, once / n - half)), float(min(1.0, once / n + half)))


def recent_births(growth: Sequence[tuple[int, int]], window: int) -> float:
    """Share of the last activations, a window of them (all, if there are fewer), that founded a region.

    Counted, not estimated: where text comes in the order of its sources, missing mass falls short, and this is
    what it falls short of.

    Args:
        growth: (activations, regions) along the stream.
        window: activations.
    """
    end, k = growth[-1]
    start, before = next(((n, k) for n, k in reversed(growth) if n <= end - window), (0, 0))
    return (k - before) / max(1, end - start)


def uneven_births(growth: Sequence[tuple[int, int]], window: int) -> tuple[int, int] | None:
    """Regions founded in two windows of the stream, of which the later has more than chance explains; else None.

    In mixed text new regions only become rarer. More than twice as many, and four standard deviations and ten
    beyond that, are a sign of text in the order of its sources.
    """
    regions = [0, *(k for n, k in growth if n % window == 0)]
    fewest = math.inf
    for before, after in pairwise(regions):
        if after - before > 2 * fewest + 4 * math.sqrt(fewest) + 10:
            return int(fewest), after - before
        fewest = min(fewest, after - before)
    return None


unseen_mass = missing_mass  # as it was called
