"""How unlike ordinary text an activation is, from a dictionary alone.

Shapes: n activations, k regions, d = d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..errors import check_choice
from ..folder.dictionary import StoredDictionary

Score = Literal["surprise", "distance", "beyond", "margin"]
SCORES: tuple[Score, ...] = get_args(Score)

SHARPNESS = 25.0  # of the surprise: what a unit of cosine distance costs, in nats


@dataclass(frozen=True)
class Novelty:
    """What a dictionary says of activations; the larger, the less they are like those it was built from.

    Attributes:
        surprise: -log sum_k sqrt(share_k) exp(-SHARPNESS (1 - cosine with m_k)), in nats: far from where regions have
            their members, or near to those of rare ones only. m_k is the mean member direction of region k, share_k its
            part of all members, both of the annotation. The square root is half way between regions that count alike
            and activations that do.
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
    check_choice("score", name, SCORES)
    return cast(Score, name)


def token_scores(dictionary: StoredDictionary, x_nd: Float[np.ndarray, "n d"] | Tensor) -> Novelty:
    """Scores of activations [n, d_model]; one product with the exemplars, one with the mean members.

    Raises EPError if the dictionary is not annotated.
    """
    evidence, device = dictionary.annotation, dictionary.device
    members_k = torch.from_numpy(evidence.regions["members"].to_numpy().astype(np.float32))
    members_k, mean_kd = members_k.to(device), torch.from_numpy(evidence.mean_directions).to(device)
    e_kd = dictionary.exemplars.to(device)
    scores_sn = torch.empty((len(SCORES), len(x_nd)), dtype=torch.float64)
    scores_sn[:] = torch.tensor([2 * SHARPNESS, 2, 1, 0])[:, None]
    for rows, block in dictionary.blocks(x_nd):
        top_n2 = (block.u_nd @ e_kd.T).topk(min(2, dictionary.k), dim=1).values
        distance, margin = 1 - top_n2[:, 0].double(), top_n2[:, -1] - top_n2[:, 0]
        scores = torch.stack(
            [surprise(block.u_nd, mean_kd, members_k), distance, distance > dictionary.threshold, margin]
        )
        scores_sn[:, rows.start + block.rows_n.cpu()] = scores.double().cpu()
    return Novelty(*scores_sn.numpy())


def surprise(
    u_nd: Float[Tensor, "n d"], mean_kd: Float[Tensor, "k d"], members_k: Float[Tensor, " k"]
) -> Float[Tensor, " n"]:
    """Surprise of unit directions, from mean members of regions and how many they have; see `Novelty`."""
    log_weight_k = (members_k / members_k.sum()).log() / 2
    return -torch.logsumexp(log_weight_k + SHARPNESS * (u_nd @ mean_kd.T - 1), dim=1)
