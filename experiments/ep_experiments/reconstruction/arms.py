"""Sets of unit directions around a centre: those of a dictionary, and what they must be compared with.

Shapes: n activations, k directions, d = d_model.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import normalize

from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.leader import LeaderClustering

Directions = Float32[Tensor, "k d"]
_PASSES, _KMEANS_ROWS, _ROWS = 10, 16_384, 64


def exemplars(x_nd: Tensor, center_d: Tensor, threshold: float) -> Dictionary:
    """The leader rule on a stream."""
    clustering = LeaderClustering(center_d, threshold)
    clustering.add(x_nd)
    return Dictionary(center_d, clustering.exemplars, threshold)


def means(d: Dictionary, x_nd: Tensor) -> Directions:
    """Mean directions of the members of each region that has any."""
    statistics = d.members(x_nd)
    return torch.from_numpy(statistics.mean_directions[statistics.members > 0]).float()


def random_activations(x_nd: Tensor, center_d: Tensor, k: int, seed: int) -> Directions:
    """Rows drawn at random."""
    chosen = torch.randperm(len(x_nd), generator=torch.Generator().manual_seed(seed))[:k]
    return normalize(x_nd[chosen] - center_d, dim=1)


def gaussian(d_model: int, k: int, seed: int) -> Directions:
    """Directions that know nothing of the model."""
    return normalize(torch.randn(k, d_model, generator=torch.Generator().manual_seed(seed)), dim=1)


def spherical_kmeans(x_nd: Tensor, center_d: Tensor, k: int, seed: int) -> Directions:
    """Lloyd's passes on directions, from random rows; a centroid that loses all its rows stays where it is."""
    u_nd = random_activations(x_nd, center_d, _KMEANS_ROWS, seed)
    centroid_kd = u_nd[:k].clone()
    for _ in range(_PASSES):
        nearest_n = torch.cat([(part @ centroid_kd.T).argmax(dim=1) for part in u_nd.split(2048)])
        sum_kd = torch.zeros_like(centroid_kd).index_add_(0, nearest_n, u_nd)
        kept_k = sum_kd.norm(dim=1) > 0
        centroid_kd[kept_k] = normalize(sum_kd[kept_k], dim=1)
    return centroid_kd


def itda(x_nd: Tensor, center_d: Tensor, tau: float, steps: int, most: int) -> Directions:
    """Inference-time decomposition of activations: rows join of which those before leave too much.

    Rows of a batch of 64 are decided together, over the atoms from before it. It ends when there are `most`.
    """
    atoms_kd = normalize(x_nd[:steps] - center_d, dim=1)
    for part in x_nd[steps:].split(_ROWS):
        found = Dictionary(center_d, atoms_kd, 1.0).decompose(part, steps, method="mp")
        length = (part - center_d).norm(dim=1)
        joins = found.residual_norm > tau * length
        atoms_kd = torch.cat([atoms_kd, normalize(part[joins] - center_d, dim=1)])
        if len(atoms_kd) >= most:
            break
    return atoms_kd


def itda_of(x_nd: Tensor, center_d: Tensor, k: int, steps: int) -> tuple[Directions, float]:
    """With tau found by bisection for about k directions."""
    low, high = 0.0, 1.0
    best, best_tau = None, 0.0
    for _ in range(4):
        tau = (low + high) / 2
        atoms_kd = itda(x_nd, center_d, tau, steps, 2 * k)
        if best is None or abs(len(atoms_kd) - k) < abs(len(best) - k):
            best, best_tau = atoms_kd, tau
        low, high = (tau, high) if len(atoms_kd) > k else (low, tau)
    assert best is not None
    return best, best_tau
