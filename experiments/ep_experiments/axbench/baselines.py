"""What a partition is compared with: other sets of directions found without labels, and directions found with them.

All from the same activations. Shapes: n activations, k directions, d = d_model, c concepts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from exemplar_partitioning.core.calibration import BATCH, calibrate
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.geometry import directions
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.errors import EPError

from ..activations import TextActivations
from .readouts import Encode

CALIBRATED = 4 * BATCH  # activations
KMEANS_PASSES = 3  # over the sample
PENALTY = 1e-5  # C of scikit-learn, decided on training texts of one site
_ITERATIONS = 200


def partitions(x_nd: Tensor, percentiles: Sequence[float]) -> dict[float, Dictionary]:
    """A dictionary at each percentile of one stream of activations, calibrated on its first CALIBRATED."""
    batch = min(BATCH, len(x_nd))
    whole = min(len(x_nd) - len(x_nd) % batch, CALIBRATED)
    calibration = calibrate(x_nd[:whole].split(batch), percentiles)
    made = {}
    for percentile, threshold in calibration.thresholds.items():
        clustering = LeaderClustering(calibration.center, threshold)
        clustering.add(x_nd)
        made[percentile] = Dictionary(calibration.center, clustering.exemplars.clone(), threshold)
    return made


def mean_members(dictionary: Dictionary, x_nd: Tensor) -> Float32[np.ndarray, "k d"]:
    """Mean direction of the members of each region among some activations; the exemplar where it has none."""
    members = dictionary.members(x_nd)
    empty_k = members.members == 0
    means_kd = members.mean_directions.astype(np.float32)
    means_kd[empty_k] = dictionary.exemplars.numpy()[empty_k]
    return means_kd


def cosines(center_d: Tensor, directions_kd: np.ndarray | Tensor) -> Encode:
    """Cosine of each activation, around a centre, with each direction; 0 for one without a direction."""
    d_kd = torch.as_tensor(directions_kd, dtype=torch.float32)

    def encode(x_nd: Tensor) -> Tensor:
        block = directions(x_nd, center_d)
        cosine_nk = torch.zeros((len(x_nd), len(d_kd)))
        cosine_nk[block.rows_n] = block.u_nd @ d_kd.T
        return cosine_nk

    return encode


def linear(weights_dc: np.ndarray) -> Encode:
    """Products of activations with some directions, one column each."""
    w_dc = torch.as_tensor(weights_dc, dtype=torch.float32)
    return lambda x_nd: x_nd @ w_dc


def centred(x_nd: Tensor, center_d: Tensor) -> Tensor:
    """Unit directions of activations around a centre, those without one left out."""
    return directions(x_nd, center_d).u_nd


def spherical_kmeans(u_nd: Tensor, k: int, seed: int) -> Float32[np.ndarray, "k d"]:
    """Unit centroids of k-means among unit directions (scikit-learn's, in mini-batches)."""
    from sklearn.cluster import MiniBatchKMeans

    if len(u_nd) < k:
        raise EPError(f"{k:,} centroids cannot be had from {len(u_nd):,} activations; give more text")
    size = max(4096, k)
    model = MiniBatchKMeans(
        k,
        init="random",
        n_init=1,  # pyright: ignore[reportArgumentType]
        batch_size=size,
        max_iter=KMEANS_PASSES,
        max_no_improvement=None,  # pyright: ignore[reportArgumentType]
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        centroids_kd = model.fit(u_nd.numpy()).cluster_centers_
    return (centroids_kd / np.linalg.norm(centroids_kd, axis=1, keepdims=True)).astype(np.float32)


def principal(u_nd: Tensor) -> Float32[np.ndarray, "k d"]:
    """Principal axes of unit directions, each with its opposite: k = 2 d."""
    axes_da = np.linalg.eigh(np.cov(u_nd.numpy(), rowvar=False))[1][:, ::-1]
    return np.stack([axes_da.T, -axes_da.T], axis=1).reshape(-1, u_nd.shape[1]).astype(np.float32)


def standardised(x_nd: Tensor) -> Encode:
    """Every coordinate in standard deviations from its mean among some activations."""
    mean_d, scale_d = x_nd.mean(dim=0), x_nd.std(dim=0)
    scale_d[scale_d == 0] = 1
    return lambda y_nd: (y_nd - mean_d) / scale_d


def tokens_of(
    acts: TextActivations, positive: Int64[np.ndarray, " p"], negative: Int64[np.ndarray, " q"]
) -> tuple[np.ndarray, np.ndarray]:
    """Activations [n, d] of the tokens of texts with a concept and without, and which are of texts with it."""
    texts = np.concatenate([positive, negative])
    rows = np.concatenate([np.arange(int(acts.start_t[t]), int(acts.start_t[t + 1])) for t in texts])
    count = acts.start_t[positive + 1] - acts.start_t[positive]
    return acts.x_nd[rows], np.arange(len(rows)) < count.sum()


def difference_of_means(x_nd: np.ndarray, positive_n: Bool[np.ndarray, " n"]) -> np.ndarray:
    """Mean activation of the tokens with the concept minus that of those without (AxBench's DiffMean)."""
    direction_d = x_nd[positive_n].mean(axis=0, dtype=np.float64) - x_nd[~positive_n].mean(axis=0, dtype=np.float64)
    return direction_d / np.linalg.norm(direction_d)


def lat(x_nd: np.ndarray, positive_n: Bool[np.ndarray, " n"], seed: int) -> np.ndarray:
    """First principal axis of normalised differences of random pairs of positive tokens (AxBench's LAT).

    An axis has no sign; ours points to where positive tokens lie, which AxBench leaves to chance.
    """
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(positive_n))
    half = len(rows) // 2
    pairs_md = (x_nd[rows[:half]] - x_nd[rows[half : 2 * half]]).astype(np.float64)
    norm_m = np.linalg.norm(pairs_md, axis=1, keepdims=True)
    pairs_md = np.divide(pairs_md, norm_m, out=np.zeros_like(pairs_md), where=norm_m > 0)
    axis_d = np.linalg.eigh(np.cov(pairs_md, rowvar=False))[1][:, -1]
    return axis_d * (1 if difference_of_means(x_nd, positive_n) @ axis_d >= 0 else -1)


def logistic(x_nd: np.ndarray, positive_n: Bool[np.ndarray, " n"], penalty: float = PENALTY) -> np.ndarray:
    """Logistic regression on tokens, each labelled as its text is; the weights, in units of activations.

    penalty: C of scikit-learn, for standardised activations.
    """
    from sklearn.linear_model import LogisticRegression

    mean_d, scale_d = x_nd.mean(axis=0), x_nd.std(axis=0)
    scale_d[scale_d == 0] = 1
    model = LogisticRegression(C=penalty, max_iter=_ITERATIONS, class_weight="balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may not have converged
        model.fit((x_nd - mean_d) / scale_d, positive_n)
    return model.coef_[0] / scale_d
