"""From activations of the tokens of a text to one score a text, by way of the features of a dictionary.

A *basis* turns activations into features, one column a direction: cosines with exemplars, with mean members, with the
centroids of k-means, or what an autoencoder encodes. Features of tokens are pooled over each text. A *rule* looks at
labelled training texts and gives weights to a few columns, or to all; a text's score is the weighted sum of its pooled
features. So every method of the comparison is one basis with one rule.

Shapes: t texts, n tokens, k columns, m texts of a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from exemplar_partitioning.core.precision import full_precision

from ..activations import TextActivations

Encode = Callable[[Tensor], Tensor]
"""Activations float32 [n, d] to features float32 [n, k]."""

TOKENS_AT_ONCE = 2048
TEMPERATURE = 0.02  # of soft membership, in cosine; with the next, decided on training texts of one site
KEPT = 10  # columns that have a weight in a profile
FEW_PAIRS = 4096  # of texts: compared one by one, all columns at once
PENALTY = 0.001  # of the ridge, in mean squared lengths of centred rows; by cross-validation on the same texts


@dataclass(frozen=True, eq=False)
class Pooled:
    """Features of texts at a basis, pooled over the tokens of each text.

    highest: the maximum.  mean: the mean.  profile: the square root of the mean share that each column has in a token.
    All float32 [t, k], zeros for a text without tokens.  tokens: int64 [t].
    """

    highest: Float32[np.ndarray, "t k"]
    mean: Float32[np.ndarray, "t k"]
    profile: Float32[np.ndarray, "t k"]
    tokens: Int64[np.ndarray, " t"]

    def __getitem__(self, rows: np.ndarray) -> Pooled:
        return Pooled(self.highest[rows], self.mean[rows], self.profile[rows], self.tokens[rows])


Of = Literal["highest", "mean", "profile"]


@dataclass(frozen=True, eq=False)
class Weights:
    """What a rule found: a text's score is the weighted sum of columns of its maxima, its means or its profile."""

    columns: Int64[np.ndarray, " c"]
    weight: Float[np.ndarray, " c"]
    of: Of = "highest"

    def score(self, texts: Pooled) -> Float[np.ndarray, " t"]:
        return getattr(texts, self.of)[:, self.columns].astype(np.float64) @ self.weight


@dataclass(frozen=True, eq=False)
class Examples:
    """Training texts, and which of them have the concept."""

    texts: Pooled
    positive_m: Bool[np.ndarray, " m"]

    @cached_property
    def merit_k(self) -> Float[np.ndarray, " k"]:
        """Training AUROC of the maxima; the margin, in standard deviations, decides among equals only."""
        highest = self.texts.highest
        with_mk, without_mk = highest[self.positive_m], highest[~self.positive_m]
        spread_k = highest.std(axis=0) + np.finfo(np.float32).tiny
        margin_k = (with_mk.mean(axis=0) - without_mk.mean(axis=0)) / spread_k
        return auroc(highest, self.positive_m) + 1e-6 * margin_k


Rule = Callable[[Examples], Weights]
"""Training texts to weights."""


def shares(cosine_nk: Tensor) -> Tensor:
    """Soft membership of tokens in regions: a softmax of cosines, which gives nearly all to the few nearest."""
    return torch.softmax(cosine_nk / TEMPERATURE, dim=1)


def pool(acts: TextActivations, encode: Encode, share: Encode = torch.relu) -> Pooled:
    """Features of all tokens, pooled over texts; never more than a few texts' at a time are held.

    share: features of tokens to the shares that columns have in them, not negative.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    tokens_t = np.diff(acts.start_t)
    for rows, start_b in _blocks(acts.start_t):
        if rows.start == rows.stop:
            continue
        with full_precision():
            features_nk = encode(torch.from_numpy(np.array(acts.x_nd[rows])))
        highest_bk = np.maximum.reduceat(features_nk.numpy(), start_b, axis=0)
        sums = (np.add.reduceat(of_nk.numpy(), start_b, axis=0) for of_nk in (features_nk, share(features_nk)))
        parts.append((highest_bk, *sums))
    if not parts:
        raise ValueError("no text has a token")
    some_t = tokens_t > 0
    pooled = np.zeros((3, len(acts), parts[0][0].shape[1]), np.float32)
    for filled_tk, of_text in zip(pooled, zip(*parts, strict=True), strict=True):
        filled_tk[some_t] = np.concatenate(of_text)
    pooled[1:, some_t] /= tokens_t[some_t, None]
    return Pooled(pooled[0], pooled[1], np.sqrt(pooled[2]), tokens_t)


def _blocks(start_t: Int64[np.ndarray, " t1"]) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of whole texts, about TOKENS_AT_ONCE, with where in them each text that has tokens begins."""
    first = 0
    while first < len(start_t) - 1:
        last = max(first + 1, int(np.searchsorted(start_t, start_t[first] + TOKENS_AT_ONCE, side="right")) - 1)
        starts = start_t[first:last][np.diff(start_t[first : last + 1]) > 0]
        yield slice(int(start_t[first]), int(start_t[last])), starts - start_t[first]
        first = last


