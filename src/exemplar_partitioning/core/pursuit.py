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

Shapes: n rows, k atoms picked at most, m atoms of the dictionary, d = d_model, p pairs (row, atom), t steps done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from .candidates import at_least
from .geometry import UNIT_ROUNDOFF, tree_sum
from .precision import full_precision

Method = Literal["omp", "mp"]

GRAM_BYTES = 2**28
"""Inner products of all pairs of atoms are kept up to this size (4,700 atoms); beyond, they are computed anew."""
NOTHING = 1e-6
"""An atom that explains less than this share of an activation's length explains nothing: the row ends."""
TIE = 1e-6
"""Inner products this close, as a share of the length, are tied: float32 directions tell no better. Lowest id wins."""

_GRID = 2.0**26
_ROWS, _PRODUCTS = (32, 1024), 2**20  # rows decided together: as many as keep their products near the cache
_DEPTH = 32  # atoms that share one maximum
_PAIRS = 2**20  # numbers gathered at once for the reference


@dataclass(frozen=True)
class Rule:
    """What is pursued, and when a row ends; see `Dictionary.decompose`."""

    k: int
    method: Method = "omp"
    nonnegative: bool = True
    tolerance: float = 0.0


class Atoms:
    """Unit directions [m, d] made ready for pursuit: on the grid, with their inner products if these fit."""

    def __init__(self, atoms_md: Float[Tensor, "m d"]):
        self.atoms_md = on_grid(atoms_md)
        m = len(atoms_md)
        self.depth = min(_DEPTH, m)
        self.groups = -(-m // self.depth)
        self.columns = self.depth * self.groups
        self.squared_m = (self.atoms_md.double() ** 2).sum(dim=1)
        self.padded_md = torch.nn.functional.pad(self.atoms_md, (0, 0, 0, self.columns - m))
        self.gram_mm: Float64[Tensor, "m m"] | None = None
        if m * (8 * m + 4 * self.columns) <= GRAM_BYTES:
            exact_md = self.atoms_md.double()
            self.gram_mm = exact_md @ exact_md.T
            self.fast_mc = torch.zeros(m, self.columns, device=atoms_md.device)
            self.fast_mc[:, :m] = self.gram_mm

    def __len__(self) -> int:
        return len(self.atoms_md)

    def between(self, picks_pt: Int64[Tensor, "p t"], atom_p: Int64[Tensor, " p"]) -> Float64[Tensor, "p t"]:
        """Inner products of atoms, exact."""
        if self.gram_mm is not None:
            return self.gram_mm[picks_pt, atom_p[:, None]]
        step = max(1, _PAIRS // (max(1, picks_pt.shape[1]) * self.atoms_md.shape[1]))
        parts = [
            (self.atoms_md[picks].double() @ self.atoms_md[atoms].double()[:, :, None])[..., 0]
            for picks, atoms in zip(picks_pt.split(step), atom_p.split(step), strict=True)
        ]
        return torch.cat(parts)

    def with_rows(
        self, u_nd: Float32[Tensor, "n d"], row_p: Int64[Tensor, " p"], atom_p: Int64[Tensor, " p"]
    ) -> Float64[Tensor, " p"]:
        """Inner products of directions and atoms, exact."""
        step = max(1, _PAIRS // u_nd.shape[1])
        parts = [
            (u_nd.index_select(0, rows).double() * self.atoms_md.index_select(0, atoms)).sum(dim=1)
            for rows, atoms in zip(row_p.split(step), atom_p.split(step), strict=True)
        ]
        return torch.cat(parts)


def on_grid(unit_nd: Tensor) -> Float32[Tensor, "n d"]:
    """Unit vectors with coordinates rounded to multiples of 2**-26, as float32, which holds them exactly."""
    return (unit_nd.float() * _GRID).round() / _GRID


@dataclass(frozen=True)
class Codes:
    """What pursuit found for rows: atoms in the order picked, -1 after the last; weights; squared length left."""

    picks_nk: Int64[Tensor, "n k"]
    weights_nk: Float64[Tensor, "n k"]
    left_n: Float64[Tensor, " n"]


def pursue(atoms: Atoms, u_nd: Float[Tensor, "n d"], rule: Rule) -> Codes:
    """Decompose unit directions. Atoms that non-negative least squares leaves at weight 0 are not listed."""
    u_nd = on_grid(u_nd)
    on_cpu = u_nd.device.type == "cpu"  # on an accelerator what counts is how often it is called
    step = min(max(_ROWS[0], _PRODUCTS // atoms.columns), _ROWS[1]) if on_cpu else max(1, len(u_nd))
    with full_precision():
        parts = [_pursue(atoms, part_nd, rule) for part_nd in u_nd.split(step)]
    picks_nk, weights_nk, left_n = (torch.cat(column) for column in zip(*parts, strict=True))
    order_nk = torch.argsort((weights_nk == 0).byte(), dim=1, stable=True)
    weights_nk = weights_nk.gather(1, order_nk)
    picks_nk = picks_nk.gather(1, order_nk).masked_fill_(weights_nk == 0, -1)
    return Codes(picks_nk, weights_nk, left_n.clamp_(min=0))


def _pursue(atoms: Atoms, u_nd: Tensor, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    state: _Pursuit = _Orthogonal(atoms, u_nd, rule) if rule.method == "omp" else _Matching(atoms, u_nd, rule)
    n, device = len(u_nd), u_nd.device
    picks_nk = torch.full((n, rule.k), -1, dtype=torch.int64, device=device)
    weights_nk = torch.zeros((n, rule.k), dtype=torch.float64, device=device)
    left_n = torch.zeros(n, dtype=torch.float64, device=device)
    row_n = torch.arange(n, device=device)

    def put(chosen: Tensor) -> None:
        picks_nk[row_n[chosen]] = state.picks_nk[chosen]
        weights_nk[row_n[chosen]] = state.weights_nk[chosen]
        left_n[row_n[chosen]] = state.left_n[chosen]

    for _ in range(rule.k):
        pick_n, product_n = state.best()
        ended_n = pick_n < 0
        if bool(ended_n.any()):
            put(ended_n)
            go_n = ~ended_n
            state.keep(go_n)
            row_n, pick_n, product_n = row_n[go_n], pick_n[go_n], product_n[go_n]
            if not len(row_n):
                break
        state.add(pick_n, product_n)
    put(torch.ones(len(row_n), dtype=torch.bool, device=device))
    return picks_nk, weights_nk, left_n


class _Pursuit:
    """Rows that are pursued together. Unused places hold atom 0 with weight 0.

    left_n: squared length of what is left.  fast_nc: its inner products with all atoms, in fast arithmetic.
    """

    def __init__(self, atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule):
        n, device = len(u_nd), u_nd.device
        self.atoms, self.u_nd, self.rule, self.t = atoms, u_nd, rule, 0
        self.picks_nk = torch.zeros((n, rule.k), dtype=torch.int64, device=device)
        self.weights_nk = torch.zeros((n, rule.k), dtype=torch.float64, device=device)
        self.left_n = (u_nd.double() ** 2).sum(dim=1)
        self.fast_nc = u_nd @ atoms.padded_md.T

    def keep(self, rows_n: Bool[Tensor, " n"]) -> None:
        """Go on with some rows only."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows_n])

    def add(self, pick_n: Int64[Tensor, " n"], product_n: Float64[Tensor, " n"]) -> None:
        """Take an atom, with its exact inner product with what is left, into each row's code."""
        raise NotImplementedError

    def strength(self) -> Float32[Tensor, "n c"]:
        """By what atoms are chosen, in fast arithmetic."""
        strength_nc = self.fast_nc if self.rule.nonnegative else self.fast_nc.abs()
        strength_nc[:, len(self.atoms) :] = -math.inf
        return strength_nc

    def best(self) -> tuple[Int64[Tensor, " n"], Float64[Tensor, " n"]]:
        """The atom to pick, -1 where the row ends, and its exact inner product with what is left."""
        n, device = len(self.u_nd), self.u_nd.device
        strength_ntg = self.strength().view(n, self.atoms.depth, self.atoms.groups)
        group_ng = strength_ntg.amax(dim=1)
        slack_n = self._slack()
        least_n = torch.maximum(group_ng.amax(dim=1) - (2 * slack_n + 1.01 * TIE), NOTHING - slack_n)
        open_n = self.left_n > max(NOTHING, self.rule.tolerance) ** 2
        row_p, atom_p, _ = at_least(torch.where(open_n, least_n, math.inf), strength_ntg, group_ng)
        product_p = self._exact(row_p, atom_p)
        strength_p = product_p if self.rule.nonnegative else product_p.abs()
        most_n = torch.full((n,), NOTHING, dtype=torch.float64, device=device)
        most_n.scatter_reduce_(0, row_p, strength_p, "amax")
        tied_p = (strength_p >= most_n[row_p] - TIE) & (strength_p > NOTHING)
        row_p, atom_p, product_p = row_p[tied_p], atom_p[tied_p], product_p[tied_p]
        pick_n = torch.full((n,), len(self.atoms), device=device).scatter_reduce_(0, row_p, atom_p, "amin")
        picked_p = atom_p == pick_n[row_p]
        product_n = torch.zeros(n, dtype=torch.float64, device=device)
        product_n[row_p[picked_p]] = product_p[picked_p]
        return torch.where(pick_n < len(self.atoms), pick_n, -1), product_n

    def _slack(self) -> Float32[Tensor, " n"]:
        """Bound on |fast - exact| for the inner products of each row, all lengths being at most 1.

        d roundings for the product (tensor cores may err by twice as much); for what is taken off, a rounding of
        weight, inner product, their product and the sum, for each of t atoms.
        """
        d = self.u_nd.shape[1] * (1 if self.u_nd.device.type == "cpu" else 2)
        taken_n = 1 + self.weights_nk.abs().sum(dim=1).float()
        return (d + 8 + (2 * self.t + 5) * taken_n) * (UNIT_ROUNDOFF * 1.01)

    def _exact(self, row_p: Int64[Tensor, " p"], atom_p: Int64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        product_p = self.atoms.with_rows(self.u_nd, row_p, atom_p)
        if not self.t:
            return product_p
        picks_pt, weights_pt = (of_nk[:, : self.t].index_select(0, row_p) for of_nk in (self.picks_nk, self.weights_nk))
        return product_p - tree_sum(self.atoms.between(picks_pt, atom_p) * weights_pt)

    def _taken_off(self) -> Float32[Tensor, "n c"]:
        """Inner products of all atoms with what is left, from the directions and the code."""
        picks_nt, minus_nt = self.picks_nk[:, : self.t], -self.weights_nk[:, : self.t].float()
        if self.atoms.gram_mm is None:
            code_nd = embedding_bag(picks_nt, self.atoms.atoms_md, per_sample_weights=minus_nt, mode="sum")
            return (self.u_nd + code_nd) @ self.atoms.padded_md.T
        return embedding_bag(picks_nt, self.atoms.fast_mc, per_sample_weights=minus_nt, mode="sum")


class _Matching(_Pursuit):
    """Plain matching pursuit: an atom's inner product is added to its weight and taken off what is left."""

    def __init__(self, atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule):
        super().__init__(atoms, u_nd, rule)
        self.distinct_n = torch.zeros(len(u_nd), dtype=torch.int64, device=u_nd.device)

    def add(self, pick_n: Int64[Tensor, " n"], product_n: Float64[Tensor, " n"]) -> None:
        again_nk = (self.picks_nk == pick_n[:, None]) & (self.weights_nk != 0)
        again_n = again_nk.any(dim=1)
        place_n = torch.where(again_n, again_nk.byte().argmax(dim=1), self.distinct_n)[:, None]
        self.picks_nk.scatter_(1, place_n, pick_n[:, None])
        self.weights_nk.scatter_add_(1, place_n, product_n[:, None])
        self.distinct_n += ~again_n
        self.t += 1
        squared_n = self.atoms.squared_m[pick_n]
        self.left_n = self.left_n - product_n * product_n * (2 - squared_n)
        if self.atoms.gram_mm is None:
            self.fast_nc = self._taken_off()
        else:
            self.fast_nc.addcmul_(self.atoms.fast_mc.index_select(0, pick_n), product_n.float()[:, None], value=-1)


class _Orthogonal(_Pursuit):
    """Orthogonal matching pursuit: the weights are the least squares on the atoms picked, non-negative if so ruled.

    The normal equations of each row stand in a tableau, row and column 0 for the direction, 1..t for the atoms
    picked, swept (Beaton 1964) on the atoms in use. It then holds, without any system to solve, the weights of those
    (row 0), the inner products of the others with what is left (row 0), and its squared length (corner).
    """

    def __init__(self, atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule):
        super().__init__(atoms, u_nd, rule)
        side = rule.k + 1
        self.start_nc = self.fast_nc
        self.tableau_nss = torch.zeros((len(u_nd), side, side), dtype=torch.float64, device=u_nd.device)
        self.tableau_nss[:, 0, 0] = self.left_n
        self.used_nk = torch.zeros((len(u_nd), rule.k), dtype=torch.bool, device=u_nd.device)

    def strength(self) -> Float32[Tensor, "n c"]:
        """As of all pursuits; atoms that were picked are not picked again."""
        strength_nc = super().strength()
        return strength_nc.scatter_(1, self.picks_nk[:, : self.t], -math.inf) if self.t else strength_nc

    def add(self, pick_n: Int64[Tensor, " n"], product_n: Float64[Tensor, " n"]) -> None:
        t, tableau_nss = self.t, self.tableau_nss
        squared_n = self.atoms.squared_m[pick_n]
        if t:
            between_nt = self.atoms.between(self.picks_nk[:, :t], pick_n)
            used_nt = self.used_nk[:, :t]
            across_nt = tree_sum(tableau_nss[:, 1 : t + 1, 1 : t + 1] * (between_nt * used_nt)[:, None, :])
            squared_n = squared_n + tree_sum(between_nt * used_nt * across_nt)
            column_nt = torch.where(used_nt, 0.0, between_nt) - across_nt
            tableau_nss[:, t + 1, 1 : t + 1] = tableau_nss[:, 1 : t + 1, t + 1] = column_nt
        tableau_nss[:, t + 1, 0] = tableau_nss[:, 0, t + 1] = product_n
        # by Cauchy and Schwarz it is no less, but for rounding
        tableau_nss[:, t + 1, t + 1] = torch.maximum(squared_n, product_n * product_n / self.left_n)
        self.picks_nk[:, t] = pick_n
        self.t = t + 1
        before_nk = self.weights_nk
        self._sweep(torch.arange(len(pick_n), device=pick_n.device), torch.full_like(pick_n, t), into=True)
        if self.rule.nonnegative:
            self._nonnegative(before_nk)
        self.weights_nk = torch.where(self.used_nk, tableau_nss[:, 0, 1:], 0.0)
        self.left_n = tableau_nss[:, 0, 0].clone()
        self.fast_nc = self._taken_off()
        if self.atoms.gram_mm is not None:
            self.fast_nc += self.start_nc

    def _sweep(self, row_r: Int64[Tensor, " r"], place_r: Int64[Tensor, " r"], *, into: bool) -> None:
        """Bring an atom of each of these rows into use, or out of it."""
        side, at_r, i_r = self.t + 1, torch.arange(len(row_r), device=row_r.device), place_r + 1
        whole = len(row_r) == len(self.tableau_nss)
        part_rss = self.tableau_nss[:, :side, :side] if whole else self.tableau_nss[row_r, :side, :side]
        column_rs = part_rss[at_r, i_r]
        pivot_r = column_rs[at_r, i_r]
        scaled_rs = column_rs / pivot_r[:, None]
        part_rss -= scaled_rs[:, :, None] * column_rs[:, None, :]
        part_rss[at_r, i_r] = scaled_rs if into else -scaled_rs
        part_rss[at_r, :, i_r] = scaled_rs if into else -scaled_rs
        part_rss[at_r, i_r, i_r] = -1 / pivot_r
        if not whole:
            self.tableau_nss[row_r, :side, :side] = part_rss
        self.used_nk[row_r, place_r] = into

    def _nonnegative(self, feasible_nk: Float64[Tensor, "n k"]) -> None:
        """Go from least squares to non-negative least squares by the active set of Lawson and Hanson (1974).

        feasible_nk: non-negative weights to come from, the best on the atoms before the last pick.
        """
        open_nt = torch.where(self.used_nk[:, : self.t], 0.0, self.tableau_nss[:, 0, 1 : self.t + 1]) > NOTHING
        row_r = ((self._solution() < 0) | open_nt).any(dim=1).nonzero()[:, 0]
        feasible_rt = feasible_nk[row_r, : self.t]
        for _ in range(8 * self.rule.k):  # far more exchanges than are ever needed
            if not len(row_r):
                break
            solution_rt, used_rt = self._solution(row_r), self.used_nk[row_r, : self.t]
            out_r = (solution_rt < 0).any(dim=1)
            ratio_rt = torch.where(solution_rt < 0, feasible_rt / (feasible_rt - solution_rt), math.inf)
            step_r, leaving_r = ratio_rt.amin(dim=1), ratio_rt.argmin(dim=1)
            toward_rt = feasible_rt + step_r[:, None].clamp(max=1) * (solution_rt - feasible_rt)
            toward_rt.scatter_(1, leaving_r[:, None], 0.0)
            feasible_rt = torch.where(out_r[:, None], toward_rt, solution_rt)
            gain_rt = torch.where(used_rt, 0.0, self.tableau_nss[row_r, 0, 1 : self.t + 1])
            in_r = ~out_r & (gain_rt.amax(dim=1) > NOTHING)
            for chosen_r, place_r, into in ((out_r, leaving_r, False), (in_r, gain_rt.argmax(dim=1), True)):
                if bool(chosen_r.any()):
                    self._sweep(row_r[chosen_r], place_r[chosen_r], into=into)
            changed_r = out_r | in_r
            row_r, feasible_rt = row_r[changed_r], feasible_rt[changed_r]

    def _solution(self, row_r: Tensor | slice = slice(None)) -> Float64[Tensor, "r t"]:
        return torch.where(self.used_nk[row_r, : self.t], self.tableau_nss[row_r, 0, 1 : self.t + 1], 0.0)
