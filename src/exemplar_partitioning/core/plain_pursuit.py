"""Plain matching pursuit: fast steps first, exact weights of what they picked after, and only wrong picks again.

A run takes steps in float32, noting where another atom could also have been the strongest. Settling computes the
weights of all picks in the reference arithmetic, with them how far the run can have been off, and decides where there
was doubt. A row whose picks stand is done; another goes on from its last certain pick in the next run. Most rows need
one.

Shapes: n rows, m atoms, d = d_model, k steps, s steps of a run, c = 2 candidates, p pairs (row, atom), r some rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from .atoms import NOTHING, TIE, Atoms, Codes, Rule, Strongest, decide, strongest
from .geometry import UNIT_ROUNDOFF, tree_sum

_DRIFT = 2.0**-21
"""How far a fast weight may be off, on average since the run began; beyond, the run is not believed."""
_SETTLED, _TOGETHER = 512, 96  # rows: to settle at once; to run at once, near a core's cache


def plain_pursuit(atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule) -> Codes:
    """Matching pursuit of unit directions on the grid. An atom picked again adds to its weight."""
    n, device = len(u_nd), u_nd.device
    settled, together = (_SETTLED, _TOGETHER * torch.get_num_threads()) if device.type == "cpu" else (n, n)
    picks_nk = torch.full((n, rule.steps), -1, dtype=torch.int64, device=device)
    weights_nk = torch.zeros((n, rule.steps), dtype=torch.float64, device=device)
    codes = Codes(picks_nk, weights_nk, torch.zeros(n, dtype=torch.float64, device=device))
    open_n = torch.arange(n, device=device)
    while len(open_n):
        still_open = []
        for row_r in open_n.split(settled):
            parts = row_r.split(together)
            runs = [_run(atoms, u_nd[part], Codes(*(column[part] for column in codes)), rule) for part in parts]
            certain, open_r = _settle(atoms, u_nd[row_r], _joined(runs), rule)
            for of_all, of_part in zip(codes, certain, strict=True):
                of_all[row_r] = of_part
            still_open.append(row_r[open_r])
        open_n = torch.cat(still_open)
    return _merged(codes)


class _Run(NamedTuple):
    """Picks of a run, after those it began with, and its fast weights; and the pairs that were in doubt.

    known_n: how many picks it began with.  length_n: of what was left then.
    row_p, step_p, atom_p: every atom that could be the strongest, for steps where several could.
    """

    picks_nk: Int64[Tensor, "n k"]
    fast_nk: Float64[Tensor, "n k"]
    known_n: Int64[Tensor, " n"]
    length_n: Float64[Tensor, " n"]
    row_p: Int64[Tensor, " p"]
    step_p: Int64[Tensor, " p"]
    atom_p: Int64[Tensor, " p"]


def _joined(runs: list[_Run]) -> _Run:
    first, shifted = 0, []
    for run in runs:
        shifted.append(run._replace(row_p=run.row_p + first))
        first += len(run.picks_nk)
    return _Run(*(torch.cat(column) for column in zip(*shifted, strict=True)))


def _run(atoms: Atoms, u_nd: Float32[Tensor, "n d"], codes: Codes, rule: Rule) -> _Run:
    """Steps in float32 from what certain picks leave, in units of its length."""
    known_n, rest_nd = (codes.picks_nk >= 0).sum(dim=1), _rest(atoms, u_nd, codes)
    length_n = torch.linalg.vector_norm(rest_nd, dim=1).clamp(min=NOTHING / 4)
    rest_nd = (rest_nd / length_n[:, None]).float()
    products_nm = rest_nd @ atoms.atoms_md.T
    gathered_nm = torch.empty_like(products_nm) if atoms.gram_mm is not None else None
    tops: list[Strongest] = []
    row_p = atom_p = torch.empty(0, dtype=torch.int64, device=u_nd.device)
    for s in range(rule.steps - int(known_n.min())):
        top = strongest(products_nm, 2, nonnegative=rule.nonnegative)
        tops.append(top)
        if not s:  # the first step is for certain, so all atoms that may be the strongest are listed
            least_n1 = _least(_stacked(tops, rule), length_n, u_nd)
            row_r = (top.next_n >= least_n1[:, 0]).nonzero()[:, 0]
            r, atom_p = (rule.strength(products_nm[row_r]) >= least_n1[row_r]).nonzero(as_tuple=True)
            row_p = row_r[r]
        elif not s % 8 and 2 * int((_left(_stacked(tops, rule))[:, -1] * length_n**2 > rule.enough).sum()) < len(u_nd):
            break  # most rows are over; the others go on together in the next run
        atom_n, product_n1 = top.atoms_nc[:, 0], top.products_nc[:, :1]
        if gathered_nm is None:
            rest_nd.addcmul_(atoms.atoms_md[atom_n], product_n1, value=-1)
            products_nm = rest_nd @ atoms.atoms_md.T
        else:
            torch.index_select(atoms.fast_mm, 0, atom_n, out=gathered_nm)
            products_nm.addcmul_(gathered_nm, product_n1, value=-1)
    begun = _Run(codes.picks_nk, codes.weights_nk, known_n, length_n, row_p, known_n[row_p], atom_p)
    return _noted(begun, tops, u_nd, rule) if tops else begun


def _rest(atoms: Atoms, u_nd: Tensor, codes: Codes) -> Float64[Tensor, "n d"]:
    """What the picks leave of each row."""
    rest_nd = u_nd.double()
    for t in range(int((codes.picks_nk >= 0).sum(dim=1).max())):
        rest_nd -= codes.weights_nk[:, t, None] * atoms.atoms_md[codes.picks_nk[:, t].clamp(min=0)]
    return rest_nd


def _noted(begun: _Run, tops: list[Strongest], u_nd: Tensor, rule: Rule) -> _Run:
    """A run with the steps that were taken: of each row those before it is over, or more than two are in doubt."""
    known_n, length_n, k = begun.known_n, begun.length_n, rule.steps
    strength_ns = rule.strength(torch.stack([top.products_nc[:, 0] for top in tops], dim=1))
    step_s = torch.arange(len(tops), device=u_nd.device)
    least_ns = _least(strength_ns, length_n, u_nd)
    atoms_nsc = torch.stack([top.atoms_nc for top in tops], dim=1)
    products_nsc = torch.stack([top.products_nc for top in tops], dim=1)
    next_ns = torch.stack([top.next_n for top in tops], dim=1)
    over_ns = (_left(strength_ns) * length_n[:, None] ** 2 < 0.98 * rule.enough) | (strength_ns <= 0)
    stop_ns = ((next_ns >= least_ns) | over_ns) & (step_s > 0) | (known_n[:, None] + step_s >= k)
    row_g, step_g = (stop_ns.cumsum(dim=1) == 0).nonzero(as_tuple=True)
    place_g = known_n[row_g] + step_g
    picks_nk, fast_nk = begun.picks_nk.clone(), begun.fast_nk.clone()
    picks_nk[row_g, place_g] = atoms_nsc[row_g, step_g, 0]
    fast_nk[row_g, place_g] = products_nsc[row_g, step_g, 0] * length_n[row_g]
    doubt_g = rule.strength(products_nsc[row_g, step_g, 1]) >= least_ns[row_g, step_g]
    pairs = (row_g[doubt_g], place_g[doubt_g], atoms_nsc[row_g, step_g][doubt_g])
    return begun._replace(
        picks_nk=picks_nk,
        fast_nk=fast_nk,
        row_p=torch.cat([begun.row_p, pairs[0].repeat_interleave(2)]),
        step_p=torch.cat([begun.step_p, pairs[1].repeat_interleave(2)]),
        atom_p=torch.cat([begun.atom_p, pairs[2].flatten()]),
    )


def _least(
    strength_ns: Float32[Tensor, "n s"], length_n: Float64[Tensor, " n"], u_nd: Tensor
) -> Float32[Tensor, "n s"]:
    """From what fast inner product on an atom could be the strongest at each step.

    A fast one is off by d roundings for the product (tensor cores may err by twice as much); for what is taken off,
    by a rounding of weight, inner product, their product and the sum at each step; and by the errors of weights.
    """
    roundings = u_nd.shape[1] * (1 if u_nd.device.type == "cpu" else 2) + 8
    step_s = torch.arange(strength_ns.shape[1], device=u_nd.device)
    taken_ns = 1 + strength_ns.cumsum(dim=1) - strength_ns
    slack_ns = (roundings + (2 * step_s + 5) * taken_ns) * (UNIT_ROUNDOFF * 1.01) + _DRIFT * step_s
    return strength_ns - 2 * slack_ns - (1.01 * TIE / length_n[:, None]).float()


def _left(strength_ns: Float32[Tensor, "n s"]) -> Float32[Tensor, "n s"]:
    """Squared length left before each step, as a share, in fast arithmetic."""
    return 1 - (strength_ns**2).cumsum(dim=1) + strength_ns**2


def _settle(atoms: Atoms, u_nd: Float32[Tensor, "n d"], run: _Run, rule: Rule) -> tuple[Codes, Bool[Tensor, " n"]]:
    """Exact weights, up to where the row ends or a pick is not certain; and which rows have to go on from there."""
    k, atom_nk, valid_nk = rule.steps, run.picks_nk.clamp(min=0), run.picks_nk >= 0
    weights_nw, left_nk = _exact(atoms, u_nd, atom_nk, valid_nk)
    weights_nk, step_k = weights_nw[:, :k], torch.arange(k, device=u_nd.device)
    since_nk = (step_k - run.known_n[:, None]).clamp(min=0)
    error_nk = (run.fast_nk - weights_nk).abs().masked_fill(~valid_nk | (step_k < run.known_n[:, None]), 0)
    believed_nk = error_nk.cumsum(dim=1) - error_nk <= _DRIFT * since_nk * run.length_n[:, None]
    until_n = _first(~valid_nk | ~believed_nk)
    doubt_p = (run.step_p < until_n[run.row_p]).nonzero()[:, 0]
    run = run._replace(row_p=run.row_p[doubt_p], step_p=run.step_p[doubt_p], atom_p=run.atom_p[doubt_p])
    right_nk, right_weight_nk = _decided(atoms, u_nd, run, weights_nw, rule)
    wrong_n = _first((right_nk >= 0) & (right_nk != atom_nk))
    certain_n = torch.minimum(until_n, wrong_n)
    enough_n = _first(left_nk <= rule.enough)
    nothing_n = _first(valid_nk & (rule.strength(weights_nk) <= NOTHING))
    open_n = (enough_n > certain_n) & (nothing_n >= certain_n) & (certain_n < k)
    end_n = torch.where(open_n, certain_n, torch.minimum(enough_n, nothing_n).clamp(max=k))
    beyond_nk = step_k >= end_n[:, None]
    picks_nk, weights_nk = run.picks_nk.masked_fill(beyond_nk, -1), weights_nk.masked_fill(beyond_nk, 0)
    row_r = (open_n & (wrong_n < until_n)).nonzero()[:, 0]
    at_r = row_r, wrong_n[row_r]
    picks_nk[at_r], weights_nk[at_r] = right_nk[at_r], right_weight_nk[at_r]
    return Codes(picks_nk, weights_nk, left_nk.gather(1, end_n[:, None])[:, 0]), open_n


def _exact(
    atoms: Atoms, u_nd: Tensor, atom_nk: Int64[Tensor, "n k"], valid_nk: Bool[Tensor, "n k"]
) -> tuple[Float64[Tensor, "n w"], Float64[Tensor, "n k1"]]:
    """Weights of picks in reference arithmetic, w the power of two from k on, and squared length left before each."""
    n, k = atom_nk.shape
    product_nk = atoms.with_rows(u_nd, torch.arange(n, device=u_nd.device), atom_nk)
    weights_nw = torch.zeros((n, _power_of_two(k)), dtype=torch.float64, device=u_nd.device)
    left_nk = torch.empty((n, k + 1), dtype=torch.float64, device=u_nd.device)
    left_nk[:, 0] = (u_nd.double() ** 2).sum(dim=1)
    valid_nk = valid_nk.double()
    for t in range(k):
        if t:
            width = min(_power_of_two(t), k)
            product_nk[:, t] -= _explained(atoms, atom_nk[:, :width], atom_nk[:, t], weights_nw)
        weight_n = torch.mul(product_nk[:, t], valid_nk[:, t], out=weights_nw[:, t])
        left_nk[:, t + 1] = left_nk[:, t] - weight_n * weight_n * (2 - atoms.squared_m[atom_nk[:, t]])
    return weights_nw, left_nk.clamp_(min=0)


def _explained(
    atoms: Atoms, picks_pt: Int64[Tensor, "p t"], atom_p: Int64[Tensor, " p"], weights_pw: Float64[Tensor, "p w"]
) -> Float64[Tensor, " p"]:
    """What picks take off the inner products of other atoms: the same bits whatever t, beyond which weights are 0."""
    t = picks_pt.shape[1]
    terms_pw = torch.zeros((len(atom_p), _power_of_two(t)), dtype=torch.float64, device=atom_p.device)
    torch.mul(atoms.between(picks_pt, atom_p), weights_pw[:, :t], out=terms_pw[:, :t])
    return tree_sum(terms_pw)


def _decided(
    atoms: Atoms, u_nd: Tensor, run: _Run, weights_nw: Float64[Tensor, "n w"], rule: Rule
) -> tuple[Int64[Tensor, "n k"], Float64[Tensor, "n k"]]:
    """The right pick where a step was in doubt, -1 elsewhere or if there is none; and its weight."""
    (n, k), row_p, step_p, atom_p = run.picks_nk.shape, run.row_p, run.step_p, run.atom_p
    weights_pw = weights_nw[row_p] * (torch.arange(weights_nw.shape[1], device=u_nd.device) < step_p[:, None])
    product_p = atoms.with_rows(u_nd, row_p, atom_p[:, None])[:, 0]
    product_p -= _explained(atoms, run.picks_nk.clamp(min=0)[row_p], atom_p, weights_pw)
    right_a, weight_a = decide(n * k, row_p * k + step_p, atom_p, product_p, rule)
    return right_a.view(n, k), weight_a.view(n, k)


def _merged(codes: Codes) -> Codes:
    """Weights of an atom that was picked again added to where it stands first, in the order of steps."""
    picks_nk, weights_nk = codes.picks_nk, codes.weights_nk
    for t in range(1, picks_nk.shape[1]):
        same_nt = (picks_nk[:, :t] == picks_nk[:, t, None]) & (picks_nk[:, t, None] >= 0)
        row_r = same_nt.any(dim=1).nonzero()[:, 0]
        weights_nk[row_r, same_nt[row_r].byte().argmax(dim=1)] += weights_nk[row_r, t]
        picks_nk[row_r, t], weights_nk[row_r, t] = -1, 0
    return codes


def _stacked(tops: list[Strongest], rule: Rule) -> Float32[Tensor, "n s"]:
    return rule.strength(torch.stack([top.products_nc[:, 0] for top in tops], dim=1))


def _first(true_nt: Bool[Tensor, "n t"]) -> Int64[Tensor, " n"]:
    """Where a row is first true; its width if nowhere."""
    return torch.where(true_nt.any(dim=1), true_nt.byte().argmax(dim=1), true_nt.shape[1])


def _power_of_two(t: int) -> int:
    return 1 << max(0, t - 1).bit_length()