def auroc(score: Float[np.ndarray, "m ..."], positive_m: Bool[np.ndarray, " m"]) -> np.ndarray:
    """How often a positive row scores above a negative one, ties counting half: a number for each column.

    NaN unless there are rows of both kinds.
    """
    shape, pairs = np.shape(score)[1:], int(positive_m.sum()) * int((~positive_m).sum())
    if not pairs:
        return np.full(shape, np.nan)
    if pairs <= FEW_PAIRS:
        with_p, without_n = np.asarray(score)[positive_m], np.asarray(score)[~positive_m]
        won = [(row > without_n).sum(axis=0) + (row >= without_n).sum(axis=0) for row in with_p]
        return np.sum(won, axis=0) / (2 * pairs)
    columns_km = np.ascontiguousarray(np.reshape(score, (len(score), -1)).T)
    without_kn, with_kp = np.sort(columns_km[:, ~positive_m], axis=1), columns_km[:, positive_m]
    twice = [
        sum(int(np.searchsorted(without_n, with_p, side).sum()) for side in ("left", "right"))
        for without_n, with_p in zip(without_kn, with_kp, strict=True)
    ]
    return np.reshape(twice, shape) / (2 * pairs)


def contrast(given: Examples) -> Weights:
    """The column whose mean over tokens with the concept most exceeds that over tokens without (the paper's first)."""
    parts = (given.texts[given.positive_m], given.texts[~given.positive_m])
    means = [np.average(part.mean, axis=0, weights=part.tokens) for part in parts]
    return _one(int((means[0] - means[1]).argmax()))


def best(given: Examples) -> Weights:
    """The column that tells training texts apart best, by AUROC (the paper's second; SAE-A of AxBench).

    Several may do it without fault: then the one with the widest margin, in standard deviations.
    """
    return _one(int(given.merit_k.argmax()))


def several(count: int) -> Rule:
    """The best few columns, each in standard deviations, added up."""

    def rule(given: Examples) -> Weights:
        columns = np.argsort(-given.merit_k, kind="stable")[:count]
        spread_c = given.texts.highest[:, columns].std(axis=0, dtype=np.float64)
        return Weights(columns, np.divide(1, spread_c, out=np.zeros_like(spread_c), where=spread_c > 0))

    return rule


def profile(given: Examples) -> Weights:
    """Columns with a larger share of the texts that have the concept, weighed by how much larger.

    The difference between mean profiles, in standard deviations, is shrunk until few columns are left, where it is
    largest. Columns with a smaller share say nothing: they tell what the other texts are, not what the concept is.
    """
    profile_mk, positive_m = given.texts.profile, given.positive_m
    with_k, without_k = (profile_mk[kind].mean(axis=0, dtype=np.float64) for kind in (positive_m, ~positive_m))
    spread_k = profile_mk.std(axis=0, dtype=np.float64) + np.finfo(np.float32).tiny
    difference_k = (with_k - without_k) / spread_k
    columns = np.argsort(-difference_k, kind="stable")[: KEPT + 1]
    weight_c = difference_k[columns] - max(difference_k[columns[-1]], 0.0)
    columns, weight_c = columns[weight_c > 0], weight_c[weight_c > 0]
    return Weights(columns, weight_c / spread_k[columns], "profile")


def ridge(of: Of = "highest", penalty: float = PENALTY) -> Rule:
    """Ridge regression on all columns of the maxima, or of another pooling; the two kinds of texts have equal weight.

    The solution lies in the span of the rows, so the system to solve is as large as there are training texts.
    """

    def rule(given: Examples) -> Weights:
        positive_m = given.positive_m
        x_mk = getattr(given.texts, of).astype(np.float64)
        weight_m = np.where(positive_m, 0.5 / positive_m.sum(), 0.5 / (~positive_m).sum())
        x_mk -= weight_m @ x_mk
        gram_mm = x_mk @ x_mk.T
        gram_mm.flat[:: len(x_mk) + 1] += penalty * (weight_m @ gram_mm.diagonal()) / weight_m
        dual_m = np.linalg.solve(gram_mm, np.where(positive_m, 1.0, -1.0))
        return Weights(np.arange(x_mk.shape[1]), dual_m @ x_mk, of)

    return rule


def _one(column: int) -> Weights:
    return Weights(np.array([column]), np.ones(1))
