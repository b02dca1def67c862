"""How unlike ordinary text an activation is, from a dictionary alone.

Shapes: n activations, k regions, d = d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..errors import EPError
from ..store import StoredDictionary

Score = Literal["surprise", "distance", "beyond", "margin"]
SCORES: tuple[Score, ...] = get_args(Score)

SHARPNESS = 20.0  # of the surprise: what a unit of cosine distance costs, in nats


@dataclass(frozen=True)
class Novelty:
    """What a dictionary says of activations; the larger, the less they are like those it was built from.

    surprise: -log sum_k share_k exp(-SHARPNESS distance_k), in nats: far from every region, or near to none but
        rare ones. share_k is the part of the build's activations that arrived at region k.
    distance: cosine distance to the nearest exemplar.
    beyond: 1 where that is more than theta (a new region, had the stream gone on), else 0.
    margin: cosine of the second nearest exemplar minus that of the nearest, at most 0; near 0 between regions.

    A row without a direction counts as opposite to every exemplar.
    """

    surprise: Float64[np.ndarray, " n"]
    distance: Float64[np.ndarray, " n"]
    beyond: Float64[np.ndarray, " n"]
    margin: Float64[np.ndarray, " n"]

    def by(self, score: Score) -> Float64[np.ndarray, " n"]:
        """One of the scores by its name."""
        return getattr(self, score)

    def __getitem__(self, rows: slice) -> Novelty:
        return Novelty(*(self.by(score)[rows] for score in SCORES))

    @classmethod
    def joined(cls, parts: Sequence[Novelty]) -> Novelty:
        """All rows of some parts, one after another."""
        return cls(*(np.concatenate([part.by(score) for part in parts]) for score in SCORES))


def check_score(name: str) -> Score:
    """The name, if it is that of a score; EPError otherwise."""
    if name not in SCORES:
        raise EPError(f"there is no score {name!r}; expected one of {', '.join(SCORES)}")
    return name


def shares(dictionary: StoredDictionary) -> Float64[np.ndarray, " k"]:
    """Part of the build's activations that arrived at each region; none is without a share, as all have exemplars."""
    arrivals_k = dictionary.regions["arrivals"].to_numpy().astype(np.float64)
    return np.maximum(arrivals_k, 1) / np.maximum(arrivals_k, 1).sum()


def token_scores(dictionary: StoredDictionary, x_nd: Float[np.ndarray, "n d"] | Tensor) -> Novelty:
    """Scores of activations [n, d_model]; one product with the exemplars."""
    log_share_k = torch.from_numpy(np.log(shares(dictionary))).float().to(dictionary.device)
    found = torch.empty((4, len(x_nd)), dtype=torch.float64)
    found[:, :] = torch.tensor([2.0 * SHARPNESS, 2.0, 1.0, 0.0])[:, None]
    for rows, block in dictionary.blocks(x_nd):
        sim_nk = block.u_nd @ dictionary.exemplars.to(dictionary.device).T
        top_n2 = sim_nk.topk(min(2, dictionary.k), dim=1).values
        distance = 1 - top_n2[:, 0].double()
        margin = top_n2[:, -1] - top_n2[:, 0]
        surprise = -torch.logsumexp(log_share_k + SHARPNESS * (sim_nk - 1), dim=1)
        at = rows.start + block.rows_n.cpu()
        found[:, at] = torch.stack([surprise, distance, distance > dictionary.threshold, margin]).double().cpu()
    return Novelty(*found.numpy())
