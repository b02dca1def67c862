"""What an intervention does to activations: functions of [n, d] in float32, row by row.

Shapes: n activations, r directions, d = d_model. `c_d` is a dictionary's centre; spans are orthonormal rows `q_rd`;
lengths are in the model's own units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.dictionary import Dictionary
from ..errors import EPError
from ..models.hooks import Edit


def add(v_d: Float[Tensor, " d"]) -> Edit:
    """`x + v`: a step, the same for every activation."""
    return lambda x_nd: x_nd + v_d.to(x_nd)


def off(q_rd: Float[Tensor, "r d"], c_d: Float[Tensor, " d"]) -> Edit:
    """`c + (I - Q Qt)(x - c)`: nothing is left along a span, as seen from the centre."""
    return lambda x_nd: x_nd - _along(x_nd - c_d.to(x_nd), q_rd)


def onto(q_rd: Float[Tensor, "r d"], c_d: Float[Tensor, " d"]) -> Edit:
    """`c + Q Qt (x - c)`: only what lies along a span is left."""
    return lambda x_nd: c_d.to(x_nd) + _along(x_nd - c_d.to(x_nd), q_rd)


def swap(q_rd: Float[Tensor, "r d"], target_d: Float[Tensor, " d"]) -> Edit:
    """`(I - Q Qt) x + Q Qt t`: along a span, every activation becomes the target, whatever the centre."""
    return off(q_rd, target_d)


def clamp(v_d: Float[Tensor, " d"], c_d: Float[Tensor, " d"], value: float) -> Edit:
    """The component of `x - c` along a unit direction becomes `value`."""

    def clamped(x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        v = v_d.to(x_nd)
        return x_nd + (value - (x_nd - c_d.to(x_nd)) @ v)[:, None] * v

    return clamped


def gated(gate: Gate, edit: Edit) -> Edit:
    """An edit of the activations that a gate lets through; the others stay as they are, bit by bit."""
    return lambda x_nd: torch.where(gate(x_nd)[:, None], edit(x_nd), x_nd)


def _along(x_nd: Float[Tensor, "n d"], q_rd: Float[Tensor, "r d"]) -> Float[Tensor, "n d"]:
    return x_nd @ q_rd.to(x_nd).T @ q_rd.to(x_nd)


@dataclass(frozen=True, eq=False)
class Gate:
    """Which activations an intervention touches: those that belong to some regions.

    Attributes:
        regions: an activation must have one of these as its nearest exemplar.
        within: and lie within this cosine distance of it; None: however far.
    """

    dictionary: Dictionary
    regions: tuple[int, ...]
    within: float | None = None

    def __post_init__(self) -> None:
        for region in self.regions:
            self.dictionary.check_region(region)
        if self.within is not None and not 0 <= self.within <= 2:
            raise EPError(f"within is a cosine distance, 0 to 2; got {self.within}")

    def __call__(self, x_nd: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
        """Whether each activation is let through to the edit."""
        ids_n, distance_n = self.dictionary.assign(x_nd)
        open_n = torch.isin(ids_n, torch.tensor(self.regions))
        if self.within is not None:
            open_n &= distance_n <= self.within
        return open_n.to(x_nd.device)


def orthonormal(v_rd: Float[Tensor, "r d"]) -> Float[Tensor, "q d"]:
    """Orthonormal rows with the span of some directions; near-duplicates count once.

    Raises EPError if all of them vanish.
    """
    _, s_r, q_rd = torch.linalg.svd(v_rd.double(), full_matrices=False)
    kept = s_r > 1e-6 * s_r.max()
    if not bool(s_r.max() > 0):
        raise EPError("the directions span nothing: all are zero; regions without members have no mean direction")
    return q_rd[kept].float()
