"""What every arm of the probes may look at (see `run.py`).

Shapes: n training rows, t test rows, x both, k regions, d = d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64

from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.folder.dictionary import StoredDictionary
from exemplar_partitioning.models.loaded import LoadedModel

from ..activations import TextActivations, text_activations
from ..nulls import random_cells
from ..tasks import Task, split
from .logistic import top_features


@dataclass(frozen=True)
class Plan:
    """Sizes of the experiment. train, test: rows of a task at most.  context_size: tokens of a text that are read.

    top: features of an autoencoder in its `top-k` arm.  resamples: of every interval.
    """

    train: int = 600
    test: int = 300
    context_size: int = 128
    top: int = 16
    resamples: int = 1000
    seed: int = 0


_AGAINST = {"one-hot": "raw", "share": "raw mean"}


class Features(NamedTuple):
    """What an arm may look at. detail: percentile or autoencoder.  against: the raw arm it is measured by."""

    arm: str
    detail: str
    train_nf: Float[np.ndarray, "n f"]
    test_tf: Float[np.ndarray, "t f"]
    standardise: bool = False
    against: str = "raw"


class Rows(NamedTuple):
    """A task as read by the model: the tokens of its training texts, then those of its test texts."""

    every: TextActivations
    label_n: Int64[np.ndarray, " n"]
    label_t: Int64[np.ndarray, " t"]

    @property
    def last_x(self) -> Int64[np.ndarray, " x"]:
        """Where the last token of each text is among all tokens."""
        return self.every.start_t[1:] - 1

    @property
    def last_xd(self) -> Float32[np.ndarray, "x d"]:
        """Activations of the last tokens of all texts."""
        return np.asarray(self.every.x_nd[self.last_x])

    def halves(self, features_xf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of all texts as those of training and test texts."""
        return features_xf[: len(self.label_n)], features_xf[len(self.label_n) :]


def read_rows(
    loaded: LoadedModel, site: str, task: Task, plan: Plan, cache: Path | None
) -> tuple[Rows, dict[str, int]]:
    """A task as the model reads it, without texts that give no token and test texts that begin as a training one does.

    Returns the rows, and how many texts were left out, by reason. Raises EPError if no test is left.
    """
    train_n, test_n = split(task, plan.train, plan.test, plan.seed)
    chosen = np.concatenate([train_n, test_n])
    texts = [task.texts[i] for i in chosen]
    every = text_activations(loaded, [site], texts, cache=cache, context_size=plan.context_size)[site]
    keys = [every.token_n[a:b].tobytes() for a, b in zip(every.start_t, every.start_t[1:], strict=False)]
    seen = set(keys[: len(train_n)])
    token_x = np.array([len(key) > 0 for key in keys])
    new_x = np.array([i < len(train_n) or key not in seen for i, key in enumerate(keys)])
    lost = {"no token": int((~token_x).sum()), "the same beginning in training": int((token_x & ~new_x).sum())}
    kept_x = token_x & new_x
    train_x = np.arange(len(chosen)) < len(train_n)
    label_n, label_t = task.label_n[chosen[kept_x & train_x]], task.label_n[chosen[kept_x & ~train_x]]
    if len(np.unique(label_t)) < 2:
        raise EPError(
            f"task {task.name}: only {len(label_t)} test rows of one class remain besides those that begin as a "
            f"training row in their first {plan.context_size} tokens; raise --context"
        )
    return Rows(_of(every, kept_x), label_n, label_t), {reason: n for reason, n in lost.items() if n}


def _of(every: TextActivations, kept_t: Bool[np.ndarray, " t"]) -> TextActivations:
    """The activations of some of the texts."""
    lengths = np.diff(every.start_t)
    if kept_t.all():
        return every
    row_n = np.repeat(kept_t, lengths)
    return TextActivations(every.x_nd[row_n], every.token_n[row_n], np.cumsum([0, *lengths[kept_t]], dtype=np.int64))


def arms(
    rows: Rows, dictionaries: Sequence[StoredDictionary], saes: dict[str, SparseAutoencoder], plan: Plan
) -> Iterator[Features]:
    """What every arm may look at; one at a time, as some are wide."""
    last_xd = rows.last_xd
    yield from _of_activations_and_tokens(rows, last_xd)
    yield from _of_regions(rows, last_xd, dictionaries, plan.seed)
    for name, sae in saes.items():
        yield from _of_autoencoder(rows, last_xd, sae, name, plan.top)


