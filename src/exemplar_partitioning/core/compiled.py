"""Pursuit row by row, compiled for CPUs by numba (the extra `fast`): what `stepwise` gives, to the bit.

All inner products of a row stay in the cache from step to step, as they cannot in a sequence of tensor operations.
Float32 proposes and the reference arithmetic decides, as there. The compiler may reorder only what comes out the same
in any order, or what only proposes.

Shapes: m atoms, d = d_model, k steps, l lanes (the atoms of every l-th id), s = k + 1 sides of a tableau.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from numba import njit
from torch import Tensor

from .atoms import NOTHING, TIE, Atoms, Codes, Rule, room
from .geometry import UNIT_ROUNDOFF

_exactly: Any = njit(cache=True, nogil=True, error_model="numpy")
_in_any_order: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})

_TOGETHER, _BY_ONE = 512, 32  # rows whose first products are made together; and that a thread takes at once
_LANES, _STRIP = 64, 256  # atoms


class _Given(NamedTuple):
    """Atoms and rule as numbers and arrays."""

    atoms_md: np.ndarray
    squared_m: np.ndarray
    gram_mm: np.ndarray
    fast_mm: np.ndarray
    orthogonal: bool
    nonnegative: bool
    enough: float


class _Row(NamedTuple):
    """Its direction, the picks so far, and room to work in."""

    u_d: np.ndarray
    picks_k: np.ndarray
    weights_k: np.ndarray
    terms_k: np.ndarray
    lane_l: np.ndarray


class _System(NamedTuple):
    """The normal equations of a row in a tableau, as in `orthogonal_pursuit`, and room to work in."""

    tableau_ss: np.ndarray
    used_k: np.ndarray
    column_s: np.ndarray
    between_k: np.ndarray
    terms_kk: np.ndarray
    feasible_k: np.ndarray


def pursue_by_row(atoms: Atoms, u_nd: Float32[Tensor, "n d"], rule: Rule) -> Codes:
    """Matching pursuit of unit directions on the grid, on a CPU; the atoms' inner products must be kept."""
    n = len(u_nd)
    assert atoms.gram_mm is not None
    given = _Given(
        atoms_md=atoms.atoms_md.numpy(),
        squared_m=atoms.squared_m.numpy(),
        gram_mm=atoms.gram_mm.numpy(),
        fast_mm=atoms.fast_mm.numpy(),
        orthogonal=rule.method == "omp",
        nonnegative=rule.nonnegative,
        enough=rule.enough,
    )
    codes = np.full((n, rule.steps), -1), np.zeros((n, rule.steps)), np.zeros(n)
    products_rm = room((min(n, _TOGETHER), len(atoms)), u_nd)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for first in range(0, n, _TOGETHER):
            u_rd = u_nd[first : first + _TOGETHER].contiguous()
            torch.mm(u_rd, atoms.atoms_md.T, out=products_rm[: len(u_rd)])
            of_rows = (u_rd, products_rm[: len(u_rd)], *(column[first : first + _TOGETHER] for column in codes))
            ends = range(_BY_ONE, len(u_rd), _BY_ONE)
            parts = zip(*(np.split(np.asarray(column), ends) for column in of_rows), strict=True)
            list(threads.map(lambda part: _rows(given, part[0], part[1], part[2:]), parts))
    return Codes(*map(torch.from_numpy, codes))


@_exactly
def _rows(given, u_nd, products_nm, codes):
    picks_nk, weights_nk, left_n = codes
    k = picks_nk.shape[1]
    side = k + 1 if given.orthogonal else 0
    terms_k, lane_l = np.empty(k), np.empty(_LANES, np.float32)
    system = _System(
        np.zeros((side, side)), np.zeros(k, np.bool_), np.empty(side), np.empty(k), np.empty((side, k)), np.empty(k)
    )
    for n in range(len(u_nd)):
        row = _Row(u_nd[n], picks_nk[n], weights_nk[n], terms_k, lane_l)
        if given.orthogonal:
            left_n[n] = _orthogonal(given, row, products_nm[n], system)
        else:
            left_n[n] = _plain(given, row, products_nm[n])


