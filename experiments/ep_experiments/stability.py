"""Would the same regions come back? Dictionaries of other orders, halves or precisions of one text, side by side.

Two dictionaries agree about a region if the other has one with the same members (F1 on activations neither was
built from), or one that points the same way (exemplar, or mean of its members). Each is told beside what equally
many random activations in place of the exemplars reach.

Exemplars are the first to come, so another order makes other ones. `reanchored` moves every anchor to an activation
that does not depend on who came first: the medoid of its region. It keeps the laws: anchors are observed
activations, farther than theta from one another, and every activation lies within theta of one.

Shapes: n activations, k regions, d = d_model, p ordered pairs of dictionaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score

from exemplar_partitioning.compare.overlap import best_f1, contingency
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.geometry import directions
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.nearest import ROWS, nearest

SAME = 0.5  # F1 above which two regions count as the same: no third region can share as much with either


@dataclass(frozen=True, eq=False)
class Regions:
    """A dictionary's regions as its own text and a held-out text show them.

    members_k, coherence_k, distance_k, mean_kd: on the text it was built from.  ids_n: regions of held-out activations.
    """

    exemplars_kd: Float32[np.ndarray, "k d"]
    mean_kd: Float32[np.ndarray, "k d"]
    members_k: Int64[np.ndarray, " k"]
    coherence_k: Float64[np.ndarray, " k"]
    distance_k: Float64[np.ndarray, " k"]
    ids_n: Int64[np.ndarray, " n"]

    @classmethod
    def of(cls, dictionary: Dictionary, built_nd: np.ndarray, held_out_nd: np.ndarray) -> Regions:
        """Measured on activations of either text."""
        sums = dictionary.members(built_nd)
        return cls(
            dictionary.exemplars.numpy(),
            sums.mean_directions,
            sums.members,
            sums.coherence,
            sums.mean_distance,
            dictionary.assign(held_out_nd)[0],
        )


@dataclass(frozen=True, eq=False)
class Reappearance:
    """How well each region of one dictionary comes back in another.

    f1_k: best F1 of members on held-out activations; NaN for a region that none of them lies in.
    exemplar_k, mean_k: cosine of its exemplar, or mean, with the nearest one.  rand: adjusted Rand index of the two.
    """

    f1_k: Float64[np.ndarray, " k"]
    exemplar_k: Float64[np.ndarray, " k"]
    mean_k: Float64[np.ndarray, " k"]
    rand: float


def reappearance(first: Regions, second: Regions) -> Reappearance:
    """Regions of the first in the second."""
    shared = contingency(first.ids_n, second.ids_n, len(first.members_k), len(second.members_k))
    best_k, f1_k = best_f1(shared)
    return Reappearance(
        np.where(best_k >= 0, f1_k, np.nan),
        nearest(first.exemplars_kd, second.exemplars_kd)[1],
        np.nan_to_num(nearest(first.mean_kd, second.mean_kd)[1]),  # 0 without members
        float(adjusted_rand_score(first.ids_n, second.ids_n)),
    )


def summarise(dictionaries: Sequence[Regions]) -> dict[str, float]:
    """Means over all ordered pairs of dictionaries of what `reappearance` tells.

    regions: mean number.  same: share of the regions with held-out members that come back with F1 above 1/2.
    same_members: share of the held-out activations that lie in those.
    """
    pairs = [(a, reappearance(a, b)) for a, b in permutations(dictionaries, 2)]
    values = []
    for a, again in pairs:
        same_k = again.f1_k > SAME
        values.append(
            {
                "regions": float(len(a.members_k)),
                "f1": float(np.nanmean(again.f1_k)),
                "same": float(same_k[~np.isnan(again.f1_k)].mean()),
                "same_members": float(same_k[a.ids_n].mean()),
                "rand": again.rand,
                "exemplar_median": float(np.median(again.exemplar_k)),
                "mean_median": float(np.median(again.mean_k)),
            }
        )
    return {name: float(np.mean([value[name] for value in values])) for name in values[0]}


def predictors(regions: Regions) -> dict[str, Float64[np.ndarray, " k"]]:
    """What may report whether a region comes back: N members, C coherence, and combinations."""
    n, c = np.maximum(regions.members_k, 1).astype(np.float64), np.nan_to_num(regions.coherence_k)
    c = np.maximum(c, 1e-6)
    return {
        "log10 N": np.log10(n),
        "C": c,
        "cos(exemplar, mean)": np.einsum("kd,kd->k", regions.exemplars_kd, regions.mean_kd).astype(np.float64),
        "mean distance": np.nan_to_num(regions.distance_k),
        "first come": -np.arange(len(n), dtype=np.float64),
        "log10(N C)": np.log10(n * c),
        "log10(N C^2)": np.log10(n * c**2),
        "log10(N / (1 - C))": np.log10(n / (1 - c + 0.01)),
    }


def predict(dictionaries: Sequence[Regions], of: str = "f1_k") -> dict[str, tuple[float, float]]:
    """Spearman correlation of each predictor with reappearance, and its partial one given N; means over ordered pairs.

    of: the field of `Reappearance` to predict. Every region counts once a pair; those without a value are left out.
    """
    correlations: dict[str, list[tuple[float, float]]] = {}
    for a, b in permutations(dictionaries, 2):
        outcome_k = getattr(reappearance(a, b), of)
        known = np.isfinite(outcome_k)
        given = predictors(a)
        size = rankdata(given["log10 N"][known])
        for name, values in given.items():
            x, y = rankdata(values[known]), rankdata(outcome_k[known])
            correlations.setdefault(name, []).append((_correlation(x, y), _partial(x, y, size)))
    return {
        name: (float(np.mean([a for a, _ in v])), float(np.mean([b for _, b in v]))) for name, v in correlations.items()
    }


def reanchored(dictionary: Dictionary, x_nd: Float32[np.ndarray, "n d"], rounds: int = 1) -> Dictionary:
    """The dictionary with its anchors moved to medoids of their regions, largest regions first.

    In each round a region's medoid, the member nearest to the mean direction of all, takes the exemplar's place. Then
    the leader rule goes over the medoids, from the region with most members down, and over all activations again:
    a medoid within theta of a larger region's gives way, an activation beyond theta of all becomes an anchor.

    x_nd: the activations that the dictionary was built from, in their order.
    """
    for _ in range(rounds):
        rows, members = medoids(dictionary, x_nd)
        order = rows[np.argsort(-members, kind="stable")]
        dictionary = _led(dictionary, [x_nd[order], x_nd])
    return dictionary


def consensus(dictionaries: Sequence[Dictionary], x_nd: Float32[np.ndarray, "n d"]) -> Dictionary:
    """One dictionary of several, of one centre and threshold, by the leader rule over the medoids of all of them.

    The medoid that covers most activations comes first; then all activations, so that the result is a net.
    """
    rows = np.unique(np.concatenate([medoids(dictionary, x_nd)[0] for dictionary in dictionaries]))
    first = dictionaries[0]
    u_md = directions(torch.from_numpy(x_nd[rows]), first.center).u_nd
    covered = torch.zeros(len(rows), dtype=torch.int64)
    for start in range(0, len(x_nd), ROWS):
        block = directions(torch.from_numpy(x_nd[start : start + ROWS]), first.center)
        covered += (u_md @ block.u_nd.T >= 1 - first.threshold).sum(dim=1)
    order = rows[np.argsort(-covered.numpy(), kind="stable")]
    return _led(first, [x_nd[order], x_nd])


def medoids(
    dictionary: Dictionary, x_nd: Float32[np.ndarray, "n d"]
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """For each region with members, the row nearest to their mean direction (first on a tie), and their number."""
    sums = dictionary.members(x_nd)
    mean_kd = torch.from_numpy(sums.mean_directions)
    ids_n = dictionary.assign(x_nd)[0]
    cosine_n = np.full(len(x_nd), -np.inf)
    for start in range(0, len(x_nd), ROWS):
        block = directions(torch.from_numpy(x_nd[start : start + ROWS]), dictionary.center)
        rows_n = start + block.rows_n.numpy()
        cosine_n[rows_n] = torch.linalg.vecdot(block.u_nd, mean_kd[torch.from_numpy(ids_n[rows_n])]).numpy()
    placed = np.flatnonzero(ids_n >= 0)
    order = placed[np.lexsort((placed, -cosine_n[placed], ids_n[placed]))]
    regions, first = np.unique(ids_n[order], return_index=True)
    return order[first], sums.members[regions]


def _led(like: Dictionary, parts: list[Float[np.ndarray, "n d"]]) -> Dictionary:
    """The leader rule over some activations, with a dictionary's centre and threshold."""
    clustering = LeaderClustering(like.center, like.threshold)
    for part in parts:
        clustering.add(torch.from_numpy(part))
    return Dictionary(like.center, clustering.exemplars.clone(), like.threshold)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else 0.0


def _partial(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Correlation of what a straight line in `given` leaves of x and y; 0 where it leaves nothing."""
    z = given - given.mean()
    left = []
    for values in (x, y):
        centred = values - values.mean()
        left.append(centred - z * float(centred @ z) / max(float(z @ z), 1e-30))
    tiny = 1e-9 * len(x) ** 3
    return 0.0 if any(float(v @ v) < tiny for v in left) else _correlation(left[0], left[1])
