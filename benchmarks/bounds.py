"""Bounds: what an exact search for the nearest exemplar could skip, on real activations. Not a time.

Exemplars are activations drawn at random, rows others of the same text. Each bound gets more help than a search would
have: it knows the largest similarity of every row beforehand. A pair is *left* if the bound does not rule it out, a
block of 32 rows and 32 exemplars if one of its pairs is left; rows and exemplars are sorted by their coarse region, so
that what is skipped lies together. A search multiplies blocks, not pairs.

`coordinates`: on the main axes of the rows, the product over the first m coordinates plus, by Cauchy and Schwarz, the
product of the lengths of what follows; it costs m/d of all products itself. `regions`: exemplars lie in coarse regions,
one of each sqrt(K) drawn as the centre; by the triangle inequality an angle is at least the angle to the centre less
the widest of its region, which costs sqrt(K)/K.

`work`: what would remain of a product, at best: the bound's own cost and the smaller of the blocks that are left and
the pairs that are left, each of these at the cost of a pair that is gathered and multiplied alone, as measured here.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from . import data
from .measure import Row, arguments, timed, write

SIZES = (3_000, 20_000, 100_000)
SHARES = (16, 8, 4, 2)  # of the coordinates: d/16 ... d/2
ROWS, SIDE = 2_048, 32  # rows judged, and those of a block


def unit_rows(k: int, rows: int) -> tuple[Tensor, Tensor]:
    """Exemplars [k, d] and rows [rows, d], unit directions around the mean."""
    x_nd = torch.from_numpy(data.activations(k + rows))
    u_nd = normalize(x_nd - x_nd.mean(dim=0), dim=1)
    order_n = torch.from_numpy(np.random.default_rng(data.SEED).permutation(k + rows))
    return u_nd[order_n[:k]], u_nd[order_n[k:]]


def main_axes(u_nd: Tensor) -> Tensor:
    """Orthonormal columns [d, d], that of most variance first."""
    return torch.linalg.eigh((u_nd.T @ u_nd).double())[1].flip(1).float()


def by_coordinates(e_kd: Tensor, u_nd: Tensor) -> Iterator[tuple[str, float, Tensor]]:
    """For each number of coordinates: its name, its own cost, upper bounds [n, k] of similarities."""
    axes_dd = main_axes(e_kd)
    e_kd, u_nd = e_kd @ axes_dd, u_nd @ axes_dd
    for share in SHARES:
        m = e_kd.shape[1] // share
        rest_nk = u_nd[:, m:].norm(dim=1)[:, None] * e_kd[:, m:].norm(dim=1)
        yield f"{m} coordinates", 1 / share, rest_nk.addmm_(u_nd[:, :m], e_kd[:, :m].T)


def by_regions(e_kd: Tensor, u_nd: Tensor, center_kr: Tensor, centers_rd: Tensor) -> tuple[float, Tensor]:
    """The cost of it, and upper bounds [n, k] by the widest angle of each coarse region."""
    region_k = center_kr.argmax(dim=1)
    angle_k = center_kr.amax(dim=1).clamp(-1, 1).acos()
    widest_r = torch.zeros(len(centers_rd)).scatter_reduce_(0, region_k, angle_k, "amax")
    bound_nr = ((u_nd @ centers_rd.T).clamp(-1, 1).acos() - widest_r).clamp(min=0).cos()
    return len(centers_rd) / len(e_kd), bound_nr[:, region_k]


def blocks_left(left_nk: Tensor) -> float:
    """Share of blocks with a pair that is left."""
    n, k = (side // SIDE * SIDE for side in left_nk.shape)
    return float(left_nk[:n, :k].view(n // SIDE, SIDE, k // SIDE, SIDE).any(dim=3).any(dim=1).float().mean())


def alone(e_kd: Tensor, u_nd: Tensor, dtype: torch.dtype) -> float:
    """How many pairs of a product take the time of one that is gathered."""
    e_kd, u_nd, rng = e_kd.to(dtype), u_nd.to(dtype), np.random.default_rng(data.SEED)
    pairs = 8 * len(u_nd)
    row_p, col_p = (torch.from_numpy(rng.integers(0, len(side), pairs)) for side in (u_nd, e_kd))

    def seconds(work: Callable[[], Tensor]) -> float:
        return median(timed(work, processor=True)[1] for _ in range(7))

    product = seconds(lambda: u_nd @ e_kd.T) / (len(u_nd) * len(e_kd))
    return seconds(lambda: torch.linalg.vecdot(u_nd[row_p], e_kd[col_p])) / pairs / product


def measured(k: int, rows: int) -> list[Row]:
    e_kd, u_nd = unit_rows(k, rows)
    costs = {name: alone(e_kd, u_nd, getattr(torch, name)) for name in ("float32", "bfloat16")}
    centers_rd = e_kd[: math.isqrt(k)]
    center_kr, center_nr = e_kd @ centers_rd.T, u_nd @ centers_rd.T
    e_kd, center_kr = (part[center_kr.argmax(dim=1).argsort()] for part in (e_kd, center_kr))
    u_nd = u_nd[center_nr.argmax(dim=1).argsort()]
    best_n1 = (u_nd @ e_kd.T).amax(dim=1, keepdim=True)
    bounds = [*by_coordinates(e_kd, u_nd), ("regions", *by_regions(e_kd, u_nd, center_kr, centers_rd))]
    answer = []
    for name, cost, bound_nk in bounds:
        left_nk = bound_nk >= best_n1 - 1e-5
        pairs, blocks = float(left_nk.float().mean()), blocks_left(left_nk)
        found = {"its own cost": f"{cost:.1%}", "pairs left": f"{pairs:.2%}", "blocks left": f"{blocks:.1%}"}
        work = {f"work, {dtype}": f"{cost + min(blocks, pairs * each):.0%}" for dtype, each in costs.items()}
        answer.append(Row(f"K = {k:,}: {name}", found=found | work))
    return answer


def main() -> None:
    given: argparse.Namespace = arguments(__doc__)
    sizes, rows = ((2_000,), 512) if given.quick else (SIZES, ROWS)
    found = [row for k in sizes for row in measured(k, rows)]
    facts = {"text": data.text_name(), "rows": rows, "site": f"{data.MODELS['smollm2']} {data.SITES['smollm2']}"}
    write("bounds", **data.stated(given, __doc__), data=facts, rows=found)


if __name__ == "__main__":
    main()
