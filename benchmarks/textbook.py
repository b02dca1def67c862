"""The paper's procedure, written down plainly: what the engine is timed against.

Own words, from the description of the method alone. Written as a competent researcher would with
numpy, scipy and transformers: whole matrices rather than loops over rows where the method allows it, no
copies for their own sake, and no effort spent on memory or on blocking.

Left out, to the textbook's advantage: the reservoir of sample members and the heaps of nearest and farthest
prompts, which the paper's procedure also keeps for every region.

Shapes: n activations of a batch, k regions, u unmatched rows of a batch, d = d_model, w windows,
s positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from scipy.spatial.distance import pdist

_TINY = 1e-12


def directions(x_nd: Float32[np.ndarray, "n d"], center_d: Float32[np.ndarray, " d"]) -> Float32[np.ndarray, "n d"]:
    """Centred unit directions."""
    y_nd = x_nd - center_d
    return y_nd / (np.linalg.norm(y_nd, axis=1, keepdims=True) + _TINY)


# ---- extraction --------------------------------------------------------------------------------


@torch.no_grad()
def extract(
    model: Any, windows: Int64[np.ndarray, "w s"], layer: int, batch_size: int = 16
) -> Float32[np.ndarray, "n d"]:
    """Activations after block `layer`, BOS dropped: a full forward pass with all hidden states and logits."""
    found = []
    for start in range(0, len(windows), batch_size):
        ids_ws = torch.from_numpy(windows[start : start + batch_size])
        output = model(input_ids=ids_ws, attention_mask=torch.ones_like(ids_ws), output_hidden_states=True)
        hidden_wsd = output.hidden_states[layer + 1]
        found.append(hidden_wsd[:, 1:].flatten(0, 1).float().numpy())
    return np.concatenate(found)


# ---- calibration -------------------------------------------------------------------------------


def center(batches: Sequence[Float32[np.ndarray, "n d"]]) -> Float32[np.ndarray, " d"]:
    """Spherical mean direction times the mean projection on it."""
    n = sum(len(x_nd) for x_nd in batches)
    sum_x = sum(x_nd.sum(axis=0, dtype=np.float64) for x_nd in batches)
    sum_u = sum(
        (x_nd / (np.linalg.norm(x_nd, axis=1, keepdims=True) + _TINY)).sum(axis=0, dtype=np.float64) for x_nd in batches
    )
    mean_u = np.asarray(sum_u) / n
    g_d = mean_u / (np.linalg.norm(mean_u) + _TINY)
    return (np.dot(np.asarray(sum_x) / n, g_d) * g_d).astype(np.float32)


def batch_percentile(x_nd: Float32[np.ndarray, "n d"], center_d: Float32[np.ndarray, " d"], percentile: float) -> float:
    """Percentile of the cosine distances of all pairs of one batch."""
    return float(np.percentile(pdist(directions(x_nd, center_d), "cosine"), percentile))


def calibrate(
    batches: Sequence[Float32[np.ndarray, "n d"]], percentile: float
) -> tuple[Float32[np.ndarray, " d"], float]:
    """Centre, and the mean over batches of the within-batch percentile."""
    center_d = center(batches)
    return center_d, float(np.mean([batch_percentile(x_nd, center_d, percentile) for x_nd in batches]))


# ---- leader clustering -------------------------------------------------------------------------


@dataclass
class Region:
    """One exemplar and the running statistics of the members that have joined it."""

    exemplar: Float32[np.ndarray, " d"]
    count: int = 0
    mean_direction: Float32[np.ndarray, " d"] | None = None
    coherence: float = 0.0
    distance_sum: float = 0.0
    distance_square_sum: float = 0.0

    def join(self, u_md: Float32[np.ndarray, "m d"], distance_m: Float[np.ndarray, " m"]) -> None:
        """Members of one batch: count, spherical mean, coherence, distances."""
        total_d = u_md.sum(axis=0)
        if self.mean_direction is not None:
            total_d = total_d + self.coherence * self.count * self.mean_direction
        self.count += len(u_md)
        self.coherence = float(np.linalg.norm(total_d)) / self.count
        self.mean_direction = (total_d / self.count / (self.coherence + _TINY)).astype(np.float32)
        self.distance_sum += float(distance_m.sum())
        self.distance_square_sum += float((distance_m**2).sum())


@dataclass
class Clustering:
    """Leader clustering batch by batch: existing regions first, then leaders among the unmatched rows.

    births: row of the stream that became each exemplar.
    seconds_statistics: time spent in the per-region loops, so that it can be told apart.
    """

    center_d: Float32[np.ndarray, " d"]
    threshold: float
    regions: list[Region] = field(default_factory=list)
    births: list[int] = field(default_factory=list)
    position: int = 0
    seconds_statistics: float = 0.0
    _exemplars: np.ndarray | None = None

    @property
    def exemplars(self) -> Float32[np.ndarray, "k d"]:
        if self._exemplars is None:
            return np.zeros((0, len(self.center_d)), np.float32)
        return self._exemplars[: len(self.regions)]

    def restore(self, exemplars: Float32[np.ndarray, "k d"]) -> None:
        """Regions without members yet, at these exemplars."""
        for e_d in exemplars:
            self._create(e_d, -1)

    def add_batch(self, x_nd: Float32[np.ndarray, "n d"]) -> Int64[np.ndarray, " n"]:
        """Add the rows of a batch, in order of arrival; returns the region each joined."""
        u_nd = directions(x_nd, self.center_d)
        ids_n = np.full(len(u_nd), -1, np.int64)
        distance_n = np.zeros(len(u_nd), np.float32)
        first = 0
        if not self.regions:
            ids_n[0] = self._create(u_nd[0], self.position)
            self.regions[0].join(u_nd[:1], distance_n[:1])
            first = 1
        # 1. existing regions first: the whole similarity matrix
        sim_nk = u_nd[first:] @ self.exemplars.T
        nearest_n = sim_nk.argmax(axis=1)
        away_n = np.clip(1 - sim_nk[np.arange(len(sim_nk)), nearest_n], 0, 2)
        del sim_nk
        matched_n = away_n <= self.threshold
        matched = first + np.flatnonzero(matched_n)
        ids_n[matched], distance_n[matched] = nearest_n[matched_n], away_n[matched_n]
        # 2. the rest among themselves, each following the nearest leader of this batch
        unmatched = first + np.flatnonzero(~matched_n)
        follows_u, follow_distance_u = self._leaders(u_nd[unmatched])
        # 3. statistics, region by region
        started = perf_counter()
        joined = ids_n[matched]
        for k in np.unique(joined):
            members = matched[joined == k]
            self.regions[k].join(u_nd[members], distance_n[members])
        for leader in np.unique(follows_u):
            k = self._create(u_nd[unmatched[leader]], self.position + int(unmatched[leader]))
            at = np.flatnonzero(follows_u == leader)
            ids_n[unmatched[at]], distance_n[unmatched[at]] = k, follow_distance_u[at]
            self.regions[k].join(u_nd[unmatched[at]], follow_distance_u[at])
        self.seconds_statistics += perf_counter() - started
        self.position += len(x_nd)
        return ids_n

    def _leaders(self, u_ud: Float32[np.ndarray, "u d"]) -> tuple[Int64[np.ndarray, " u"], Float32[np.ndarray, " u"]]:
        """For each row, the row that leads it (itself, if it founds a region), and its distance to it."""
        sim_uu = u_ud @ u_ud.T
        follows_u, distance_u = np.arange(len(u_ud)), np.zeros(len(u_ud), np.float32)
        leaders, count = np.empty(len(u_ud), np.int64), 0
        for row in range(len(u_ud)):
            if count:
                sim_l = sim_uu[row, leaders[:count]]
                best = int(sim_l.argmax())
                if sim_l[best] >= 1 - self.threshold:
                    follows_u[row], distance_u[row] = leaders[best], max(0.0, 1 - sim_l[best])
                    continue
            leaders[count] = row
            count += 1
        return follows_u, distance_u

    def _create(self, e_d: Float32[np.ndarray, " d"], birth: int) -> int:
        k = len(self.regions)
        if self._exemplars is None:
            self._exemplars = np.empty((16, len(e_d)), np.float32)
        if k == len(self._exemplars):
            grown = np.empty((2 * k, len(e_d)), np.float32)
            grown[:k] = self._exemplars
            self._exemplars = grown
        self._exemplars[k] = e_d
        self.regions.append(Region(self._exemplars[k].copy()))
        self.births.append(birth)
        return k