@_exactly
def _plain(given, row, fast_m):
    """Squared length left; picks and weights are written where they belong."""
    left, taken = _dot(row.u_d, row.u_d), 1.0
    k = len(row.picks_k)
    strongest = _strongest(fast_m, given.nonnegative, row.lane_l)
    for t in range(k):
        if left <= given.enough:
            break
        slack = (len(row.u_d) + 8 + (2 * t + 5) * taken) * (UNIT_ROUNDOFF * 1.01)
        least = max(strongest - (2 * slack + 1.01 * TIE), NOTHING - slack)
        pick, weight = _decided(given, row, t, fast_m, least)
        if pick < 0:
            break
        row.picks_k[t], row.weights_k[t] = pick, weight
        left -= weight * weight * (2 - given.squared_m[pick])
        taken += abs(weight)
        if t + 1 < k:
            _take_off(fast_m, np.float32(weight), given.fast_mm[pick])
            strongest = _strongest(fast_m, given.nonnegative, row.lane_l)
    for t in range(1, k):  # weights of an atom that was picked again are added to where it stands first
        for first in range(t):
            if row.picks_k[t] >= 0 and row.picks_k[first] == row.picks_k[t]:
                row.weights_k[first] += row.weights_k[t]
                row.picks_k[t], row.weights_k[t] = -1, 0.0
    return left


@_exactly
def _orthogonal(given, row, start_m, system):
    """Squared length left; picks and weights are written where they belong."""
    tableau_ss, used_k, picks_k, weights_k = system.tableau_ss, system.used_k, row.picks_k, row.weights_k
    tableau_ss[:] = 0.0
    used_k[:] = False
    left = tableau_ss[0, 0] = _dot(row.u_d, row.u_d)
    fast_m = start_m.copy()
    for t in range(len(picks_k)):
        if left <= given.enough:
            break
        taken = 1.0
        for j in range(t):
            fast_m[picks_k[j]] = -np.inf if given.nonnegative else 0.0  # not picked again
            taken += abs(weights_k[j])
        slack = (len(row.u_d) + 8 + (2 * t + 5) * taken) * (UNIT_ROUNDOFF * 1.01)
        strongest = _strongest(fast_m, given.nonnegative, row.lane_l)
        least = max(strongest - (2 * slack + 1.01 * TIE), NOTHING - slack)
        pick, product = _decided(given, row, t, fast_m, least)
        if pick < 0:
            break
        picks_k[t] = pick
        _join(given, row, t, product, system)
        _sweep(tableau_ss, used_k, (t, t + 2), True, system.column_s)
        if given.nonnegative:
            _make_nonnegative(system, weights_k, t + 1)
        for j in range(t + 1):
            weights_k[j] = tableau_ss[0, j + 1] if used_k[j] else 0.0
        left = tableau_ss[0, 0]
        if t + 1 < len(picks_k):
            _left(given.fast_mm, start_m, picks_k[: t + 1], weights_k, fast_m)
    return left


@_exactly
def _decided(given, row, t, fast_m, least):
    """The atom to pick of those at least so strong by fast products, and its exact product; -1 if there is none.

    The lowest id of those tied with the strongest, unless that explains nothing: as `atoms.decide`.
    """
    most = NOTHING
    pick, weight = -1, 0.0
    for again in range(2):  # the strongest, then the lowest tied with it
        count = 0
        for lane in range(_LANES):
            if row.lane_l[lane] < least:
                continue
            for atom in range(lane, len(fast_m), _LANES):
                if (fast_m[atom] if given.nonnegative else abs(fast_m[atom])) < least:
                    continue
                count += 1
                for j in range(t):
                    row.terms_k[j] = given.gram_mm[atom, row.picks_k[j]] * row.weights_k[j]
                product = _dot(row.u_d, given.atoms_md[atom]) - _tree_sum(row.terms_k, t)
                strength = product if given.nonnegative else abs(product)
                if not again:
                    most = max(most, strength)
                if strength >= most - TIE and strength > NOTHING and (pick < 0 or again == 0 or atom < pick):
                    pick, weight = atom, product
        if count < 2:
            break
        if not again:
            pick = -1
    return pick, weight


@_exactly
def _join(given, row, t, product, system):
    """Put the pick of step t into the tableau, not in use yet."""
    tableau_ss, used_k, between_k, terms_kk = system.tableau_ss, system.used_k, system.between_k, system.terms_kk
    pick = row.picks_k[t]
    squared = given.squared_m[pick]
    for j in range(t):
        between_k[j] = given.gram_mm[pick, row.picks_k[j]]
    for i in range(t):
        for j in range(t):
            terms_kk[i, j] = tableau_ss[i + 1, j + 1] * (between_k[j] if used_k[j] else 0.0)
        across = _tree_sum(terms_kk[i], t)
        column = (0.0 if used_k[i] else between_k[i]) - across
        tableau_ss[t + 1, i + 1] = tableau_ss[i + 1, t + 1] = column
        row.terms_k[i] = (between_k[i] if used_k[i] else 0.0) * across
    if t:
        squared = squared + _tree_sum(row.terms_k, t)
    tableau_ss[t + 1, 0] = tableau_ss[0, t + 1] = product
    tableau_ss[t + 1, t + 1] = max(squared, product * product / tableau_ss[0, 0])


