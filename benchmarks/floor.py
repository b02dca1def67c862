"""The floor of clustering in small batches: what no way of clustering rows in float32 goes below.

Real activations in the batches of 2,032 that the paper's procedure is run with by default, one thread, seconds of the
processor: ours and the procedure, beside the passes both consist of at least: reading rows and subtracting the centre,
their norms, and the products with all exemplars there are in the end, with everything in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import data
from .clustering import PERCENTILES, settled
from .measure import Row, alternate, arguments, use_threads, write
from .peers import SMALL, learn

BATCHES, TURNS = 2, 9
CACHED = 256  # rows that stay in the processor's cache from one pass to the next
OURS, PROCEDURE = f"ours, batch {SMALL:,}", f"procedure, batch {SMALL:,}"


def passes(x_nd: np.ndarray, center_d: np.ndarray) -> torch.Tensor:
    """Norms of rows less the centre, which are kept no longer than that."""
    y_nd, center = torch.empty(CACHED, x_nd.shape[1]), torch.from_numpy(center_d)
    parts = torch.from_numpy(x_nd).split(CACHED)
    return torch.cat([torch.sub(part, center, out=y_nd[: len(part)]).norm(dim=1) for part in parts])


def products(y_nd: torch.Tensor, e_kd: torch.Tensor, times: int) -> torch.Tensor:
    """Similarities of one batch, so many times."""
    sim_nk = torch.empty(len(y_nd), len(e_kd))
    for _ in range(times):
        torch.mm(y_nd, e_kd.T, out=sim_nk)
    return sim_nk


def at(percentile: float, x_nd: np.ndarray, turns: int) -> Row:
    center_d, thresholds = settled(len(x_nd) // data.BATCH)
    threshold = thresholds[percentile]
    e_kd = torch.from_numpy(learn(OURS, x_nd, center_d, threshold, 0))
    y_nd = torch.from_numpy(x_nd[:SMALL] - center_d)
    sides = {
        OURS: lambda: learn(OURS, x_nd, center_d, threshold, 0),
        PROCEDURE: lambda: learn(PROCEDURE, x_nd, center_d, threshold, 0),
        "centre and norm": lambda: passes(x_nd, center_d),
        "product": lambda: products(y_nd, e_kd, len(x_nd) // SMALL),
    }
    times, _ = alternate(sides, turns, processor=True)
    least = times["centre and norm"].median + times["product"].median
    found: dict[str, Any] = {
        f"{side.partition(',')[0]}, us a row": round(1e6 * samples.median / len(x_nd), 2)
        for side, samples in times.items()
    }
    found["procedure / floor"] = round(times[PROCEDURE].median / least, 2)
    return Row(f"percentile {percentile:g}, K {len(e_kd):,}", times[OURS], times[PROCEDURE], found=found)


def main() -> None:
    given = arguments(__doc__)
    use_threads(1)
    x_nd = data.activations((1 if given.quick else BATCHES) * data.BATCH)
    rows = [at(percentile, x_nd, 1 if given.quick else TURNS) for percentile in PERCENTILES[::-1]]
    write("floor", **data.stated(given, __doc__), data=data.described(x_nd), rows=rows)


if __name__ == "__main__":
    main()
