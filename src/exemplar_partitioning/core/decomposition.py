"""What decomposing gives: for every activation a few regions, their weights, and how much is left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Activations as sums of few directions, at most s each: `x = c + sum_j weights_j w_j + what is left`.

    Indexing gives the decomposition of some rows, so that a part can be reconstructed without the rest.

    Args:
        regions: [..., s] in the order picked, -1 after the last; every one stands once.
        weights: [..., s] in the units of the activations; 0 where the region is -1.
        residual_norm: [...] length of what is left; NaN for an activation without a direction.
        directions: [number of regions, d] the unit directions of the basis; zero where a region has none.
        center: [d] the centre `c`.
        as_numpy: whether methods answer with numpy arrays, as the activations were.
    """

    regions: Any
    weights: Any
    residual_norm: Any
    directions: Float32[Tensor, "m d"]
    center: Float32[Tensor, " d"]
    as_numpy: bool = False

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, rows: Any) -> Decomposition:
        parts = {name: getattr(self, name)[rows] for name in ("regions", "weights", "residual_norm")}
        return replace(self, **parts)

    @property
    def l0(self) -> Any:
        """Regions in use, [...]."""
        return (self.regions >= 0).sum(-1)

    def reconstruct(self) -> Any:
        """The activations without what is left: [..., d] float32. The centre where there is no region."""
        regions_ns, weights_ns = self._flat()
        used_ns = regions_ns.clamp(min=0)
        if len(self.directions):
            x_nd = embedding_bag(used_ns, self.directions, per_sample_weights=weights_ns, mode="sum") + self.center
        else:
            x_nd = self.center.expand(len(used_ns), -1)
        return self._in_kind(x_nd.reshape(*self.regions.shape[:-1], len(self.center)))

    def dense(self) -> Tensor:
        """The code as a sparse tensor [..., number of regions] of torch (COO); `.to_dense()` writes it out."""
        regions, weights = torch.as_tensor(self.regions), torch.as_tensor(self.weights)
        *rows, place = (regions >= 0).nonzero(as_tuple=True)
        indices = torch.stack([*rows, regions[(*rows, place)]])
        shape = (*regions.shape[:-1], len(self.directions))
        return torch.sparse_coo_tensor(indices, weights[(*rows, place)], shape, check_invariants=True).coalesce()

    def _flat(self) -> tuple[Int64[Tensor, "n s"], Float32[Tensor, "n s"]]:
        s = self.regions.shape[-1]
        return torch.as_tensor(self.regions).reshape(-1, s), torch.as_tensor(self.weights).reshape(-1, s)

    def _in_kind(self, answer: Tensor) -> Any:
        return answer.numpy() if self.as_numpy else answer
