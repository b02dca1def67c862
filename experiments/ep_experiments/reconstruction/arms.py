"""Sets of unit directions around a centre: those of a dictionary, and what they must be compared with.

All work where the activations are. Shapes: n activations, k directions, d = d_model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import normalize

from exemplar_partitioning.core.atoms import Atoms, Rule
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.precision import full_precision
from exemplar_partitioning.core.pursuit import pursue

from ..nulls import random_exemplars

Directions = Float32[Tensor, "k d"]
_ROWS = 8192


def exemplars(x_nd: Tensor, center_d: Tensor, threshold: float) -> Directions:
    """The leader rule on a stream."""
    clustering = LeaderClustering(center_d, threshold, device=x_nd.device)
    clustering.add(x_nd)
    return clustering.exemplars


@full_precision()
def nearest(directions_kd: Directions, u_nd: Tensor) -> Int64[Tensor, " n"]:
    """The direction nearest to each row."""
    return torch.cat([(part @ directions_kd.T).argmax(dim=1) for part in u_nd.split(_ROWS)])


def lloyd(directions_kd: Directions, u_nd: Tensor, passes: int) -> Directions:
    """Passes of spherical k-means; a direction that loses all its rows stays where it is."""
    directions_kd = directions_kd.clone()
    for _ in range(passes):
        sum_kd = torch.zeros_like(directions_kd).index_add_(0, nearest(directions_kd, u_nd), u_nd)
        kept_k = sum_kd.norm(dim=1) > 0
        directions_kd[kept_k] = normalize(sum_kd[kept_k], dim=1)
    return directions_kd


def means(directions_kd: Directions, x_nd: Tensor, center_d: Tensor) -> Directions:
    """Mean directions of the members of each region; an exemplar stays where it has none."""
    return lloyd(directions_kd, normalize(x_nd - center_d, dim=1), 1)


def random_activations(x_nd: Tensor, center_d: Tensor, k: int, seed: int) -> Directions:
    """Rows drawn at random, as directions."""
    return normalize(random_exemplars(x_nd, k, seed) - center_d, dim=1)


def spherical_kmeans(x_nd: Tensor, center_d: Tensor, k: int, seed: int, *, passes: int = 10) -> Directions:
    """Lloyd's passes from random rows."""
    u_nd = normalize(x_nd - center_d, dim=1)
    return lloyd(random_activations(x_nd, center_d, k, seed), u_nd, passes)


@full_precision()
def left_over(
    directions_kd: Directions, u_nd: Tensor, steps: int, gram_kk: Tensor | None = None
) -> Float32[Tensor, "n d"]:
    """What non-negative matching pursuit leaves of directions, in float32; gram_kk: their inner products, if known."""
    gram_kk = directions_kd @ directions_kd.T if gram_kk is None else gram_kk
    parts = []
    for part in u_nd.split(_ROWS):
        left_nk, weights_nk = part @ directions_kd.T, torch.zeros(len(part), len(directions_kd), device=part.device)
        for _ in range(steps):
            weight_n, pick_n = left_nk.max(dim=1)
            weight_n = weight_n.clamp_(min=0)
            left_nk.addcmul_(weight_n[:, None], gram_kk[pick_n], value=-1)
            weights_nk.scatter_add_(1, pick_n[:, None], weight_n[:, None])
        parts.append(torch.addmm(part, weights_nk, directions_kd, alpha=-1))
    return torch.cat(parts)


def grown(u_nd: Tensor, tau: float, steps: int, most: int, *, residual: bool = False, rows: int = 64) -> Directions:
    """Inference-time decomposition of activations: rows join of which those before leave more than a share tau.

    Rows of a batch are decided together, over the directions from before it. It ends when there are `most`.
    residual: what is left joins, rather than the row.
    """
    room, k = most + rows + steps, steps
    directions_kd, gram_kk = u_nd.new_zeros(room, u_nd.shape[1]), u_nd.new_zeros(room, room)
    directions_kd[:k] = u_nd[:k]
    gram_kk[:k, :k] = u_nd[:k] @ u_nd[:k].T
    for part in u_nd[steps:].split(rows):
        left_nd = left_over(directions_kd[:k], part, steps, gram_kk[:k, :k])
        joins_n = left_nd.norm(dim=1) > tau
        new_md = normalize((left_nd if residual else part)[joins_n], dim=1)
        m = k + len(new_md)
        directions_kd[k:m] = new_md
        gram_kk[k:m, :m] = new_md @ directions_kd[:m].T
        gram_kk[:k, k:m] = gram_kk[k:m, :k].T
        k = m
        if k >= most:
            break
    return directions_kd[:k].clone()


def of_size(make: Callable[[float], Directions], k: int, times: int, high: float = 1.0) -> tuple[Directions, float]:
    """The directions for the threshold, found by bisection, whose number is nearest to k. Fewer the higher it is."""
    low, best = 0.0, None
    for _ in range(times):
        tau = (low + high) / 2
        made_kd = make(tau)
        if best is None or abs(len(made_kd) - k) < abs(len(best[0]) - k):
            best = made_kd, tau
        low, high = (tau, high) if len(made_kd) > k else (low, tau)
    assert best is not None
    return best


def second_dictionary(first_kd: Directions, u_nd: Tensor, k: int, steps: int, times: int = 8) -> Directions:
    """Directions, and the leader rule's exemplars of what pursuit over them leaves: k in all, about."""
    left_nd = left_over(first_kd, u_nd, steps)
    origin_d = torch.zeros(u_nd.shape[1], device=u_nd.device)
    rest_kd, _ = of_size(lambda theta: exemplars(left_nd, origin_d, theta), k - len(first_kd), times)
    return torch.cat([first_kd, rest_kd[: k - len(first_kd)]])


def least_squares(directions_kd: Directions, u_nd: Tensor, steps: int, times: int) -> Directions:
    """The method of optimal directions: codes by pursuit, then the directions that suit these codes best."""
    d = u_nd.shape[1]
    for _ in range(times):
        k = len(directions_kd)
        atoms = Atoms(directions_kd)
        gram_kk = torch.zeros(k, k, dtype=torch.float64, device=u_nd.device)
        with_kd = torch.zeros(k, d, dtype=torch.float64, device=u_nd.device)
        for part in u_nd.split(2 * _ROWS):
            codes = pursue(atoms, part, Rule(steps))
            dense_nk = torch.zeros(len(part), k + 1, dtype=torch.float64, device=u_nd.device)
            dense_nk.scatter_(1, torch.where(codes.picks_nk < 0, k, codes.picks_nk), codes.weights_nk)
            gram_kk += dense_nk[:, :k].T @ dense_nk[:, :k]
            with_kd += dense_nk[:, :k].T @ part.double()
        used_k = gram_kk.diagonal() > 0
        gram_kk.diagonal().add_(1e-6 * gram_kk.diagonal().mean() + (~used_k).double())
        solved_kd = normalize(torch.linalg.solve(gram_kk, with_kd), dim=1).float()
        directions_kd = torch.where(used_k[:, None], solved_kd, directions_kd)
    return directions_kd
