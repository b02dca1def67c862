"""Clustering: 406,400 real activations (d = 576) in batches of 16,256, at three resolutions.

Both sides get the same centre and threshold. The textbook gathers member statistics as it goes, which ours
does in a pass of its own over the frozen exemplars; so beside the main ratio there is one with the
textbook's statistics left out of its time, and one with that pass added to ours.

The exemplars must be the same rows of the stream. The assignments need not: the textbook's depend on the
batch (a row matched by an old region never sees those born in its own batch), ours do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from exemplar_partitioning.core.calibration import calibrate
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.leader import LeaderClustering

from . import data, textbook
from .measure import Row, alternate, arguments, peak_memory, timed, write

PERCENTILES = (1.0, 4.0, 10.0)
CALIBRATION_BATCHES = 13


def settled(batches: int) -> tuple[np.ndarray, dict[float, float]]:
    """Centre [d] and thresholds for the cached activations, by our calibration; kept beside them."""
    batches = min(batches, CALIBRATION_BATCHES)
    x_nd = data.activations(batches * data.BATCH)
    path = data.CACHE / f"calibration-{data.digest(x_nd)}.json"
    if not path.exists():
        found = calibrate(torch.from_numpy(x_nd).split(data.BATCH), PERCENTILES)
        path.write_text(json.dumps([found.center.tolist(), list(found.thresholds.items())]))
    center, thresholds = json.loads(path.read_text())
    return np.array(center, np.float32), dict(map(tuple, thresholds))


def cluster(
    x_nd: np.ndarray,
    center_d: np.ndarray,
    threshold: float,
    prefilter: Any = None,
    batch: int = data.BATCH,
) -> tuple[LeaderClustering, np.ndarray]:
    """Our engine: the clustering, and the exemplar each row arrived at."""
    clustering = LeaderClustering(torch.from_numpy(center_d), threshold, prefilter=prefilter)
    ids = [clustering.add(part) for part in torch.from_numpy(x_nd).split(batch)]
    return clustering, torch.cat(ids).numpy()


def by_the_book(
    x_nd: np.ndarray, center_d: np.ndarray, threshold: float, batch: int = data.BATCH
) -> tuple[textbook.Clustering, np.ndarray]:
    clustering = textbook.Clustering(center_d, threshold)
    ids = [clustering.add_batch(x_nd[start : start + batch]) for start in range(0, len(x_nd), batch)]
    return clustering, np.concatenate(ids)


def prepare(side: str, n: int, percentile: float) -> Callable[[], Any]:
    center_d, thresholds = settled(n // data.BATCH)
    x_nd = data.activations(n)
    work = cluster if side == "ours" else by_the_book
    return lambda: work(x_nd, center_d, thresholds[percentile])


def compare(mine: LeaderClustering, theirs: textbook.Clustering) -> dict[str, Any]:
    """How the two sequences of exemplars differ."""
    a, b = mine.births.tolist(), theirs.births
    if a == b:
        return {"exemplars": "same rows"}
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return {
        "exemplars": f"{len(set(a) - set(b))} rows only ours, {len(set(b) - set(a))} only textbook's, "
        f"same up to region {first:,}"
    }


def main() -> None:
    given = arguments(__doc__)
    batches, turns = (3, 1) if given.quick else (data.CACHED_BATCHES, 3)
    n = batches * data.BATCH
    center_d, thresholds = settled(batches)
    x_nd = data.activations(n)
    rows = []
    for percentile in PERCENTILES:
        threshold = thresholds[percentile]
        print(f"p = {percentile:g}, threshold {threshold:.4f}")
        sides = {
            "textbook": lambda: by_the_book(x_nd, center_d, threshold),  # noqa: B023
            "ours": lambda: cluster(x_nd, center_d, threshold),  # noqa: B023
        }
        if percentile == 1:
            sides["ours, float32"] = lambda: cluster(x_nd, center_d, threshold, "float32")  # noqa: B023
        times, results = alternate(sides, turns)
        (mine, my_ids), (theirs, their_ids) = results["ours"], results["textbook"]
        dictionary = Dictionary(mine.center, mine.exemplars, threshold)
        _, members_seconds, _ = timed(lambda: dictionary.members(x_nd))  # noqa: B023
        ours, book = times["ours"], times["textbook"]
        rows.append(
            Row(
                f"p = {percentile:g}, K = {mine.k:,}",
                ours,
                book,
                target=">= 5x, >= 140k activations/s, <= 0.5 GB" if percentile == 1 else None,
                memory_ours=peak_memory(prepare, side="ours", n=n, percentile=percentile),
                memory_textbook=peak_memory(prepare, side="textbook", n=n, percentile=percentile),
                found={
                    "activations/s ours": round(n / ours.median),
                    "activations/s textbook": round(n / book.median),
                    **compare(mine, theirs),
                    "assignments that differ": f"{(my_ids != their_ids).mean():.2%}",
                    "ratio, textbook without its statistics": round(
                        (book.median - theirs.seconds_statistics) / ours.median, 2
                    ),
                    "ratio, ours with its statistics pass": round(book.median / (ours.median + members_seconds), 2),
                },
            )
        )
        if "ours, float32" in times:
            same = np.array_equal(results["ours, float32"][1], my_ids)
            rows.append(
                Row(
                    f"p = {percentile:g}, prefilter float32",
                    times["ours, float32"],
                    book,
                    found={"result": "identical" if same else "DIFFERS"},
                )
            )
    write(
        "clustering",
        **data.stated(given, __doc__),
        data={
            **data.described(x_nd),
            "batch": data.BATCH,
            "thresholds": {f"{p:g}": thresholds[p] for p in PERCENTILES},
        },
        rows=rows,
    )


if __name__ == "__main__":
    main()
