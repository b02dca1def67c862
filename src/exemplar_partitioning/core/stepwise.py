"""Pursuit of many rows side by side, step by step, in tensor operations: on any device.

Shapes: n rows, m atoms, d = d_model, k steps, t picks so far, p pairs (row, atom), q rows in doubt.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from .atoms import NOTHING, TIE, Atoms, Codes, Rule, decide, strongest
from .geometry import UNIT_ROUNDOFF, tree_sum


class Stepwise(ABC):
    """Rows that are still pursued: picks, weights and what is left after t steps.

    A kind of pursuit says how a pick is added: it sets weights and what is left, and takes them off the fast products.
    """

    picks_differ: bool

    def __init__(self, atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule):
        n, device = len(u_nd), u_nd.device
        self.atoms, self.u_nd, self.rule, self.t = atoms, u_nd, rule, 0
        self.picks_nk = torch.full((n, rule.steps), -1, dtype=torch.int64, device=device)
        self.weights_nk = torch.zeros((n, rule.steps), dtype=torch.float64, device=device)
        self.left_n = (u_nd.double() ** 2).sum(dim=1)
        self.fast_nm = u_nd @ atoms.atoms_md.T

    def run(self) -> Codes:
        """All steps of all rows."""
        whole = Codes(self.picks_nk.clone(), self.weights_nk.clone(), self.left_n.clone())
        row_n = torch.arange(len(self.u_nd), device=self.u_nd.device)
        for _ in range(self.rule.steps):
            pick_n, product_n = self.best()
            go_n = pick_n >= 0
            if not bool(go_n.all()):
                self._put(whole, row_n, ~go_n)
                self._keep(go_n)
                row_n, pick_n, product_n = row_n[go_n], pick_n[go_n], product_n[go_n]
                if not len(row_n):
                    return whole
            self.picks_nk[:, self.t] = pick_n
            self.t += 1
            self.add(pick_n, product_n)
        self._put(whole, row_n, torch.ones_like(row_n, dtype=torch.bool))
        return whole

    def _put(self, whole: Codes, row_n: Int64[Tensor, " n"], chosen_n: Bool[Tensor, " n"]) -> None:
        for of_all, of_these in zip(whole, (self.picks_nk, self.weights_nk, self.left_n), strict=True):
            of_all[row_n[chosen_n]] = of_these[chosen_n]

    def _keep(self, rows_n: Bool[Tensor, " n"]) -> None:
        """Go on with some rows only."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows_n])

    @abstractmethod
    def add(self, pick_n: Int64[Tensor, " n"], product_n: Float64[Tensor, " n"]) -> None:
        """Of the pick of this step, with its exact inner product with what was left."""

    def best(self) -> tuple[Int64[Tensor, " n"], Float64[Tensor, " n"]]:
        """The atom to pick, -1 where the row ends, and its exact inner product with what is left."""
        nonnegative = self.rule.nonnegative
        if self.picks_differ:
            self.fast_nm.scatter_(1, self.picks_nk[:, : self.t], -math.inf if nonnegative else 0.0)
        top, slack_n = strongest(self.fast_nm, nonnegative=nonnegative), self._slack()
        first_n = self.rule.strength(top.product_n)
        least_n = torch.maximum(first_n - (2 * slack_n + 1.01 * TIE), NOTHING - slack_n)
        open_n = (self.left_n > self.rule.enough) & (first_n >= least_n)
        doubt_n = top.next_n >= least_n
        row_q, row_p = (open_n & doubt_n).nonzero()[:, 0], (open_n & ~doubt_n).nonzero()[:, 0]
        q, atom_p = (self.rule.strength(self.fast_nm[row_q]) >= least_n[row_q, None]).nonzero(as_tuple=True)
        row_p, atom_p = torch.cat([row_p, row_q[q]]), torch.cat([top.atom_n[row_p], atom_p])
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
