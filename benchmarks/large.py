"""Large dictionaries: one batch of 16,256 activations against 20,000 exemplars at d = 2304, more of them, and wider.

Synthetic (no small model is this wide): activations around exemplars, a fiftieth of them far from all, so that
new regions are born too. Both sides start from the same exemplars. A turn is one batch, as in the
steady state of a long build; the memory is that of the whole dictionary and the batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import numpy as np
import torch

from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.nearest import ExemplarMatrix, Prefilter

from . import data, textbook
from .measure import Row, alternate, arguments, kept_rows, peak_memory, write

PREFILTERS = get_args(Prefilter)
TARGETS = {"default": ">= 5x, <= 1 GB (with bf16 units)", "float32": ">= 1.8x (without)"}
SIZES = {
    "20k-2304": (20_000, data.BATCH, 2_304, 3, TARGETS),
    "20k-4096": (20_000, data.BATCH, 4_096, 1, {}),
    "100k-2304": (100_000, data.BATCH, 2_304, 1, {}),
}  # exemplars, activations, width, turns, targets
SIDES = ("textbook", *(f"ours {prefilter}" for prefilter in PREFILTERS))


def started(side: str, e_kd: np.ndarray, threshold: float, device: str = "cpu") -> Any:
    """A clustering of one side that stands at these exemplars; plain `ours` has the prefilter of the device."""
    k, d = e_kd.shape
    if side == "textbook":
        theirs = textbook.Clustering(np.zeros(d, np.float32), threshold)
        theirs.restore(e_kd)
        return theirs
    prefilter: Any = side.removeprefix("ours").strip() or None
    mine = LeaderClustering(torch.zeros(d), threshold, device=device, prefilter=prefilter)
    # as after 20 batches: what came to each exemplar, and how much of it only that one covered
    rng = np.random.default_rng(data.SEED)
    online_counts = 1 + rng.multinomial(20 * data.BATCH, data.zipf(k))
    mine.restore(
        torch.from_numpy(e_kd),
        online_counts=online_counts,
        sole_counts=np.minimum(rng.binomial(online_counts - 1, 0.5), 2),
        births=np.arange(k),
        position=int(online_counts.sum()),
        skipped=0,
    )
    return mine


def add(clustering: Any, x_nd: np.ndarray) -> np.ndarray:
    if isinstance(clustering, textbook.Clustering):
        return clustering.add_batch(x_nd)
    return clustering.add(torch.from_numpy(x_nd)).numpy()


@cache
def synthetic(k: int, n: int, d: int) -> tuple[np.ndarray, np.ndarray, float]:
    return data.clustered_directions(k, n, d)


def prepare(side: str, k: int, n: int, d: int) -> Callable[[], Any]:
    e_kd, x_nd, threshold = synthetic(k, n, d)

    def work() -> Any:
        clustering = started(side, e_kd, threshold)
        return clustering, add(clustering, x_nd)

    return work


def measured(k: int, n: int, d: int, turns: int, targets: dict[str, str]) -> list[Row]:
    """A row for each prefilter. targets: what is wanted of some of them."""
    e_kd, x_nd, threshold = synthetic(k, n, d)
    standing: dict[str, Any] = {}

    def restore(side: str) -> None:
        standing[side] = None
        standing[side] = started(side, e_kd, threshold)

    sides = {side: lambda side=side: add(standing[side], x_nd) for side in SIDES}
    times, ids = alternate(sides, turns, before=restore)
    new = {side: len(clustering.exemplars) - k for side, clustering in standing.items()}
    standing.clear()
    memory = {side: peak_memory(prepare, side=side, k=k, n=n, d=d) for side in SIDES}
    theirs = ids["textbook"]
    matched = float((theirs < k).mean())
    default = ExemplarMatrix(d).prefilter
    same = all(np.array_equal(ids["ours float32"], ids[side]) for side in SIDES[1:])
    threads = torch.get_num_threads()
    fewer = f", {threads} thread{'s' * (threads > 1)}" if threads < (os.cpu_count() or 1) else ""
    rows = []
    for prefilter in PREFILTERS:
        side = f"ours {prefilter}"
        rows.append(
            Row(
                f"{of(k, d)}, prefilter {prefilter}" + " (default here)" * (prefilter == default) + fewer,
                times[side],
                times["textbook"],
                target=targets.get("default" if prefilter == default else prefilter),
                memory_ours=memory[side],
                memory_textbook=memory["textbook"],
                found={
                    "GFLOP/s of the search": round(2 * k * n * d / times[side].median / 1e9),
                    "matched by old regions": f"{matched:.1%}",
                    "new regions": f"{new[side]:,} ({new['textbook']:,} textbook)",
                    "assignments that differ": f"{(ids[side] != theirs).mean():.2%}",
                    "prefilters agree": same,
                },
            )
        )
    return rows


def of(k: int, d: int) -> str:
    """How the rows of a size begin."""
    return f"K = {k:,}, d = {d:,}"


def main() -> None:
    given = arguments(__doc__, tuple(SIZES))
    sizes = [(2_000, 4_096, 512, 1, TARGETS)] if given.quick else [SIZES[name] for name in given.parts or SIZES]
    asked = [of(k, d) for k, _, d, *_ in sizes] if given.parts else []
    rows = kept_rows("large", asked, quick=given.quick)
    for size in sizes:
        rows += measured(*size)
        synthetic.cache_clear()
        write("large", **data.stated(given, __doc__), data={"activations": size[1]}, rows=rows)


if __name__ == "__main__":
    main()
