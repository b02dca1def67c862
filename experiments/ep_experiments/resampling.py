"""What chance does: intervals by resampling, of means, areas under the ROC curve and ratios, and permutations.

A resample is a row of weights: how often it drew each item. Shapes: b resamples, n items, c classes.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

LEVEL = 0.95


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


def permuted(group_n: np.ndarray, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """A random permutation that keeps every input within its group."""
    order = np.argsort(group_n, kind="stable")
    permutation = np.empty(len(group_n), np.int64)
    permutation[order] = np.lexsort((rng.random(len(group_n)), group_n))
    return permutation


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