def _of_activations_and_tokens(rows: Rows, last_xd: Float32[np.ndarray, "x d"]) -> Iterator[Features]:
    every = rows.every
    yield Features("raw", "", *rows.halves(last_xd), standardise=True)
    mean_xd = np.add.reduceat(every.x_nd, every.start_t[:-1], axis=0) / np.diff(every.start_t)[:, None]
    yield Features("raw mean", "", *rows.halves(mean_xd), standardise=True, against="raw mean")
    present, token_n = np.unique(every.token_n, return_inverse=True)
    yield Features("token", "", *rows.halves(one_hot(token_n[rows.last_x], len(present))))
    yield Features("words", "", *rows.halves(shares(token_n, every.start_t)), against="raw mean")


def _of_regions(
    rows: Rows, last_xd: Float32[np.ndarray, "x d"], dictionaries: Sequence[StoredDictionary], seed: int
) -> Iterator[Features]:
    forms: dict[str, list[np.ndarray]] = {"one-hot": [], "share": []}
    for d in dictionaries:
        p = f"p {d.config.calibration.percentile:g}"
        region_n, _ = d.assign(np.asarray(rows.every.x_nd))
        forms["one-hot"].append(one_hot(region_n[rows.last_x], d.k))
        forms["share"].append(shares(region_n, rows.every.start_t))
        for arm, features in forms.items():
            yield Features(arm, p, *rows.halves(features[-1]), against=_AGAINST[arm])
        yield Features("exemplar", p, *rows.halves(named(d, region_n[rows.last_x])), standardise=True)
        yield Features("cosine", p, *rows.halves(np.nan_to_num(d.encode(last_xd, "cosine"))), standardise=True)
        cells = random_cells(d, seed)
        cells_x, _ = cells.assign(last_xd)
        yield Features("random", p, *rows.halves(one_hot(cells_x, d.k)))
        yield Features("random direction", p, *rows.halves(named(cells, cells_x)), standardise=True)
    if len(dictionaries) > 1:
        for arm, features in forms.items():
            yield Features(arm, "all p", *rows.halves(np.concatenate(features, axis=1)), against=_AGAINST[arm])


def _of_autoencoder(
    rows: Rows, last_xd: Float32[np.ndarray, "x d"], sae: SparseAutoencoder, name: str, top: int
) -> Iterator[Features]:
    train_nf, test_tf = rows.halves(sae.encode(torch.from_numpy(last_xd)).numpy())
    best = top_features(train_nf, rows.label_n, top)
    yield Features("sae top-1", name, train_nf[:, best[:1]], test_tf[:, best[:1]])
    yield Features(f"sae top-{top}", name, train_nf[:, best], test_tf[:, best], standardise=True)
    yield Features("sae dense", name, train_nf, test_tf)
    largest_nf, largest_tf = (one_hot(f.argmax(axis=1), f.shape[1]) for f in (train_nf, test_tf))
    yield Features("sae one-hot", name, largest_nf, largest_tf)


def one_hot(id_x: Int64[np.ndarray, " x"], k: int) -> Float32[np.ndarray, "x k"]:
    """1 at the number of each row; nothing where it is negative."""
    features = np.zeros((len(id_x), k), np.float32)
    inside = np.flatnonzero(id_x >= 0)
    features[inside, id_x[inside]] = 1
    return features


def named(dictionary: Dictionary, id_x: Int64[np.ndarray, " x"]) -> Float32[np.ndarray, "x d"]:
    """The exemplar of each row's region; nothing where there is none."""
    features = np.zeros((len(id_x), dictionary.d_model), np.float32)
    inside = np.flatnonzero(id_x >= 0)
    features[inside] = dictionary.exemplars.numpy()[id_x[inside]]
    return features


def shares(id_n: Int64[np.ndarray, " n"], start_t: Int64[np.ndarray, " t1"]) -> Float32[np.ndarray, "t m"]:
    """Share of each text's tokens that has each number; columns of the numbers that occur, in their order."""
    present, column_n = np.unique(id_n, return_inverse=True)
    text_n = np.repeat(np.arange(len(start_t) - 1), np.diff(start_t))
    features = np.zeros((len(start_t) - 1, len(present)), np.float32)
    np.add.at(features, (text_n, column_n), 1)
    features = features[:, present >= 0]
    return features / np.diff(start_t)[:, None].astype(np.float32)
