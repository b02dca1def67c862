"""Orthogonal matching pursuit: after every pick, least squares on all atoms picked so far.

Shapes: n rows, m atoms, d = d_model, k steps, t picks so far, p pairs (row, atom), q rows in doubt, r some rows,
s = k + 1 sides of a tableau.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from .atoms import NOTHING, TIE, Atoms, Codes, Rule, decide, strongest
from .geometry import UNIT_ROUNDOFF, tree_sum

_ROWS = 256  # pursued together, on a CPU


def orthogonal_pursuit(atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule) -> Codes:
    """Orthogonal matching pursuit of unit directions on the grid."""
    step = _ROWS if u_nd.device.type == "cpu" else max(1, len(u_nd))
    parts = [_orthogonal(atoms, part_nd, rule) for part_nd in u_nd.split(step)]
    return Codes(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _orthogonal(atoms: Atoms, u_nd: Tensor, rule: Rule) -> Codes:
    state = _Orthogonal(atoms, u_nd, rule)
    n, device = len(u_nd), u_nd.device
    picks_nk = torch.full((n, rule.steps), -1, dtype=torch.int64, device=device)
    weights_nk = torch.zeros((n, rule.steps), dtype=torch.float64, device=device)
    left_n = torch.zeros(n, dtype=torch.float64, device=device)
    row_n = torch.arange(n, device=device)

    def put(chosen: Tensor) -> None:
        picks_nk[row_n[chosen]] = state.picks_nk[chosen]
        weights_nk[row_n[chosen]] = state.weights_nk[chosen]
        left_n[row_n[chosen]] = state.left_n[chosen]

    for _ in range(rule.steps):
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
    return Codes(picks_nk, weights_nk, left_n)


class _Orthogonal:
    """Orthogonal matching pursuit: the weights are the least squares on the atoms picked, non-negative if so ruled.

    The normal equations of each row stand in a tableau, row and column 0 for the direction, 1..t for the atoms
    picked, swept (Beaton 1964) on the atoms in use. It then holds, without any system to solve, the weights of those
    (row 0), the inner products of the others with what is left (row 0), and its squared length (corner).
    """

    def __init__(self, atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule):
        n, side, device = len(u_nd), rule.steps + 1, u_nd.device
        self.atoms, self.u_nd, self.rule, self.t = atoms, u_nd, rule, 0
        self.picks_nk = torch.zeros((n, rule.steps), dtype=torch.int64, device=device)
        self.weights_nk = torch.zeros((n, rule.steps), dtype=torch.float64, device=device)
        self.left_n = (u_nd.double() ** 2).sum(dim=1)
        self.used_nk = torch.zeros((n, rule.steps), dtype=torch.bool, device=device)
        self.tableau_nss = torch.zeros((n, side, side), dtype=torch.float64, device=device)
        self.tableau_nss[:, 0, 0] = self.left_n
        self.start_nm = u_nd @ atoms.atoms_md.T
        self.fast_nm = self.start_nm.clone()

    def keep(self, rows_n: Bool[Tensor, " n"]) -> None:
        """Go on with some rows only."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows_n])

    def best(self) -> tuple[Int64[Tensor, " n"], Float64[Tensor, " n"]]:
        """The atom to pick, -1 where the row ends, and its exact inner product with what is left."""
        nonnegative = self.rule.nonnegative
        self.fast_nm.scatter_(1, self.picks_nk[:, : self.t], -math.inf if nonnegative else 0.0)  # not picked again
        top, slack_n = strongest(self.fast_nm, 1, nonnegative=nonnegative), self._slack()
        first_n = self.rule.strength(top.products_nc[:, 0])
        least_n = torch.maximum(first_n - (2 * slack_n + 1.01 * TIE), NOTHING - slack_n)
        open_n = (self.left_n > self.rule.enough) & (first_n >= least_n)
        doubt_n = top.next_n >= least_n
        row_q, row_p = (open_n & doubt_n).nonzero()[:, 0], (open_n & ~doubt_n).nonzero()[:, 0]
        q, atom_p = (self.rule.strength(self.fast_nm[row_q]) >= least_n[row_q, None]).nonzero(as_tuple=True)
        row_p, atom_p = torch.cat([row_p, row_q[q]]), torch.cat([top.atoms_nc[row_p, 0], atom_p])
        return decide(len(self.u_nd), row_p, atom_p, self._exact(row_p, atom_p), self.rule)

    def _slack(self) -> Float32[Tensor, " n"]:
        """Bound on |fast - exact| for the inner products of each row, all lengths being at most 1.

        d roundings for the product (tensor cores may err by twice as much); for what is taken off, a rounding of
        weight, inner product, their product and the sum, for each of t atoms.
        """
        d = self.u_nd.shape[1] * (1 if self.u_nd.device.type == "cpu" else 2)
        taken_n = 1 + self.weights_nk.abs().sum(dim=1).float()
        return (d + 8 + (2 * self.t + 5) * taken_n) * (UNIT_ROUNDOFF * 1.01)

    def _exact(self, row_p: Int64[Tensor, " p"], atom_p: Int64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        product_p = self.atoms.with_rows(self.u_nd, row_p, atom_p[:, None])[:, 0]
        if not self.t:
            return product_p
        picks_pt, weights_pt = (of_nk[:, : self.t].index_select(0, row_p) for of_nk in (self.picks_nk, self.weights_nk))
        return product_p - tree_sum(self.atoms.between(picks_pt, atom_p) * weights_pt)

    def _left(self) -> Float32[Tensor, "n m"]:
        """Inner products of all atoms with what is left, in fast arithmetic."""
        picks_nt, minus_nt = self.picks_nk[:, : self.t], -self.weights_nk[:, : self.t].float()
        if self.atoms.gram_mm is None:
            code_nd = embedding_bag(picks_nt, self.atoms.atoms_md, per_sample_weights=minus_nt, mode="sum")
            return (self.u_nd + code_nd) @ self.atoms.atoms_md.T
        return embedding_bag(picks_nt, self.atoms.fast_mm, per_sample_weights=minus_nt, mode="sum").add_(self.start_nm)

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
        self.fast_nm = self._left()

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
        for _ in range(8 * self.rule.steps):  # far more exchanges than are ever needed
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
