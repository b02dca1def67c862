"""Of what an activation is made: matching pursuit over the directions of a dictionary.

An activation around the centre, `a = x - c`, is written as a short weighted sum of atoms `w_j` (exemplars or mean
directions) plus what is left. Each step picks the atom with the largest inner product with what is left. Plain
matching pursuit (`mp`, Mallat and Zhang 1993) subtracts just that; the orthogonal one (`omp`, Pati et al. 1993)
solves least squares on all atoms picked so far. docs/decomposition.md states the rules.

Decided exactly, like assignment: a float32 product or update proposes the atoms that could be the largest, with a
proven bound on its error, and the reference arithmetic decides. For the reference, coordinates of unit vectors are
rounded to multiples of 2**-26 (finer than float32 keeps them on the whole): their products are multiples of 2**-52
and the sums stay below 2, so float64 adds them without any rounding, in any order, on any device. All else in it is
element by element, or sums by pairwise halving. So no row's answer depends on the rows beside it, on threads, or on
whether inner products of atoms were looked up or computed anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from numbers import Integral

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from ..errors import EPError
from .atoms import Atoms, Codes, Rule, on_grid
from .orthogonal_pursuit import OrthogonalPursuit
from .plain_pursuit import PlainPursuit
from .precision import full_precision

MANY = 100_000
"""Steps of all rows together from which on loading what is compiled pays: a second, and 10 where it is new."""
_ROWS = 256  # rows that are pursued side by side on a CPU: near its cache


def check_count(k: object, most: int, why: str) -> None:
    """EPError unless k is a number of regions that can be had; why: what the most of them is."""
    if most < 1:
        raise EPError("a dictionary without regions decomposes nothing")
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= int(k) <= most:
        raise EPError(f"k must be a whole number from 1 to {most}, {why}; got {k!r}")


@full_precision()
def pursue(atoms: Atoms, u_nd: Float[Tensor, "n d"], rule: Rule, *, many: bool = False) -> Codes:
    """Decompose unit directions. Atoms that are left with weight 0 are not listed.

    many: whether this is part of much work, for which the compiled pursuit is used where numba is; the same bits.
    """
    picks_nk, weights_nk, left_n = _codes(atoms, on_grid(u_nd), rule, many)
    order_nk = torch.argsort((weights_nk == 0).byte(), dim=1, stable=True)
    weights_nk = weights_nk.gather(1, order_nk)
    return Codes(picks_nk.gather(1, order_nk).masked_fill_(weights_nk == 0, -1), weights_nk, left_n.clamp_(min=0))


def _codes(atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule, many: bool) -> Codes:
    on_cpu = u_nd.device.type == "cpu"
    if many and on_cpu and atoms.gram_mm is not None and (compiled := compiled_pursuit()):
        return compiled(atoms, u_nd, rule)
    stepwise = OrthogonalPursuit if rule.method == "omp" else PlainPursuit
    parts = u_nd.split(_ROWS if on_cpu else max(1, len(u_nd)))
    return Codes(*(torch.cat(column) for column in zip(*(stepwise(atoms, u, rule).run() for u in parts), strict=True)))


@cache
def compiled_pursuit() -> Callable[[Atoms, Float32[Tensor, "n d"], Rule], Codes] | None:
    """Pursuit as numba compiles it; None without numba, or where it may keep nothing it has compiled."""
    try:
        from .compiled import pursue_by_row
    except (ImportError, RuntimeError):
        return None
    return pursue_by_row
