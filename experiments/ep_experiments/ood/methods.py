"""Detectors that a dictionary is measured against, each made from stored activations of ordinary text.

All score one activation at a time; larger is more novel. Shapes: n activations, m stored ones, d = d_model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

ROWS = 1024  # scored at once
TILE = 8192  # stored activations compared with at once
EXPLAINED = 0.95  # of the variance, by the components of the PCA


@dataclass(frozen=True)
class Method:
    """scores: [n, d] to [n], of one name or, at one cost, several.  bytes: what has to be kept to score, as float32."""

    names: tuple[str, ...]
    scores: Callable[[Float[np.ndarray, "n d"]], Float64[np.ndarray, "s n"]]
    bytes: int
    ours: bool = False


def mahalanobis(x_md: Float[np.ndarray, "m d"]) -> Method:
    """Distance to the mean under the covariance, shrunk as Ledoit and Wolf (2004) have it."""
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(x_md.astype(np.float64))
    whiten_dd = torch.from_numpy(np.linalg.cholesky(np.asarray(fitted.precision_))).float()
    mean_d = torch.from_numpy(np.asarray(fitted.location_)).float()

    def scores(x_nd: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "1 n"]:
        return ((torch.from_numpy(x_nd) - mean_d) @ whiten_dd).norm(dim=1).double().numpy()[None]

    return Method(("Mahalanobis",), scores, 4 * (whiten_dd.numel() + mean_d.numel()))


def pca_residual(x_md: Float[np.ndarray, "m d"]) -> Method:
    """What of the centred direction the components that explain 95 % of the variance leave out."""
    mean_d = torch.from_numpy(x_md.mean(axis=0))
    u_md = _unit(torch.from_numpy(x_md) - mean_d)
    variance, components_dd = torch.linalg.eigh((u_md.T @ u_md).double())
    explained = torch.cumsum(variance.flip(0), 0) / variance.sum()
    kept = int((explained < EXPLAINED).sum()) + 1
    top_dc = components_dd[:, -kept:].float()

    def scores(x_nd: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "1 n"]:
        u_nd = _unit(torch.from_numpy(x_nd) - mean_d)
        return (1 - (u_nd @ top_dc).square().sum(dim=1)).double().numpy()[None]

    return Method(("PCA residual",), scores, 4 * (top_dc.numel() + mean_d.numel()))


def norm(x_md: Float[np.ndarray, "m d"]) -> Method:
    """How far the length is from the median length, either way."""
    median = float(np.median(np.linalg.norm(x_md, axis=1)))

    def scores(x_nd: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "1 n"]:
        return np.abs(np.log(np.linalg.norm(x_nd.astype(np.float64), axis=1) / median))[None]

    return Method(("norm",), scores, 4)


def nearest(neighbours: dict[str, int], x_md: Float[np.ndarray, "m d"], center_d: Float[Tensor, " d"]) -> Method:
    """Cosine distance to the k-th nearest of stored activations, as directions around a centre (Sun et al. 2022).

    neighbours: k by the name of the score.
    """
    u_md = torch.empty(x_md.shape)
    for start in range(0, len(x_md), TILE):
        u_md[start : start + TILE] = _unit(torch.from_numpy(np.array(x_md[start : start + TILE])) - center_d)
    at = [k - 1 for k in neighbours.values()]

    def scores(x_nd: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "s n"]:
        u_nd = _unit(torch.from_numpy(x_nd) - center_d)
        near = [_largest(u_nd[i : i + ROWS], u_md, max(at) + 1)[:, at] for i in range(0, len(u_nd), ROWS)]
        return 1 - torch.cat(near).T.double().numpy()

    return Method(tuple(neighbours), scores, 4 * u_md.numel())


def _largest(u_nd: Tensor, u_md: Tensor, k: int) -> Float[Tensor, "n k"]:
    """Cosines of each row with the k nearest of the stored ones, falling."""
    best_nk = torch.full((len(u_nd), k), -2.0)
    for start in range(0, len(u_md), TILE):
        sim_nt = u_nd @ u_md[start : start + TILE].T
        best_nk = torch.cat([best_nk, sim_nt.topk(min(k, sim_nt.shape[1]), dim=1).values], dim=1).topk(k, dim=1).values
    return best_nk


def _unit(y_nd: Tensor) -> Tensor:
    return y_nd / y_nd.norm(dim=1, keepdim=True).clamp_min(1e-12)
