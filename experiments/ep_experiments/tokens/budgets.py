"""How many tokens does a dictionary need, and how many an autoencoder of the same width, for the same quality?

Dictionaries are built from the first 10,000, 30,000, ... activations of a stream, autoencoders were trained on the
same stream. Both are measured on documents that neither saw, and by detection: the unit that tells the classes of a
labelled task apart best on training texts, tried on others (`detection.py`).

Costs are counted in tokens, in floating point operations by the formulas below, and in seconds of processor time as
measured; the model's forward pass over the tokens counts for both.

Shapes: n activations, k regions, f features, d = d_model, m budgets, t tasks, b resamples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from exemplar_partitioning.core.calibration import BATCH, SAMPLE, calibrate
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder

from ..activations import TextActivations
from ..paired import interval, mean_interval, resamples
from ..streamed import Report, Streamed
from .detection import Question, detected

HELD_OUT = 30_000  # activations at most
BUDGETS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
RESAMPLES = 2000
OUTLIER = 5
_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Grown:
    """A dictionary of the first so many activations of a stream, and what it cost beside the forward pass."""

    dictionary: Dictionary
    activations: int
    seconds: float
    flops: float


def grown(streamed: Streamed, tokens: int, percentile: float) -> Grown:
    """Calibrate and cluster the first `tokens` activations as `ep build` does; EPError if there are not so many."""
    rows = streamed.training(tokens)
    begun = time.process_time()
    size = min(BATCH, tokens)
    sample = rows[: max(min(SAMPLE, tokens) // size, 1) * size]
    calibration = calibrate([streamed.rows(part) for part in np.split(sample, len(sample) // size)], [percentile])
    clustering = LeaderClustering(calibration.center, calibration.thresholds[percentile])
    compared = 0
    for start in range(0, tokens, _ROWS):
        part = rows[start : start + _ROWS]
        clustering.add(streamed.rows(part))
        compared += len(part) * clustering.k
    seconds = time.process_time() - begun
    d = len(calibration.center)
    flops = 2.0 * d * compared + float(d) * len(sample) * size
    dictionary = Dictionary(calibration.center, clustering.exemplars.clone(), clustering.threshold)
    return Grown(dictionary, tokens, seconds, flops)


def forward_flops(streamed: Streamed, tokens: int) -> float:
    """Of the model up to the site: two for every weight and token, attention over so short windows left out."""
    return 2.0 * streamed.record["parameters"] * tokens


def forward_seconds(streamed: Streamed, tokens: int) -> float:
    """As the extraction took, on average."""
    return streamed.record["seconds"] / len(streamed) * tokens


def autoencoder_flops(activations: int, d: int, features: int) -> float:
    """Of training: encoder and decoder as dense products, the backward pass twice the forward one."""
    return 3 * 2 * 2.0 * activations * d * features


def autoencoder_quality(sae: SparseAutoencoder, x_nd: Float[Tensor, "n d"]) -> dict[str, float]:
    """Share of the variance explained, features active at once, and the share of features that never are.

    Some models have a few activations so long that most of the variance is theirs; `explained_ordinary` leaves out
    those farther from the mean than OUTLIER times the median.
    """
    active_f = torch.zeros(sae.W_enc.shape[1], dtype=torch.int64)
    errors = []
    for part in x_nd.split(_ROWS):
        features_nf = sae.encode(part)
        active_f += (features_nf > 0).sum(dim=0)
        errors.append((sae.decode(features_nf) - part).double().square().sum(dim=1))
    error_n, length_n = torch.cat(errors), (x_nd - x_nd.mean(dim=0)).norm(dim=1)
    ordinary_n = length_n <= OUTLIER * length_n.median()
    return {
        "explained_variance": round(1 - float(error_n.sum()) / _variation(x_nd), 4),
        "explained_ordinary": round(1 - float(error_n[ordinary_n].sum()) / _variation(x_nd[ordinary_n]), 4),
        "l0": round(float(active_f.sum()) / len(x_nd), 2),
        "dead": round(float((active_f == 0).double().mean()), 4),
    }


def dictionary_quality(dictionary: Dictionary, x_nd: Float[Tensor, "n d"]) -> dict[str, float]:
    """Share within the threshold, variance explained by the nearest region, and regions that are never nearest."""
    error = sum(
        float((dictionary.decode(dictionary.encode(part, "topk")) - part).double().square().sum())
        for part in x_nd.split(_ROWS)
    )
    id_n, distance_n = dictionary.assign(x_nd)
    return {
        "coverage": round(float((distance_n <= dictionary.threshold).double().mean()), 4),
        "explained_variance": round(1 - error / _variation(x_nd), 4),
        "l0": 1.0,
        "dead": round(1 - len(id_n[id_n >= 0].unique()) / dictionary.k, 4),
    }


def _variation(x_nd: Float[Tensor, "n d"]) -> float:
    x_nd = x_nd.double()
    return float((x_nd - x_nd.mean(dim=0)).square().sum())


def reached(
    cost_m: Float64[np.ndarray, " m"], quality_bm: Float64[np.ndarray, "b m"], wanted_b: Float64[np.ndarray, " b"]
) -> Float64[np.ndarray, " b"]:
    """The smallest cost at which each curve has the quality wanted of it, by lines over the logarithm of the cost.

    The first cost where that has it already, infinity where none does.
    """
    has_bm = quality_bm >= wanted_b[:, None]
    at_b = has_bm.argmax(axis=1)
    before_b, every = np.maximum(at_b - 1, 0), np.arange(len(wanted_b))
    low_b, high_b = quality_bm[every, before_b], quality_bm[every, at_b]
    with np.errstate(invalid="ignore", divide="ignore"):
        share_b = np.where(at_b > 0, (wanted_b - low_b) / (high_b - low_b), 0.0)
    log_b = np.log(cost_m[before_b]) + share_b * (np.log(cost_m[at_b]) - np.log(cost_m[before_b]))
    return np.where(has_bm.any(axis=1), np.exp(log_b), np.inf)


def times_fewer(
    cost_m: Float64[np.ndarray, " m"],
    quality_mt: Float64[np.ndarray, "m t"],
    other_cost: float,
    other_t: Float64[np.ndarray, " t"],
    weight_bt: Int64[np.ndarray, "b t"],
) -> dict[str, Any]:
    """How many times less dictionaries cost than one other thing of equal mean quality over tasks.

    An interval over resampled tasks. `at_least` tells that the cheapest dictionary is as good already, so that the
    figure is a lower bound; `not_reached` that none is. The shares say for how many resamples that holds.
    """

    def cheaper(weights: np.ndarray) -> np.ndarray:
        total_b1 = weights.sum(axis=1, keepdims=True)
        return other_cost / reached(cost_m, weights @ quality_mt.T / total_b1, weights @ other_t / total_b1[:, 0])

    once = float(cheaper(np.ones((1, len(other_t)), np.int64))[0])
    ratio_b = cheaper(weight_bt)
    low, high = interval(ratio_b)
    most = other_cost / cost_m[0]
    return {
        "times_fewer": float(f"{once:.4g}"),
        "low": float(f"{low:.4g}"),
        "high": float(f"{high:.4g}"),
        "at_least": bool(np.isclose(once, most)),
        "not_reached": once == 0,
        "share_at_least": round(float(np.isclose(ratio_b, most).mean()), 4),
        "share_not_reached": round(float((ratio_b == 0).mean()), 4),
    }


def equal_quality(rows: list[dict[str, Any]], others: list[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """For every autoencoder, how many times fewer tokens, operations and seconds dictionaries take to be as good.

    rows, others: dictionaries from few tokens to many, and autoencoders, with `tokens`, `flops`, `seconds`, and
    `auroc`, one figure a task.
    """
    quality_mt = np.array([row["auroc"] for row in rows])
    weight_bt = resamples(quality_mt.shape[1], RESAMPLES, seed)
    return [
        {"name": other["name"], "tokens_trained": other["tokens"]}
        | {
            of: times_fewer(
                np.array([row[of] for row in rows], float), quality_mt, other[of], np.array(other["auroc"]), weight_bt
            )
            for of in ("tokens", "flops", "seconds")
        }
        for other in others
    ]


def run(
    streamed: Streamed,
    saes: Sequence[tuple[SparseAutoencoder, Mapping[str, Any]]],
    sets: Sequence[tuple[Sequence[Question], TextActivations]],
    *,
    budgets: Sequence[int] = BUDGETS,
    percentile: float = 1.0,
    seed: int = 0,
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """Dictionaries of every budget and autoencoders on held-out activations and on detection, and their costs.

    saes: each with its record: name, tokens, seconds, flops of its training on the same stream.
    sets: tasks of detection, each set with the activations of its texts at the same site.
    """
    held_out = streamed.rows(np.flatnonzero(streamed.held_out)[:HELD_OUT])
    names = [question.name for questions, _ in sets for question in questions]
    weight_bt = resamples(len(names), RESAMPLES, seed)
    dictionaries, autoencoders = [], []
    for i, tokens in enumerate(budgets):
        report(f"dictionary of {tokens:,} activations", i, len(budgets) + len(saes))
        made = grown(streamed, tokens, percentile)
        auroc = detected(lambda x_nd, made=made: made.dictionary.encode(x_nd, "cosine").nan_to_num(-1), sets)
        dictionaries.append(
            {"name": f"dictionary of {tokens:,}", "units": made.dictionary.k, "threshold": made.dictionary.threshold}
            | _costs(streamed, tokens, made.seconds, made.flops)
            | {"quality": dictionary_quality(made.dictionary, held_out)}
            | _scored(auroc, weight_bt)
        )
    for i, (sae, record) in enumerate(saes):
        report(f"autoencoder {record['name']}", len(budgets) + i, len(budgets) + len(saes))
        autoencoders.append(
            {"name": record["name"], "units": sae.W_enc.shape[1]}
            | _costs(streamed, record["tokens"], record["seconds"], record["flops"])
            | {"quality": autoencoder_quality(sae, held_out)}
            | _scored(detected(sae.encode, sets), weight_bt)
        )
    return {
        "percentile": percentile,
        "held_out": len(held_out),
        "questions": names,
        "dictionaries": dictionaries,
        "autoencoders": autoencoders,
        "equal_quality": equal_quality(dictionaries, autoencoders, seed),
        "equal_tokens": equal_tokens(dictionaries, autoencoders, weight_bt),
    }


def equal_tokens(
    rows: list[dict[str, Any]], others: list[dict[str, Any]], weight_bt: Int64[np.ndarray, "b t"]
) -> list[dict[str, Any]]:
    """How much more a dictionary of as many tokens detects than each autoencoder: mean over tasks, paired."""
    pairs = [(row, other) for other in others for row in rows if row["tokens"] == other["tokens"]]
    lines = []
    for row, other in pairs:
        difference_t = np.array(row["auroc"]) - np.array(other["auroc"])
        figures = zip(("difference", "low", "high"), mean_interval(difference_t, weight_bt), strict=True)
        lines.append(
            {"name": other["name"], "tokens": other["tokens"]} | {name: round(value, 4) for name, value in figures}
        )
    return lines


def _costs(streamed: Streamed, tokens: int, seconds: float, flops: float) -> dict[str, float]:
    """With the model's forward pass, and without."""
    return {
        "tokens": tokens,
        "seconds": round(seconds + forward_seconds(streamed, tokens), 2),
        "seconds_without_model": round(seconds, 2),
        "flops": flops + forward_flops(streamed, tokens),
        "flops_without_model": flops,
    }


def _scored(auroc: list[float], weight_bt: Int64[np.ndarray, "b t"]) -> dict[str, Any]:
    figures = zip(("mean_auroc", "low", "high"), mean_interval(np.array(auroc), weight_bt), strict=True)
    return {name: round(value, 4) for name, value in figures} | {"auroc": auroc}
