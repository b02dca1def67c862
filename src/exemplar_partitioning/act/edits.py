"""What an intervention does to activations: pure functions of [n, d] in float32.

Shapes: n activations, r directions, d = d_model. `c_d` is a dictionary's centre; spans are rows of unit
directions; lengths are in the model's own units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.dictionary import Dictionary
from ..errors import EPError


class Edit(Protocol):
    """Activations in, activations out: float32 [n, d], row by row."""

    def __call__(self, x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]: ...


@dataclass(frozen=True, eq=False)
class Add:
    """`x + v`: a step, the same for every activation."""

    v_d: Float[Tensor, " d"]

    def __call__(self, x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return x_nd + self.v_d.to(x_nd)


@dataclass(frozen=True, eq=False)
class Off:
    """`c + (I - Q Qt)(x - c)`: nothing is left along a span, as seen from the centre.

    Attributes:
        q_rd: orthonormal rows.
    """

    q_rd: Float[Tensor, "r d"]
    c_d: Float[Tensor, " d"]

    def __call__(self, x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        q_rd = self.q_rd.to(x_nd)
        return x_nd - (x_nd - self.c_d.to(x_nd)) @ q_rd.T @ q_rd


@dataclass(frozen=True, eq=False)
class Onto:
    """`c + Q Qt (x - c)`: only what lies along a span is left."""

    q_rd: Float[Tensor, "r d"]
    c_d: Float[Tensor, " d"]

    def __call__(self, x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        q_rd, c_d = self.q_rd.to(x_nd), self.c_d.to(x_nd)
        return c_d + (x_nd - c_d) @ q_rd.T @ q_rd


@dataclass(frozen=True, eq=False)
class Swap:
    """`c + (I - Q Qt)(x - c) + Q Qt (t - c)`: along a span, every activation becomes the target."""

    q_rd: Float[Tensor, "r d"]
    c_d: Float[Tensor, " d"]
    target_d: Float[Tensor, " d"]

    def __call__(self, x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        q_rd = self.q_rd.to(x_nd)
        return x_nd - (x_nd - self.target_d.to(x_nd)) @ q_rd.T @ q_rd


@dataclass(frozen=True, eq=False)
class Clamp:
    """The component of `x - c` along a unit direction becomes `value`."""

    v_d: Float[Tensor, " d"]
    c_d: Float[Tensor, " d"]
    value: float

    def __call__(self, x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        v_d = self.v_d.to(x_nd)
        along_n = (x_nd - self.c_d.to(x_nd)) @ v_d
        return x_nd + (self.value - along_n)[:, None] * v_d


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


@dataclass(frozen=True, eq=False)
class Gated:
    """An edit of the activations that a gate lets through; the others stay as they are, bit by bit."""

    gate: Gate
    edit: Edit

    def __call__(self, x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return torch.where(self.gate(x_nd)[:, None], self.edit(x_nd), x_nd)


def orthonormal(v_rd: Float[Tensor, "r d"]) -> Float[Tensor, "q d"]:
    """Orthonormal rows with the span of some directions; near-duplicates count once.

    Raises EPError if all of them vanish.
    """
    _, s_r, q_rd = torch.linalg.svd(v_rd.double(), full_matrices=False)
    kept = s_r > 1e-6 * s_r.max()
    if not bool(s_r.max() > 0):
        raise EPError("the directions span nothing: all are zero; regions without members have no mean direction")
    return q_rd[kept].float()


def left_the_manifold(dictionary: Dictionary, x_nd: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Activations farther than theta from every exemplar: nothing like them was seen when the dictionary grew."""
    _, distance_n = dictionary.assign(x_nd)
    return distance_n > dictionary.threshold
