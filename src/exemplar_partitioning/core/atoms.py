"""What matching pursuit takes from: unit directions with exact inner products, and the rule it goes by.

Shapes: n rows, m atoms, d = d_model, k steps, p pairs (row, atom), t atoms of a pair's row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from .choices import Method

GRAM_BYTES = 2**28
"""Inner products of all pairs of atoms are kept up to this size (4,700 atoms); beyond, they are computed anew."""
NOTHING = 1e-6
"""An atom that explains less than this share of an activation's length explains nothing: the row ends."""
TIE = 1e-6
"""Inner products this close, as a share of the length, are tied: float32 directions tell no better. Lowest id wins."""

_GRID = 2.0**26
_GATHERED = 2**15  # numbers gathered at once: as many as stay near the cache


@dataclass(frozen=True)
class Rule:
    """What is pursued, and when a row ends; see `Dictionary.decompose`."""

    steps: int
    method: Method = "omp"
    nonnegative: bool = True
    tolerance: float = 0.0

    @property
    def enough(self) -> float:
        """Squared length, as a share, at which a row ends."""
        return max(NOTHING, self.tolerance) ** 2

    def strength(self, products: Tensor) -> Tensor:
        """By what atoms are chosen: inner products, or their sizes."""
        return products if self.nonnegative else products.abs()


class Codes(NamedTuple):
    """What pursuit gives for rows: atoms in the order picked, -1 after the last; weights; squared length left."""

    picks_nk: Int64[Tensor, "n k"]
    weights_nk: Float64[Tensor, "n k"]
    left_n: Float64[Tensor, " n"]


class Atoms:
    """Unit directions [m, d] made ready for pursuit: on the grid, with their inner products if these fit."""

    def __init__(self, atoms_md: Float[Tensor, "m d"]):
        self.atoms_md = room(atoms_md.shape, atoms_md.float()).copy_(on_grid(atoms_md))
        self.squared_m = (self.atoms_md.double() ** 2).sum(dim=1)
        self.gram_mm: Float64[Tensor, "m m"] | None = None
        m = len(atoms_md)
        if 12 * m * m <= GRAM_BYTES:
            exact_md = self.atoms_md.double()
            self.gram_mm = torch.mm(exact_md, exact_md.T, out=room((m, m), exact_md))
            self.fast_mm = room((m, m), self.atoms_md).copy_(self.gram_mm)

    def __len__(self) -> int:
        return len(self.atoms_md)

    def between(self, picks_pt: Int64[Tensor, "p t"], atom_p: Int64[Tensor, " p"]) -> Float64[Tensor, "p t"]:
        """Inner products of atoms, exact."""
        if self.gram_mm is not None:
            return self.gram_mm[picks_pt, atom_p[:, None]]
        return self.with_rows(self.atoms_md, atom_p, picks_pt)

    def with_rows(
        self, u_nd: Float32[Tensor, "n d"], row_p: Int64[Tensor, " p"], picks_pt: Int64[Tensor, "p t"]
    ) -> Float64[Tensor, "p t"]:
        """Inner products of directions and atoms, exact."""
        (p, t), d = picks_pt.shape, u_nd.shape[1]
        products_pt = torch.empty((p, t), dtype=torch.float64, device=u_nd.device)
        step = max(1, _GATHERED // (max(1, t) * d))
        for part in (slice(first, first + step) for first in range(0, p, step)):
            u_qd = u_nd.index_select(0, row_p[part]).double()
            atoms_qtd = self.atoms_md.index_select(0, picks_pt[part].flatten()).double().view(-1, t, d)
            products_pt[part] = atoms_qtd.mul_(u_qd[:, None]).sum(dim=-1)
        return products_pt


def room(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor to fill. On a CPU in numpy's memory: that comes in large pages, where lines are found sooner."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, like.numpy().dtype))


def on_grid(unit_nd: Tensor) -> Float32[Tensor, "n d"]:
    """Unit vectors with coordinates rounded to multiples of 2**-26, as float32, which holds them exactly."""
    return (unit_nd.float() * _GRID).round() / _GRID


class Strongest(NamedTuple):
    """The strongest atom of each row by some products, with its product, and how strong the next one is."""

    atom_n: Int64[Tensor, " n"]
    product_n: Float32[Tensor, " n"]
    next_n: Float32[Tensor, " n"]


def strongest(products_nm: Float32[Tensor, "n m"], *, nonnegative: bool) -> Strongest:
    """The matrix is as it was afterwards."""
    atom_n1 = _argmax(products_nm)[:, None]
    if not nonnegative:
        low_n1 = _argmax(products_nm, smallest=True)[:, None]
        is_lower_n1 = -products_nm.gather(1, low_n1) > products_nm.gather(1, atom_n1)
        atom_n1 = torch.where(is_lower_n1, low_n1, atom_n1)
    product_n1 = products_nm.gather(1, atom_n1)
    products_nm.scatter_(1, atom_n1, -math.inf if nonnegative else 0.0)
    next_n = products_nm.amax(dim=1)
    if not nonnegative:
        next_n = torch.maximum(next_n, -products_nm.amin(dim=1))
    products_nm.scatter_(1, atom_n1, product_n1)
    return Strongest(atom_n1[:, 0], product_n1[:, 0], next_n)


def decide(
    places: int, at_p: Int64[Tensor, " p"], atom_p: Int64[Tensor, " p"], product_p: Float64[Tensor, " p"], rule: Rule
) -> tuple[Int64[Tensor, " a"], Float64[Tensor, " a"]]:
    """Of the candidates for each of so many places the one to pick, with its exact inner product; -1 if there is none.

    The lowest id of those tied with the strongest, unless that explains nothing.
    """
    strength_p = rule.strength(product_p)
    most_a = torch.full((places,), NOTHING, dtype=torch.float64, device=at_p.device)
    most_a.scatter_reduce_(0, at_p, strength_p, "amax")
    tied_p = (strength_p >= most_a[at_p] - TIE) & (strength_p > NOTHING)
    none = torch.iinfo(torch.int64).max
    atom_a = torch.full((places,), none, device=at_p.device).scatter_reduce_(0, at_p[tied_p], atom_p[tied_p], "amin")
    picked_p = atom_p == atom_a[at_p]
    product_a = torch.zeros_like(most_a)
    product_a[at_p[picked_p]] = product_p[picked_p]
    return atom_a.masked_fill_(atom_a == none, -1), product_a


def _argmax(values_nm: Tensor, *, smallest: bool = False) -> Int64[Tensor, " n"]:
    """Where a row is largest; numpy is ten times faster at it than torch on a CPU."""
    if values_nm.device.type != "cpu":
        return values_nm.argmin(dim=1) if smallest else values_nm.argmax(dim=1)
    values = values_nm.numpy()
    return torch.from_numpy(values.argmin(axis=1) if smallest else values.argmax(axis=1))
