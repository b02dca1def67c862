"""Do dictionaries saturate on a kind of text, and how fast do they grow where they do not?

One centre and threshold for all domains, calibrated on a mix of equal parts; then one pass over each domain's text,
none of it twice. Where the dictionary still grows, K ~ N^a is fitted to the second half of the growth (on a logarithmic
scale, from a tenth of the stream on), with an interval from leaving out a tenth of the documents at a time, and
the missing mass tells how many of the next activations would found regions.

Shapes: n activations, k regions, c points of a curve.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.stats import t as student
from torch import Tensor

from exemplar_partitioning.core.calibration import BATCH, Calibration, calibrate
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.missing_mass import missing_mass
from exemplar_partitioning.errors import EPError

from .streamed import Streamed

WINDOW = BATCH  # activations without a new exemplar that count as saturation, as in a build
POINTS = 60
GROUPS = 10  # of documents, left out in turn
LEVEL = 0.95


def calibrated(domains: dict[str, Streamed], percentiles: list[float], seed: int = 0) -> Calibration:
    """Centre and thresholds on as many activations of each domain as the smallest has, up to a batch, well mixed."""
    each = min(BATCH, *map(len, domains.values()))
    sample_nd = torch.cat([streamed.x_nd[:each].float() for streamed in domains.values()])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(sample_nd)))
    size = min(BATCH, len(sample_nd))
    batches = sample_nd[order][: len(sample_nd) // size * size].split(size)
    return calibrate(batches, percentiles)


def clustered(x_nd: Tensor, center_d: Float32[Tensor, " d"], threshold: float) -> LeaderClustering:
    """One pass over a stream."""
    clustering = LeaderClustering(center_d, threshold)
    for part in x_nd.split(WINDOW):
        clustering.add(part.float())
    return clustering


def curve(births_k: Int64[np.ndarray, " k"], n: int) -> list[tuple[int, int]]:
    """(activations, regions) at points evenly spaced on a logarithmic scale."""
    at_c = np.unique(np.geomspace(min(100, n), n, POINTS).round().astype(int))
    return [(int(at), int(np.searchsorted(births_k, at))) for at in at_c]


def saturated_at(births_k: Int64[np.ndarray, " k"], n: int) -> int | None:
    """Where a build would have stopped: after the first WINDOW activations without a new exemplar; None: nowhere."""
    quiet = np.flatnonzero(np.diff(np.append(births_k, n)) > WINDOW)
    return int(births_k[quiet[0]]) + 1 + WINDOW if len(quiet) else None


def growth(births_k: Int64[np.ndarray, " k"], n: int) -> float:
    """The exponent a of K ~ N^a from a tenth of the stream to its end, by least squares on logarithms."""
    at_c = np.geomspace(n / 10, n, POINTS)
    k_c = np.searchsorted(births_k, at_c)
    return float(np.polyfit(np.log(at_c), np.log(np.maximum(k_c, 1)), 1)[0])


def growth_interval(
    streamed: Streamed, center_d: Float32[Tensor, " d"], threshold: float, exponent: float
) -> tuple[float, float]:
    """Of the exponent, by the jackknife over groups of documents."""
    intervals = []
    for group in range(GROUPS):
        rows = torch.from_numpy(np.flatnonzero(streamed.document_n % GROUPS != group))
        births_k = clustered(streamed.x_nd[rows], center_d, threshold).births
        intervals.append(growth(births_k, len(rows)))
    error = np.sqrt((GROUPS - 1) / GROUPS * np.square(np.array(intervals) - np.mean(intervals)).sum())
    half = float(student.ppf((1 + LEVEL) / 2, GROUPS - 1) * error)
    return exponent - half, exponent + half


def one(streamed: Streamed, center_d: Float32[Tensor, " d"], threshold: float) -> dict[str, Any]:
    """What a domain's stream does at one threshold."""
    n = len(streamed)
    clustering = clustered(streamed.x_nd, center_d, threshold)
    exponent = growth(clustering.births, n)
    low, high = growth_interval(streamed, center_d, threshold, exponent)
    unseen = missing_mass(clustering.sole_counts, n - clustering.skipped)
    return {
        "activations": n,
        "documents": len(np.unique(streamed.document_n)),
        "k": clustering.k,
        "curve": curve(clustering.births, n),
        "exponent": round(exponent, 4),
        "exponent_low": round(low, 4),
        "exponent_high": round(high, 4),
        "unseen": {name: float(f"{getattr(unseen, name):.3g}") for name in ("estimate", "low", "high")},
        "new_in_last_tenth": int((clustering.births >= 0.9 * n).sum()),
        "saturated_at": saturated_at(clustering.births, n),
    }


def run(domains: dict[str, Streamed], percentiles: list[float], seed: int = 0) -> dict[str, Any]:
    """All domains at all percentiles. Raises EPError unless there are two or more domains of one model and site."""
    if len(domains) < 2:
        raise EPError(f"{len(domains)} domain was given; expected two or more, as name=FILE")
    calibrations = calibrated(domains, percentiles, seed)
    return {
        "calibration": {"activations": calibrations.n_activations, "batch": calibrations.batch},
        "domains": {name: streamed.record["text"] for name, streamed in domains.items()},
        "results": [
            {"percentile": p, "threshold": calibrations.thresholds[p], "domain": name}
            | one(streamed, calibrations.center, calibrations.thresholds[p])
            for p in percentiles
            for name, streamed in domains.items()
        ],
    }