@_exactly
def _sweep(tableau_ss, used_k, place_side, into, column_s):
    """Bring an atom into use, or out of it."""
    place, side = place_side
    at = place + 1
    column_s[:side] = tableau_ss[at, :side]
    pivot = column_s[at]
    for a in range(side):
        scaled = column_s[a] / pivot
        for b in range(side):
            tableau_ss[a, b] -= scaled * column_s[b]
    for a in range(side):
        scaled = column_s[a] / pivot
        tableau_ss[at, a] = tableau_ss[a, at] = scaled if into else -scaled
    tableau_ss[at, at] = -1 / pivot
    used_k[place] = into


@_exactly
def _make_nonnegative(system, weights_k, count):
    """The active set of Lawson and Hanson, as in `orthogonal_pursuit`, from weights that are feasible."""
    tableau_ss, used_k, feasible_k = system.tableau_ss, system.used_k, system.feasible_k
    feasible_k[:count] = weights_k[:count]
    for _ in range(8 * len(used_k)):
        leaving, step, entering, gain = -1, np.inf, -1, NOTHING
        for j in range(count):
            solution = tableau_ss[0, j + 1]
            if used_k[j] and solution < 0:
                ratio = feasible_k[j] / (feasible_k[j] - solution)
                if leaving < 0 or ratio < step:
                    leaving, step = j, ratio
            elif not used_k[j] and solution > gain:
                entering, gain = j, solution
        for j in range(count):
            solution = tableau_ss[0, j + 1] if used_k[j] else 0.0
            if leaving >= 0:
                feasible_k[j] = feasible_k[j] + min(step, 1.0) * (solution - feasible_k[j])
            else:
                feasible_k[j] = solution
        if leaving >= 0:
            feasible_k[leaving] = 0.0
            _sweep(tableau_ss, used_k, (leaving, count + 1), False, system.column_s)
        elif entering >= 0:
            _sweep(tableau_ss, used_k, (entering, count + 1), True, system.column_s)
        else:
            break


@_exactly
def _tree_sum(terms, width):
    """As `geometry.tree_sum`; overwrites them."""
    if not width:
        return 0.0
    while width > 1:
        half = (width + 1) // 2
        for i in range(width - half):
            terms[i] += terms[half + i]
        width = half
    return terms[0]


@_in_any_order
def _dot(a_d, b_d):
    """Inner product of vectors on the grid: float64 makes no rounding."""
    total = 0.0
    for i in range(len(a_d)):
        total += np.float64(a_d[i]) * np.float64(b_d[i])
    return total


@_in_any_order
def _take_off(fast_m, weight, between_m):
    for i in range(len(fast_m)):
        fast_m[i] -= weight * between_m[i]


@_in_any_order
def _left(fast_mm, start_m, picks_t, weights_k, fast_m):
    """Inner products of all atoms with what is left, in fast arithmetic."""
    fast_m[:] = start_m
    for first in range(0, len(start_m), _STRIP):
        strip = slice(first, first + _STRIP)
        for j in range(len(picks_t)):
            _take_off(fast_m[strip], np.float32(weights_k[j]), fast_mm[picks_t[j], strip])


@_in_any_order
def _strongest(fast_m, nonnegative, lane_l):
    """Strength of the strongest atom of every lane, and of all."""
    whole = len(fast_m) // _LANES * _LANES
    lane_l[:] = -np.inf
    if nonnegative:
        for first in range(0, whole, _LANES):
            for i in range(_LANES):
                lane_l[i] = fast_m[first + i] if fast_m[first + i] > lane_l[i] else lane_l[i]
        for i in range(len(fast_m) - whole):
            lane_l[i] = fast_m[whole + i] if fast_m[whole + i] > lane_l[i] else lane_l[i]
    else:
        for first in range(0, whole, _LANES):
            for i in range(_LANES):
                size = abs(fast_m[first + i])
                lane_l[i] = size if size > lane_l[i] else lane_l[i]
        for i in range(len(fast_m) - whole):
            size = abs(fast_m[whole + i])
            lane_l[i] = size if size > lane_l[i] else lane_l[i]
    return lane_l.max()
