"""A dictionary: the Voronoi partition of the centred unit sphere that exemplars make.

Regions are arrays, not objects: region i is exemplar i. Everything here works on any vectors.

Shapes: n activations, k regions, d = d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import DataError, EPError
from .geometry import Array, Block, as_activations, check_threshold, directions, reference_similarity
from .search import ROWS, ExemplarMatrix, Prefilter, Search, full_precision
from .statistics import MemberStatistics

READOUTS = ("topk", "topk_norm", "signed", "cosine", "binary")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Frozen exemplars with their centre and threshold.

    Args:
        center: [d] float32, subtracted before anything else.
        exemplars: [k, d] float32 unit directions; row i anchors region i.
        threshold: cosine distance within which an activation counts as covered.
        device, prefilter: where and with which products nearest exemplars are searched; results do
            not depend on either (law L2).

    Methods take activations [n, d] as numpy array or tensor and answer in kind. A row that is not
    finite or equals the centre belongs nowhere: region -1 at distance infinity.
    """

    center: Tensor
    exemplars: Tensor
    threshold: float
    device: str = "cpu"
    prefilter: Prefilter | None = None

    def __post_init__(self) -> None:
        center, exemplars = torch.as_tensor(self.center).float(), torch.as_tensor(self.exemplars).float()
        if center.ndim != 1 or exemplars.ndim != 2 or exemplars.shape[1] != len(center):
            raise EPError(
                f"a dictionary has a centre [d] and exemplars [k, d]; got {list(center.shape)} "
                f"and {list(exemplars.shape)}"
            )
        if not (torch.isfinite(center).all() and torch.isfinite(exemplars).all()):
            raise DataError("centre and exemplars must be finite; got NaN or infinity")
        lengths = exemplars.norm(dim=1)
        if len(exemplars) and float((lengths - 1).abs().max()) > 1e-4:
            raise DataError(f"exemplars must be unit directions; lengths go up to {float(lengths.max()):.4g}")
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "exemplars", exemplars)
        object.__setattr__(self, "threshold", check_threshold(self.threshold))

    def __len__(self) -> int:
        return self.k

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, d_model={self.d_model}, threshold={self.threshold:.4f})"

    @property
    def k(self) -> int:
        """Number of regions."""
        return self.exemplars.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.exemplars.shape[1]

    def check_region(self, index: int) -> int:
        """The index, if a region has it; EPError otherwise."""
        if not 0 <= index < self.k:
            raise EPError(f"region {index} does not exist: regions are numbered 0 to {self.k - 1}")
        return index

    @cached_property
    def _search(self) -> Search:
        matrix = ExemplarMatrix(self.d_model, self.device, self.prefilter)
        matrix.append(self.exemplars.to(self.device))
        if matrix.e_kd.device == self.exemplars.device:  # once in memory is enough
            object.__setattr__(self, "exemplars", matrix.e_kd)
        return Search(matrix)

    def blocks(self, x: np.ndarray | Tensor) -> Iterator[tuple[slice, Block]]:
        """Activations as prepared blocks, each with the rows of x it was made from."""
        x_nd = as_activations(x, self.d_model)
        center = self.center.to(self.device)
        for start in range(0, len(x_nd), ROWS):
            rows = slice(start, min(start + ROWS, len(x_nd)))
            yield rows, directions(x_nd[rows].to(self.device), center)

    def assign_block(self, block: Block) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"]]:
        """Region and distance (float64, reference arithmetic) of every row of a prepared block."""
        if not self.k:
            return torch.full((len(block),), -1), torch.full((len(block),), torch.inf, dtype=torch.float64)
        with full_precision():
            ids_n, _ = self._search.decide(block, self._search.candidates(block))
        sim_n = reference_similarity(block.exact, self._search.matrix.e_kd[ids_n])
        return ids_n, (1 - sim_n).clamp(0, 2)

    def assign(self, x: Array) -> tuple[Array, Array]:
        """Region (int64 [n]) and distance to its exemplar (float64 [n], cosine distance) of each row.

        The nearest exemplar counts, lowest id on an exact tie, whether or not it lies within the
        threshold (law L4); compare the distance with `threshold` for coverage.
        """
        ids_n = torch.full((len(x),), -1, dtype=torch.int64)
        distance_n = torch.full((len(x),), torch.inf, dtype=torch.float64)
        for rows, block in self.blocks(x):
            ids, distance = self.assign_block(block)
            ids_n[rows.start + block.rows_n.cpu()] = ids.cpu()
            distance_n[rows.start + block.rows_n.cpu()] = distance.cpu()
        return _like(x, ids_n), _like(x, distance_n)

    def assign_directions(self, directions_nd: Array) -> tuple[Array, Array]:
        """As `assign`, for directions around the centre instead of activations, such as other exemplars."""
        around_zero = Dictionary(torch.zeros(self.d_model), self.exemplars, self.threshold, self.device, self.prefilter)
        return around_zero.assign(directions_nd)

    def distances(self, x: Array) -> Array:
        """Cosine distance of each row to every exemplar: float32 [n, k], the whole matrix."""
        return _like(x, 1 - self._cosines(x)).clip(0, 2)

    def margins(self, x: Array) -> Array:
        """How much farther the second nearest exemplar is than the nearest: float32 [n], >= 0.

        Infinite for a dictionary of one region; NaN for rows without a direction.
        """
        margin_n = torch.full((len(x),), torch.nan)
        for rows, block in self.blocks(x):
            sim_nk = self._products(block)
            top_n2 = sim_nk.topk(min(2, self.k), dim=1).values
            margin = top_n2[:, 0] - top_n2[:, 1] if self.k > 1 else torch.full((len(block),), torch.inf)
            margin_n[rows.start + block.rows_n.cpu()] = margin.cpu()
        return _like(x, margin_n)

    def encode(self, x: Array, readout: str = "topk", *, k: int = 1) -> Array:
        """Features [n, number of regions], float32 (protocols 1.10).

        - `topk`: the k largest projections `(x - c) . e`, negative ones cut to 0, the rest 0.
        - `topk_norm`: the same on unit directions.
        - `signed`: all projections `(x - c) . e`.
        - `cosine`: all similarities `u(x) . e`.
        - `binary`: 1 at the region the activation belongs to.
        """
        if readout == "binary":
            ids_n, _ = self.assign(torch.as_tensor(x))
            features = torch.zeros((len(x), self.k))
            inside = ids_n >= 0
            features[inside, ids_n[inside]] = 1
            return _like(x, features)
        if readout in ("cosine", "topk_norm"):
            features = self._cosines(x)
        elif readout in ("signed", "topk"):
            features = (as_activations(x, self.d_model, "cpu") - self.center) @ self.exemplars.T
        else:
            raise EPError(f"unknown readout {readout!r}; one of {', '.join(READOUTS)}")
        if readout.startswith("topk"):
            if not 1 <= k <= self.k:
                raise EPError(f"k must lie between 1 and the number of regions, {self.k}; got {k}")
            top = features.topk(k, dim=1)
            features = torch.zeros_like(features).scatter_(1, top.indices, top.values.relu())
        return _like(x, features)

    def decode(self, features: Array) -> Array:
        """Activations [n, d] from features [n, k]: `f E + c`, float32 (protocols 1.10).

        Exemplars are fixed points of encoding by `topk` with k = 1 and decoding. Dense readouts
        overshoot: exemplars are not orthogonal.
        """
        f_nk = torch.as_tensor(features)
        if f_nk.ndim != 2 or f_nk.shape[1] != self.k:
            raise EPError(f"features must be [n, {self.k}], one column a region; got {list(f_nk.shape)}")
        return _like(features, f_nk.float().cpu() @ self.exemplars + self.center)

    def members(self, x: np.ndarray | Tensor) -> MemberStatistics:
        """Member statistics of these activations over the frozen exemplars; mergeable (law L4)."""
        sums = MemberStatistics.empty(self.k, self.d_model)
        for rows, block in self.blocks(x):
            sums.add(block, *self.assign_block(block))
            sums.skipped += rows.stop - rows.start - len(block)
        return sums

    def _cosines(self, x: np.ndarray | Tensor) -> Float[Tensor, "n k"]:
        cosine_nk = torch.full((len(x), self.k), torch.nan)
        for rows, block in self.blocks(x):
            cosine_nk[rows.start + block.rows_n.cpu()] = self._products(block).cpu()
        return cosine_nk

    def _products(self, block: Block) -> Float[Tensor, "n k"]:
        with full_precision():
            return block.u_nd @ self._search.matrix.e_kd.T


def _like(given: Array, answer: Tensor) -> Array:
    """A tensor as the kind of array that was given."""
    return answer if isinstance(given, Tensor) else answer.numpy()  # type: ignore[return-value]
