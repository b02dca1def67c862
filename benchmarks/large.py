"""A large dictionary: one batch of 16,256 activations against 20,000 exemplars at d = 2304.

Synthetic (no small model is this wide): activations around exemplars, a fiftieth of them far from all, so that
new regions are born too. Both sides start from the same 20,000 exemplars. A turn is one batch, as in the
steady state of a long build; the memory is that of the whole dictionary and the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from exemplar_partitioning.leader import LeaderClustering

from . import data, textbook
from .measure import Row, Samples, arguments, peak_memory, timed, write

SIDES = ("textbook", "ours bfloat16", "ours float32")


def started(side: str, e_kd: np.ndarray, threshold: float) -> Any:
    """A clustering of one side that stands at these exemplars."""
    k, d = e_kd.shape
    if side == "textbook":
        theirs = textbook.Clustering(np.zeros(d, np.float32), threshold)
        theirs.restore(e_kd)
        return theirs
    prefilter: Any = side.removeprefix("ours ")
    mine = LeaderClustering(torch.zeros(d), threshold, prefilter=prefilter)
    # as after 20 batches: what came to each exemplar, and how much of it only that one covered
    rng = np.random.default_rng(data.SEED)
    arrivals = 1 + rng.multinomial(20 * data.BATCH, data.zipf(k))
    mine.restore(
        torch.from_numpy(e_kd),
        arrivals=arrivals,
        soles=np.minimum(rng.binomial(arrivals - 1, 0.5), 2),
        births=np.arange(k),
        position=int(arrivals.sum()),
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


def main() -> None:
    given = arguments(__doc__)
    k, n, d, turns = (2_000, 4_096, 512, 1) if given.quick else (20_000, data.BATCH, 2_304, 3)
    e_kd, x_nd, threshold = synthetic(k, n, d)
    times = {side: Samples([], []) for side in SIDES}
    ids, new = {}, {}
    for _ in range(turns):
        for side in SIDES:
            clustering = started(side, e_kd, threshold)
            ids[side], seconds, others = timed(lambda: add(clustering, x_nd))  # noqa: B023
            new[side] = len(clustering.exemplars) - k
            times[side].seconds.append(seconds)
            times[side].others.append(others)
            print(f"  {side}: {seconds:.3f} s (others used {others:.2f} cores)", flush=True)
    memory = {side: peak_memory(prepare, side=side, k=k, n=n, d=d) for side in SIDES}
    theirs = ids["textbook"]
    matched = float((theirs < k).mean())
    rows = []
    for side, target in (("ours bfloat16", ">= 5x, <= 1 GB"), ("ours float32", ">= 1.8x")):
        rows.append(
            Row(
                f"K = {k:,}, d = {d:,}, prefilter {side.removeprefix('ours ')}",
                times[side],
                times["textbook"],
                target=target,
                memory_ours=memory[side],
                memory_textbook=memory["textbook"],
                found={
                    "GFLOP/s of the search": round(2 * k * n * d / times[side].median / 1e9),
                    "matched by old regions": f"{matched:.1%}",
                    "new regions": f"{new[side]:,} ({new['textbook']:,} textbook)",
                    "assignments that differ": f"{(ids[side] != theirs).mean():.2%}",
                },
            )
        )
    same = np.array_equal(ids["ours bfloat16"], ids["ours float32"])
    print(f"both prefilters: {'identical' if same else 'DIFFERENT'} results")
    write(
        "large",
        quick=given.quick,
        seed=data.SEED,
        about=__doc__ or "",
        data={"exemplars": k, "activations": n, "d": d, "threshold": threshold, "prefilters agree": same},
        rows=rows,
    )


if __name__ == "__main__":
    main()
