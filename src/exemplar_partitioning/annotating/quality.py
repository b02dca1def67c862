"""Intrinsic metrics of a dictionary, beside those of what holds no structure.

Cohesion below theta, separation above 1 and silhouette above 0 follow from the leader rule for any
input, noise included. So each metric stands beside the same metric of random exemplars, and of a
leader clustering of Gaussian noise.

Shapes: n activations, k regions, d = d_model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..core.dictionary import Dictionary
from ..core.geometry import directions
from ..core.leader import LeaderClustering
from ..core.nearest import ROWS
from ..core.precision import full_precision
from ..folder.annotation import Metrics, Quality
from .freed_memory import return_freed

EVALUATED = 8192  # activations the metrics are taken on
_NEAREST_ROWS = 256  # exemplars compared with all others at once
_NOISE_LIMIT = 8  # times as many rows of noise as regions, at most, to grow as many regions from


def quality(
    dictionary: Dictionary, evaluated_nd: Float[Tensor, "n d"], drawn_nd: Float[Tensor, "m d"], seed: int = 0
) -> Quality:
    """Metrics of a dictionary and of its two nulls; of `drawn_nd`, in random order, the first k are exemplars."""
    center, theta = dictionary.center, dictionary.threshold
    return_freed()
    measured = metrics(dictionary, evaluated_nd)
    return_freed()
    random = metrics(Dictionary(center, directions(drawn_nd[: dictionary.k], center).u_nd, theta), evaluated_nd)
    return_freed()
    noise = _Noise([evaluated_nd, drawn_nd], seed)
    grown = _grown(noise, center, theta, dictionary.k)
    return_freed()
    gaussian = metrics(grown, noise.draw(len(evaluated_nd)))
    return Quality(n_activations=len(evaluated_nd), dictionary=measured, random_exemplars=random, gaussian=gaussian)


def _grown(noise: _Noise, center: Float[Tensor, " d"], theta: float, k: int) -> Dictionary:
    """A leader clustering of noise, of k regions if they come soon enough."""
    grown = LeaderClustering(center, theta)
    for _ in range(0, _NOISE_LIMIT * k + ROWS, ROWS):
        grown.add(noise.draw(ROWS))
        if grown.k >= k:
            break
    return Dictionary(center, grown.exemplars[:k].clone(), theta)  # what else the clustering holds may go


class _Noise:
    """Gaussian rows with the mean and covariance of some activations."""

    def __init__(self, parts: Sequence[Float[Tensor, "n d"]], seed: int):
        rows = [block for part in parts for block in part.split(ROWS)]
        n = sum(map(len, rows))
        self.mean_d = torch.stack([block.double().sum(dim=0) for block in rows]).sum(dim=0) / n
        covariance_dd = torch.zeros(len(self.mean_d), len(self.mean_d), dtype=torch.float64)
        for block in rows:
            away_nd = block.double() - self.mean_d
            covariance_dd += away_nd.T @ away_nd / max(n - 1, 1)
        values_d, vectors_dd = torch.linalg.eigh(covariance_dd)
        self.root_dd = vectors_dd * values_d.clamp(min=0).sqrt()
        # NumPy promises that this generator's stream stays as it is; of the newer ones it does not
        self.random = np.random.RandomState(seed)

    def draw(self, n: int) -> Float[Tensor, "n d"]:
        drawn_nd = torch.empty(n, len(self.mean_d))
        for block in drawn_nd.split(ROWS):
            z_nd = torch.from_numpy(self.random.standard_normal(block.shape))
            block.copy_(self.mean_d + z_nd @ self.root_dd.T)
        return drawn_nd


def metrics(dictionary: Dictionary, x_nd: Float[Tensor, "n d"]) -> Metrics:
    """Intrinsic metrics of a dictionary on some activations; NaN-free, rounded to six digits."""
    ids_n, distance_n = (a.numpy() for a in dictionary.assign(x_nd))
    placed_n = ids_n >= 0
    ids_n, distance_n = ids_n[placed_n], distance_n[placed_n]
    size_k = np.bincount(ids_n, minlength=dictionary.k)
    sum_k = np.bincount(ids_n, distance_n, minlength=dictionary.k)
    inter_k, largest = nearest_other(dictionary.exemplars)
    with_members = np.flatnonzero(size_k)
    a, b = sum_k[with_members] / size_k[with_members], inter_k[with_members]
    gini, effective = inequality(size_k)
    values = {
        "coverage": float((distance_n <= dictionary.threshold).mean()) if len(distance_n) else 0.0,
        "cohesion": float(distance_n.mean()) if len(distance_n) else 0.0,
        "nearest_inter": float(inter_k.mean()),
        "separation_ratio": float(inter_k.mean()) / dictionary.threshold,
        "silhouette": float(((b - a) / np.maximum(np.maximum(a, b), 1e-12)).mean()) if len(a) else 0.0,
        "max_similarity": largest,
        "gini": gini,
        "effective": effective,
        "utilisation": effective / dictionary.k,
    }
    return Metrics(k=dictionary.k, **{name: float(f"{value:.6g}") for name, value in values.items()})


@full_precision()
def nearest_other(e_kd: Float[Tensor, "k d"]) -> tuple[Float64[np.ndarray, " k"], float]:
    """Cosine distance of each exemplar to the nearest other one, and the largest cosine of any two.

    A single exemplar has no other: distance 2, cosine -1.
    """
    best_k = torch.full((len(e_kd),), -1.0)
    for start in range(0, len(e_kd), _NEAREST_ROWS):
        sim_nk = e_kd[start : start + _NEAREST_ROWS] @ e_kd[start:].T  # with those before, it is done
        sim_nk.fill_diagonal_(-1.0)
        here_n = best_k[start : start + _NEAREST_ROWS]
        torch.maximum(here_n, sim_nk.amax(dim=1), out=here_n)
        torch.maximum(best_k[start:], sim_nk.amax(dim=0), out=best_k[start:])
    return np.maximum(1.0 - best_k.double().numpy(), 0.0), float(best_k.max())


def inequality(size_k: Int64[np.ndarray, " k"]) -> tuple[float, float]:
    """Gini coefficient of the sizes, and exp of the entropy of the shares: regions in effective use."""
    total, k = size_k.sum(), len(size_k)
    if not total:
        return 0.0, 0.0
    ranked = np.sort(size_k)
    gini = 2 * float((np.arange(1, k + 1) * ranked).sum()) / (k * float(total)) - (k + 1) / k
    share = ranked[ranked > 0] / total
    return gini, float(np.exp(-(share * np.log(share)).sum()))
