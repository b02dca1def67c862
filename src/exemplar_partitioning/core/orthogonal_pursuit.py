"""Orthogonal matching pursuit: after every pick, least squares on all atoms picked so far.

Shapes: n rows, m atoms, d = d_model, k steps, t picks so far, r some rows, s = k + 1 sides of a tableau.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from .atoms import NOTHING, Atoms, Rule
from .geometry import tree_sum
from .stepwise import Stepwise


class OrthogonalPursuit(Stepwise):
    """Orthogonal matching pursuit: the weights are the least squares on the atoms picked, non-negative if so ruled.

    The normal equations of each row stand in a tableau, row and column 0 for the direction, 1..t for the atoms
    picked, swept (Beaton 1964) on the atoms in use. It then holds, without any system to solve, the weights of those
    (row 0), the inner products of the others with what is left (row 0), and its squared length (corner).
    """

    picks_differ = True

    def __init__(self, atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule):
        super().__init__(atoms, u_nd, rule)
        side = rule.steps + 1
        self.used_nk = torch.zeros_like(self.picks_nk, dtype=torch.bool)
        self.tableau_nss = torch.zeros((len(u_nd), side, side), dtype=torch.float64, device=u_nd.device)
        self.tableau_nss[:, 0, 0] = self.left_n
        self.start_nm = self.fast_nm.clone()

    def add(self, pick_n: Int64[Tensor, " n"], product_n: Float64[Tensor, " n"]) -> None:
        """Of the pick of this step, with its exact inner product with what was left."""
        t, tableau_nss = self.t - 1, self.tableau_nss
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
        before_nk = self.weights_nk
        self._sweep(torch.arange(len(pick_n), device=pick_n.device), torch.full_like(pick_n, t), into=True)
        if self.rule.nonnegative:
            self._nonnegative(before_nk)
        self.weights_nk = torch.where(self.used_nk, tableau_nss[:, 0, 1:], 0.0)
        self.left_n = tableau_nss[:, 0, 0].clone()
        self.fast_nm = self._left()

    def _left(self) -> Float32[Tensor, "n m"]:
        """Inner products of all atoms with what is left, in fast arithmetic."""
        picks_nt, minus_nt = self.picks_nk[:, : self.t], -self.weights_nk[:, : self.t].float()
        if self.atoms.gram_mm is None:
            code_nd = embedding_bag(picks_nt, self.atoms.atoms_md, per_sample_weights=minus_nt, mode="sum")
            return (self.u_nd + code_nd) @ self.atoms.atoms_md.T
        return embedding_bag(picks_nt, self.atoms.fast_mm, per_sample_weights=minus_nt, mode="sum").add_(self.start_nm)

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
