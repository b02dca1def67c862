"""A long stream: ten million activations of width 576 read from disk, up to 20,000 exemplars, from the first row on.

Synthetic, as no text here gives so many: activations around 20,000 directions with a power-law spectrum, in families,
each met as often as Zipf's law has it, so that exemplars still appear after millions. Kept in bfloat16 in `cache/`
(11.5 GB, made once), read a batch of 16,256 at a time.

The cost model is 2 n K d operations a batch of n at the K there is, at the speed of a plain matrix product of the same
shapes (n x d by d x 20,000, in the arithmetic of the prefilter, nothing done with it), plus reading the file. Both are
measured in the same run, before the stream and after it. Memory is the growth of the resident set.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor

from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.nearest import ExemplarMatrix

from . import data
from .measure import Row, arguments, timed, write

D, THRESHOLD = 576, 0.62
TAIL = 0.5  # the growth exponent is that of this last part of the stream


class Mark(NamedTuple):
    """The state after so many activations. operations: 2 n K d of all batches so far."""

    rows: int
    k: int
    seconds: float
    operations: float
    resident_gb: float


def stream(rows: int, k: int) -> Path:
    """The file of activations, made if it is not there."""
    path = data.CACHE / f"long-{rows}-{k}-{D}.bf16"
    if not path.exists():
        data.CACHE.mkdir(exist_ok=True)
        rng = np.random.default_rng(data.SEED)
        e_kd = data.exemplars_in_families(rng, k, D)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            for start in range(0, rows, data.BATCH):
                x_nd = data.around(rng, e_kd, min(data.BATCH, rows - start), (0.72, 0.9))
                file.write(torch.from_numpy(x_nd).bfloat16().view(torch.int16).numpy().data)
        part.rename(path)
    return path


def batches(path: Path) -> Iterator[Tensor]:
    """All of the file, [n, d] in float32, a batch at a time."""
    with path.open("rb") as file:
        while len(held := np.fromfile(file, np.int16, data.BATCH * D)):
            yield torch.from_numpy(held).view(torch.bfloat16).view(-1, D).float()


def product_speed(k: int) -> float:
    """Operations a second of the plain matrix product."""
    dtype = getattr(torch, ExemplarMatrix(D).prefilter)
    a_nd, e_kd = torch.randn(data.BATCH, D).to(dtype), torch.randn(k, D).to(dtype)
    out_nk = torch.empty(data.BATCH, k, dtype=dtype)
    seconds = [timed(lambda: torch.mm(a_nd, e_kd.T, out=out_nk))[1] for _ in range(6)]
    return 2 * data.BATCH * k * D / statistics.median(seconds[1:])  # the first warms up


def clustered(path: Path) -> list[Mark]:
    """Cluster the file; the state after every batch."""
    process = psutil.Process()
    before = process.memory_info().rss
    clustering, marks, rows, operations = LeaderClustering(torch.zeros(D), THRESHOLD), list[Mark](), 0, 0.0
    begun = time.perf_counter()
    for x_nd in batches(path):
        clustering.add(x_nd)
        rows += len(x_nd)
        operations += 2.0 * len(x_nd) * clustering.k * D
        grown_gb = (process.memory_info().rss - before) / 1e9
        marks.append(Mark(rows, clustering.k, time.perf_counter() - begun, operations, grown_gb))
        if len(marks) % 50 == 0:
            print(f"  {marks[-1]}", flush=True)
    return marks


def growth(marks: list[Mark]) -> float:
    """a of K ~ N^a over the last part of the stream."""
    end = marks[-1]
    start = next(mark for mark in marks if mark.rows >= end.rows * TAIL)
    return float(np.log(end.k / start.k) / np.log(end.rows / start.rows))


def main() -> None:
    given = arguments(__doc__)
    rows, k = (500_000, 2_000) if given.quick else (10_000_000, 20_000)
    path = stream(rows, k)
    reading = timed(lambda: sum(len(x_nd) for x_nd in batches(path)))[1]
    speeds = [product_speed(k)]
    marks, seconds, others = timed(lambda: clustered(path))
    speeds.append(product_speed(k))
    speed = float(np.mean(speeds))
    found = []
    for share in (0.01, 0.1, 0.5, 1.0):
        mark = next(mark for mark in marks if mark.rows >= rows * share)
        model = mark.operations / speed + reading * share
        figures = {
            "K": mark.k,
            "seconds": round(mark.seconds, 1),
            "cost model, s": round(model, 1),
            "times the model": round(mark.seconds / model, 2),
            "memory beyond the start, GB": round(mark.resident_gb, 2),
        }
        found.append(Row(f"{mark.rows:,} activations", found=figures, target="<= 1.2 times" if share == 1 else None))
    speed_row = {
        "GFLOP/s of the plain product": [round(each / 1e9) for each in speeds],
        "GFLOP/s of the stream": round(marks[-1].operations / seconds / 1e9),
        "reading, s": round(reading, 1),
        "growth exponent, second half": round(growth(marks), 3),
        "cores that others used": round(others, 2),
    }
    write(
        "long",
        **data.stated(given, __doc__),
        data={"activations": rows, "directions": k, "d": D, "threshold": THRESHOLD},
        rows=[*found, Row("the whole stream", found=speed_row)],
    )


if __name__ == "__main__":
    main()
