"""Intervals by resampling, of shares, of areas under the ROC curve, and of ratios of means.

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
