"""What the members of regions do: sums over frozen exemplars that merge without a trace (law L4).

Everything is accumulated in 64-bit integers (fixed point), so any split of the work, in any order,
on any number of machines, gives the same bytes.

Shapes: n activations, k regions, d = d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import EPError
from .geometry import Block

_BITS = 36  # fixed point: a component or a distance to 1.5e-11
_REGIONS = 1024  # taken at once where sums become floats; even, for pairs of halves
_MAX_MEMBERS = 2**24  # squares of distances, at most 4, then sum to 2**62


@dataclass
class MemberStatistics:
    """Mergeable sums of one dictionary's members.

    Attributes:
        count_k: members.
        direction_kd: sum of unit directions, fixed point.
        distance_k: sums of the distance to the exemplar, fixed point.
        square_k: of its square.
        skipped: activations without a direction.
    """

    count_k: Int64[Tensor, " k"]
    direction_kd: Int64[Tensor, "k d"]
    distance_k: Int64[Tensor, " k"]
    square_k: Int64[Tensor, " k"]
    skipped: int = 0

    @classmethod
    def empty(cls, k: int, d: int) -> MemberStatistics:
        """Of no members."""
        zero_k = torch.zeros(k, dtype=torch.int64)
        return cls(zero_k, torch.zeros((k, d), dtype=torch.int64), zero_k.clone(), zero_k.clone())

    def add(self, block: Block, ids_n: Int64[Tensor, " n"], distance_n: Float[Tensor, " n"]) -> None:
        """Count the rows of a block as members of their regions; distances in float64."""
        if not len(block):
            return
        u_nd = torch.round(block.exact * 2.0**_BITS).long().cpu()
        ids_n, distance_n = ids_n.cpu(), distance_n.double().cpu()
        self.count_k += torch.bincount(ids_n, minlength=len(self.count_k))
        self.direction_kd.index_add_(0, ids_n, u_nd)
        self.distance_k.index_add_(0, ids_n, torch.round(distance_n * 2.0**_BITS).long())
        self.square_k.index_add_(0, ids_n, torch.round(distance_n.square() * 2.0**_BITS).long())
        self.check_range()

    def merge(self, other: MemberStatistics) -> MemberStatistics:
        """The sums of both; commutative and associative to the last bit."""
        if self.direction_kd.shape != other.direction_kd.shape:
            raise EPError(
                f"statistics of different dictionaries: [k, d] = {list(self.direction_kd.shape)} "
                f"and {list(other.direction_kd.shape)}"
            )
        merged = MemberStatistics(
            self.count_k + other.count_k,
            self.direction_kd + other.direction_kd,
            self.distance_k + other.distance_k,
            self.square_k + other.square_k,
            self.skipped + other.skipped,
        )
        merged.check_range()
        return merged

    def check_range(self) -> None:
        """Raise EPError if a region has more members than the sums can hold."""
        if len(self.count_k) and int(self.count_k.max()) > _MAX_MEMBERS:
            raise EPError(
                f"a region has {int(self.count_k.max()):,} members; the exact sums hold {_MAX_MEMBERS:,}: "
                "annotate on less text or build at a finer percentile"
            )

    @property
    def members(self) -> Int64[np.ndarray, " k"]:
        """Members of each region."""
        return self.count_k.numpy()

    def _sums(self) -> Iterator[tuple[slice, Float[np.ndarray, "c d"]]]:
        """Sums of unit directions in float64, a few regions at a time: all at once they would be held several times."""
        for start in range(0, len(self.count_k), _REGIONS):
            part = slice(start, start + _REGIONS)
            yield part, self.direction_kd[part].numpy() / 2.0**_BITS

    @property
    def mean_directions(self) -> Float[np.ndarray, "k d"]:
        """Unit mean member direction per region, float32; zeros where a region has none."""
        mean_kd = np.zeros(self.direction_kd.shape, np.float32)
        for part, sum_cd in self._sums():
            norm_c = np.linalg.norm(sum_cd, axis=1, keepdims=True)
            np.divide(sum_cd, norm_c, out=sum_cd, where=norm_c > 0)
            mean_kd[part] = sum_cd
        return mean_kd

    @property
    def coherence(self) -> Float[np.ndarray, " k"]:
        """Mean resultant length of the members' directions, 0..1; NaN without members."""
        length_k = np.concatenate([np.zeros(0), *(np.linalg.norm(sum_cd, axis=1) for _, sum_cd in self._sums())])
        return _per_member(length_k, self.members)

    @property
    def mean_distance(self) -> Float[np.ndarray, " k"]:
        """Mean cosine distance of the members to their exemplar; NaN without members."""
        return _per_member(self.distance_k.numpy() / 2.0**_BITS, self.members)

    @property
    def cosine_of_pairs(self) -> Float[np.ndarray, " k/2"]:
        """Cosine between the mean directions of regions 0 and 1, 2 and 3, ...; NaN where one has no members."""
        cosines = [np.zeros(0)]
        for _, sum_cd in self._sums():
            norm_c = np.linalg.norm(sum_cd, axis=1, keepdims=True)
            unit_cd = np.divide(sum_cd, norm_c, out=np.zeros_like(sum_cd), where=norm_c > 0)
            cosines.append(np.einsum("cd,cd->c", unit_cd[::2], unit_cd[1::2]))
        both = (self.members.reshape(-1, 2) > 0).all(axis=1)
        return np.where(both, np.concatenate(cosines), np.nan)

    @property
    def distance_variance(self) -> Float[np.ndarray, " k"]:
        """Population variance of that distance; NaN without members."""
        square_k = _per_member(self.square_k.numpy() / 2.0**_BITS, self.members)
        return np.maximum(square_k - self.mean_distance**2, 0)


def _per_member(sum_k: np.ndarray, members_k: np.ndarray) -> np.ndarray:
    return np.divide(sum_k, members_k, out=np.full(len(sum_k), np.nan), where=members_k > 0)
