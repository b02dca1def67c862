"""Plain matching pursuit: every pick's inner product with what is left is taken off.

Shapes: n rows, m atoms, d = d_model, k steps, t picks so far, r some rows.
"""

from __future__ import annotations

from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from .atoms import Atoms, Codes, Rule
from .stepwise import Stepwise


class PlainPursuit(Stepwise):
    """Plain matching pursuit: the inner product of the pick is its weight. An atom picked again adds to its own."""

    picks_differ = False

    def __init__(self, atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule):
        super().__init__(atoms, u_nd, rule)
        self.rest_nd = u_nd.clone()

    def run(self) -> Codes:
        """All steps of all rows."""
        whole = super().run()
        picks_nk, weights_nk, _ = whole
        for t in range(1, picks_nk.shape[1]):  # added to where it stands first, in the order of steps
            same_nt = (picks_nk[:, :t] == picks_nk[:, t, None]) & (picks_nk[:, t, None] >= 0)
            row_r = same_nt.any(dim=1).nonzero()[:, 0]
            weights_nk[row_r, same_nt[row_r].byte().argmax(dim=1)] += weights_nk[row_r, t]
            picks_nk[row_r, t], weights_nk[row_r, t] = -1, 0
        return whole

    def add(self, pick_n: Int64[Tensor, " n"], product_n: Float64[Tensor, " n"]) -> None:
        """Of the pick of this step, with its exact inner product with what was left."""
        self.weights_nk[:, self.t - 1] = product_n
        self.left_n -= product_n * product_n * (2 - self.atoms.squared_m[pick_n])
        weight_n1 = product_n[:, None].float()
        if self.atoms.gram_mm is None:
            self.rest_nd.addcmul_(self.atoms.atoms_md[pick_n], weight_n1, value=-1)
            self.fast_nm = self.rest_nd @ self.atoms.atoms_md.T
        else:
            self.fast_nm.addcmul_(self.atoms.fast_mm[pick_n], weight_n1, value=-1)
