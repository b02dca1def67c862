"""What chance does: intervals by resampling, differences of what was measured both ways, tests against nulls.

Corrections for many tests are `holm`, intervals of rates `wilson`, both of `exemplar_partitioning.act.localise`.
A resample is a row of weights: how often it drew each item. Shapes: b resamples, n items, c classes.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

LEVEL = 0.95
DRAWS = 4000  # resamples of a difference, and flips of its signs


def resamples(n: int, count: int, seed: int) -> Int64[np.ndarray, "b n"]:
    """`count` draws of n items out of n, with replacement."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=count)


def interval(value_b: Float64[np.ndarray, " b"]) -> tuple[float, float]:
    """The middle 95 % of a statistic over resamples; those where it is not defined (NaN) do not count.

    NaN twice where it is defined in none.
    """
    defined = value_b[~np.isnan(value_b)]
    if not len(defined):
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resampled_by_kind(kind_n: Bool[np.ndarray, " n"], count: int, seed: int) -> Int64[np.ndarray, "b n"]:
    """How often each of items of two kinds is drawn: once in the first row, then at random within its kind."""
    weight_bn = np.ones((count + 1, len(kind_n)), np.int64)
    weight_bn[1:, kind_n] = resamples(int(kind_n.sum()), count, seed)
    weight_bn[1:, ~kind_n] = resamples(int((~kind_n).sum()), count, seed + 1)
    return weight_bn


def spread(value_b: Float64[np.ndarray, " b"]) -> list[float]:
    """The value of the data and its 95 % interval."""
    return [round(float(value), 4) for value in (value_b[0], *interval(value_b[1:]))]


def mean_interval(
    value_n: Float64[np.ndarray, " n"], weight_bn: Int64[np.ndarray, "b n"]
) -> tuple[float, float, float]:
    """The mean of paired or single figures and its 95 % interval over resamples; NaN thrice if there are none."""
    if not len(value_n):
        return np.nan, np.nan, np.nan
    return float(value_n.mean()), *interval(weight_bn @ value_n / len(value_n))


def mean_spread(value_n: Float64[np.ndarray, " n"], count: int = DRAWS) -> list[float]:
    """The mean of those figures that are known, and its 95 % interval; NaN thrice if there are none."""
    known_n = value_n[~np.isnan(value_n)]
    return [round(value, 4) for value in mean_interval(known_n, resamples(max(1, len(known_n)), count, seed=0))]


def clustered(cluster_n: np.ndarray, count: int, seed: int) -> Int64[np.ndarray, "b n"]:
    """Draws of whole clusters: items that share one (texts of a document, tasks of a family) come and go together."""
    _, of_n = np.unique(cluster_n, return_inverse=True)
    return resamples(int(of_n.max()) + 1, count, seed)[:, of_n]


def difference(
    a_n: Float[np.ndarray, " n"], b_n: Float[np.ndarray, " n"], cluster_n: np.ndarray | None = None, seed: int = 0
) -> dict[str, float]:
    """Mean of a - b over items measured both ways: its 95 % interval, and p by flipping the sign of whole clusters.

    Items without one of the figures (NaN) do not count; each is a cluster of its own unless clusters are given.
    """
    known_n = ~(np.isnan(a_n) | np.isnan(b_n))
    apart_n = (a_n - b_n)[known_n].astype(np.float64)
    given_n = np.arange(len(a_n)) if cluster_n is None else cluster_n
    _, of_n = np.unique(given_n[known_n], return_inverse=True)
    sum_c, size_c = np.bincount(of_n, apart_n), np.bincount(of_n).astype(float)
    weight_bc = resamples(len(sum_c), DRAWS, seed)
    low, high = interval((weight_bc @ sum_c) / (weight_bc @ size_c))
    sign_bc = np.random.default_rng(seed + 1).integers(0, 2, (DRAWS, len(sum_c))) * 2 - 1
    p = above_null(abs(sum_c.sum()), np.abs(sign_bc @ sum_c))
    return {"difference": float(apart_n.mean()), "low": low, "high": high, "p": p}


def above_null(value: float, null_m: Float[np.ndarray, " m"]) -> float:
    """One-sided p of a value against draws of what cannot know: (1 + draws that reach it) / (1 + all)."""
    reached = null_m >= value - 1e-12 * max(1.0, abs(value))  # sums of one set in another order are the same
    return float((1 + reached.sum()) / (1 + len(null_m)))


def mcnemar(before_n: Float[np.ndarray, " n"], after_n: Float[np.ndarray, " n"]) -> dict[str, float | int]:
    """Items that changed sides between two ways of judging (1, 0, NaN unjudged), and the exact two-sided p."""
    from scipy.stats import binomtest

    lost = int(((before_n == 1) & (after_n == 0)).sum())
    gained = int(((before_n == 0) & (after_n == 1)).sum())
    p = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    return {"lost": lost, "gained": gained, "p": float(f"{p:.3g}")}


def auroc(
    score_n: Float[np.ndarray, " n"], positive_n: Bool[np.ndarray, " n"], weight_bn: Int64[np.ndarray, "b n"]
) -> Float64[np.ndarray, " b"]:
    """Probability that a positive scores above a negative, ties counting half; NaN where one kind is missing."""
    order = np.argsort(score_n, kind="stable")
    starts = np.flatnonzero(np.diff(score_n[order], prepend=-np.inf))
    weight_bn = weight_bn[:, order]
    positive_bg = np.add.reduceat(weight_bn * positive_n[order], starts, axis=1)
    negative_bg = np.add.reduceat(weight_bn, starts, axis=1) - positive_bg
    below_bg = np.cumsum(negative_bg, axis=1) - negative_bg / 2
    pairs_b = positive_bg.sum(axis=1) * negative_bg.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return (positive_bg * below_bg).sum(axis=1) / pairs_b


def macro_auroc(
    score_nc: Float[np.ndarray, "n c"], label_n: Int64[np.ndarray, " n"], weight_bn: Int64[np.ndarray, "b n"]
) -> Float64[np.ndarray, " b"]:
    """Each class against the others, the mean over classes; for two classes, that of the second."""
    classes = [1] if score_nc.shape[1] == 2 else range(score_nc.shape[1])
    every = np.stack([auroc(score_nc[:, c], label_n == c, weight_bn) for c in classes])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample without any class left: NaN
        return np.nanmean(every, axis=0)


def ratio(
    upper_n: Float[np.ndarray, " n"],
    lower_n: Float[np.ndarray, " n"],
    weight_bn: Int64[np.ndarray, "b n"],
) -> Float64[np.ndarray, " b"]:
    """Ratio of the weighted sums of two paired figures; NaN where the lower sum is not positive."""
    upper_b, lower_b = weight_bn @ upper_n, weight_bn @ lower_n
    return np.divide(upper_b, lower_b, out=np.full(len(weight_bn), np.nan), where=lower_b > 0)
