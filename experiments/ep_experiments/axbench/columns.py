"""Texts as rows of columns that need no label: every set of directions at equal number, dense activations, words.

Shapes: t texts, n tokens, k columns, d = d_model.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.files import write_new

from .. import nulls
from ..activations import TextActivations
from . import baselines
from .readouts import PENALTY, Encode, Of, Pooled, Rule, pool, ridge

DRAWS = 2  # of each null
MEAN_PENALTY = 0.003  # of mean activations
DIRECTIONS = ("regions", "random exemplars", "Gaussian directions", "k-means")


@dataclass(frozen=True, eq=False)
class Ordinary:
    """Directions at one site, all from the same ordinary activations x_nd, as many as regions at a percentile."""

    x_nd: Tensor
    percentile: float

    @cached_property
    def regions(self) -> Dictionary:
        return baselines.partitions(self.x_nd, [self.percentile])[self.percentile]

    @cached_property
    def u_nd(self) -> Float32[Tensor, "n d"]:
        return baselines.centred(self.x_nd, self.regions.center)

    @cached_property
    def centroids(self) -> Tensor:
        """Of spherical k-means, as many as there are regions."""
        return torch.from_numpy(baselines.spherical_kmeans(self.u_nd, self.regions.k, 0))

    def draws(self, name: str) -> list[Tensor]:
        """Sets of directions of a name; several of what is drawn at random."""
        k, d_model = self.regions.k, self.regions.d_model
        if name == "regions":
            return [self.regions.exemplars]
        if name == "k-means":
            return [self.centroids]
        if name == "random exemplars":
            return [nulls.random_exemplars(self.u_nd, k, seed) for seed in range(DRAWS)]
        return [nulls.gaussian_directions(d_model, k, seed) for seed in range(DRAWS)]


class DualRidge:
    """`readouts.ridge` for many choices among the same texts, from the products of all pairs of them."""

    def __init__(self, x_tk: Float32[np.ndarray, "t k"], penalty: float):
        self.gram_tt, self.penalty = (x_tk @ x_tk.T).astype(np.float64), penalty

    def score(self, rows: np.ndarray, positive_m: np.ndarray) -> Float64[np.ndarray, " t"]:
        """Scores of all texts, from some of them and which of these have the concept; up to a constant."""
        weight_m = np.where(positive_m, 0.5 / positive_m.sum(), 0.5 / (~positive_m).sum())
        gram_mt = self.gram_tt[rows]
        mean_t = weight_m @ gram_mt
        gram_mm = gram_mt[:, rows] - mean_t[rows] - mean_t[rows][:, None] + weight_m @ mean_t[rows]
        gram_mm.flat[:: len(rows) + 1] += self.penalty * (weight_m @ gram_mm.diagonal()) / weight_m
        dual_m = np.linalg.solve(gram_mm, np.where(positive_m, 1.0, -1.0))
        return dual_m @ gram_mt - dual_m.sum() * mean_t


Columns = Callable[[], Pooled]
"""Features of texts, made when they are needed."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One way to columns, and the ridge with which they are judged together. of: the pooling it looks at."""

    name: str
    draw: int
    columns: Columns
    penalty: float = PENALTY
    of: Of = "highest"

    @property
    def rule(self) -> Rule:
        return ridge(self.of, self.penalty)

    def dual(self) -> DualRidge:
        """The same, for many questions to all texts."""
        return DualRidge(getattr(self.columns(), self.of), self.penalty)


def arms(
    acts: TextActivations, texts: Sequence[str], fitted_on: Sequence[int], ordinary: Ordinary, cache: Path | None = None
) -> list[Arm]:
    """Every arm on some texts. fitted_on: texts whose words make the vocabulary.  cache: where columns are kept."""
    both = both_signs(ordinary.x_nd)
    made = [
        Arm(name, draw, _pooled(acts, baselines.cosines(ordinary.regions.center, e_kd), cache))
        for name in DIRECTIONS
        for draw, e_kd in enumerate(ordinary.draws(name))
    ]
    return [
        *made,
        Arm("highest activation", 0, _pooled(acts, both, cache)),
        Arm(
            "mean activation",
            0,
            _pooled(acts, baselines.standardised(ordinary.x_nd), cache),
            MEAN_PENALTY,
            "mean",
        ),
        Arm("words", 0, lambda: of_table(nulls.words(texts, fitted_on))),
        Arm("length", 0, lambda: of_table(np.array([[len(t.split())] for t in texts], np.float32))),
    ]


def of_table(x_tk: Float32[np.ndarray, "t k"]) -> Pooled:
    """Features that are of whole texts already."""
    return Pooled(x_tk, x_tk, x_tk, np.ones(len(x_tk), np.int64))


def _pooled(acts: TextActivations, encode: Encode, cache: Path | None) -> Columns:
    """Pooled features of texts; kept under what they follow from, since several questions are put to them."""

    def columns() -> Pooled:
        if cache is None:
            return pool(acts, encode)
        digest = hashlib.sha256(encode(torch.from_numpy(np.array(acts.x_nd[:64]))).numpy().round(3).tobytes())
        digest.update(acts.start_t.tobytes() + acts.token_n.tobytes())
        path = cache / f"columns-{digest.hexdigest()[:24]}.npz"
        if not path.is_file():
            texts = pool(acts, encode)
            data = io.BytesIO()
            np.savez(data, highest=texts.highest, mean=texts.mean)
            write_new(path, data.getvalue())
        with np.load(path) as kept:
            return Pooled(kept["highest"], kept["mean"], kept["mean"], np.diff(acts.start_t))

    return columns


def both_signs(x_nd: Tensor) -> Encode:
    standardised = baselines.standardised(x_nd)
    return lambda y_nd: torch.cat([z_nd := standardised(y_nd), -z_nd], dim=1)
