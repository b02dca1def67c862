"""Builds on a Ray cluster: the same bytes for any number of workers, what the owner sends and gets, and what it costs.

SmolLM2 block 15, packaged text, every process with one thread. The cluster is one in this machine, so eight workers
share its cores: only bytes are compared there. Traffic is counted after calibration, at p = 1 alone, apart from the
exemplars that every worker is told of once when it joins, which the length of a stream does not change. The lag is
measured without Ray, on the cached activations: rows that a snapshot of so many chunks ago does not cover. Overhead
compares builds on two cores: two workers of one thread each with one process of two threads, two lengths, as what it
takes to start does not grow. Processor seconds of all processes stand beside the times.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from .data import BATCH, CACHED_BATCHES, activations, text_name
from .interrupted import digest
from .measure import Row, Samples, arguments, kept_rows, timed, write

LAGS = (0, 1, 3, 8)  # chunks; older than half the stream there would be nothing to know


@dataclass
class Ran:
    """A build: its folder's digest, what build.json says, processor seconds of it and all its children."""

    sha256: str
    record: dict[str, Any]
    cpu: float
    kills: int = 0


def build(
    tokens: int,
    percentile: str,
    sample: int,
    *more: str,
    threads: int = 1,
    kills: int = 0,
    cores: list[int] | None = None,
) -> Ran:
    """Run `ep build` into a folder that is removed, on all cores or some, and kill some of its workers on the way."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "exemplar_partitioning", "build", "--no-annotate", "--threads", str(threads)]
        command += ["--percentile", percentile, "--max-tokens", str(tokens), "--calibration-sample", str(sample)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        begun = _children_cpu()
        process = psutil.Popen(
            [*command, "--out", str(out), *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        if cores is not None:
            process.cpu_affinity(cores)
        watch = Watch(process, kills)
        watch.start()
        assert process.wait() == 0, command
        watch.join()
        record = json.loads((out / "build.json").read_text())
        own = _children_cpu() - begun
        return Ran(digest(out), record, max(own, watch.cpu), watch.killed)


def _children_cpu() -> float:
    times = psutil.Process().cpu_times()
    return times.children_user + times.children_system


class Watch(threading.Thread):
    """Adds up what a process and its descendants use, and kills workers among them every now and then."""

    def __init__(self, process: psutil.Process, kills: int):
        super().__init__(daemon=True)
        self.process, self.left, self.killed = process, kills, 0
        self._used: dict[int, float] = {}
        self._rng = random.Random(0)

    @property
    def cpu(self) -> float:
        return sum(self._used.values())

    def run(self) -> None:
        due = time.monotonic() + 20
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            try:
                there = [self.process, *self.process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for one in there:
                try:
                    times = one.cpu_times()
                    self._used[one.pid] = times.user + times.system
                except psutil.NoSuchProcess:
                    continue
            workers = [one for one in there if one.is_running() and _name(one).startswith("ray::BuildW")]
            if self.left and workers and time.monotonic() > due:
                self._rng.choice(workers).kill()
                self.left, self.killed = self.left - 1, self.killed + 1
                due = time.monotonic() + self._rng.uniform(3, 15)
            time.sleep(0.2)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def identity(quick: bool) -> Iterator[Row]:
    """One process, then 1, 2, 4 and 8 workers, then with kills: the digest of all files of each."""
    tokens = 34_000 if quick else 50_000
    given = tokens, "1,4", 16_384
    alone = build(*given)
    yield Row("one process", found={"sha256": alone.sha256, "tokens": tokens})
    for workers, kills in ((1, 0), (2, 0), (4, 0), (8, 0), (2, 3), (8, 4)):
        ran = build(*given, "--ray", "local", "--workers", str(workers), kills=kills)
        what = f"{workers} worker{'s' * (workers > 1)}" + f", {ran.kills} killed" * bool(kills)
        yield Row(what, found={"sha256": ran.sha256}, target="the same sha256")
        assert ran.sha256 == alone.sha256, "the builds differ"


def traffic(quick: bool) -> Iterator[Row]:
    """What the owner sent and got after calibration, by the activations there were."""
    tokens, sample, workers = (70_000, 32_768, 2) if quick else (320_000, 212_992, 2)
    said = build(tokens, "1", sample, "--ray", "local", "--workers", str(workers)).record["ray"]
    sent = said["sent"] - said["introductions"]
    found = {
        "owner's traffic, share of activations' bytes": f"{(sent + said['received']) / said['activations']:.2%}",
        "sent": f"{sent / said['activations']:.2%}",
        "received": f"{said['received'] / said['activations']:.2%}",
        "sent to each worker as it joined, MB": said["introductions"] / workers / 1e6,
        "rows proposed": f"{said['proposed'] / said['rows']:.2%}",
        "mean lag, chunks": said["lag"] / said["chunks"],
        "owner's seconds at work a chunk": said["seconds"] / said["chunks"],
    }
    yield Row(f"p = 1, {said['rows']:,} activations after {sample:,}, {workers} workers", found=found, target="<= 2%")


def lag(quick: bool) -> Iterator[Row]:
    """Rows of real activations that snapshots of some age do not cover, in the second half of the stream."""
    import torch

    from exemplar_partitioning.core.dictionary import Dictionary
    from exemplar_partitioning.core.leader import LeaderClustering

    from .clustering import settled

    batches = 4 if quick else CACHED_BATCHES
    center, thresholds = settled(min(batches, 13))
    x_nd = torch.from_numpy(activations(batches * BATCH))
    clustering, ks = LeaderClustering(torch.from_numpy(center), thresholds[1.0]), [0]
    for start in range(0, len(x_nd), BATCH):
        clustering.add(x_nd[start : start + BATCH])
        ks.append(clustering.k)
    chunks = range(batches // 2, batches)
    for old in LAGS:
        proposed = 0
        for chunk in chunks:
            known = clustering.exemplars[: ks[max(chunk - old, 0)]].clone()
            snapshot = Dictionary(clustering.center, known, clustering.threshold)
            _, distances = snapshot.assign(x_nd[chunk * BATCH : (chunk + 1) * BATCH])
            proposed += int((distances > clustering.threshold).sum())
        share = proposed / (len(chunks) * BATCH)
        found = {
            "rows proposed": f"{share:.3%}",
            "became exemplars": f"{(ks[-1] - ks[chunks[0]]) / len(chunks) / BATCH:.3%}",
        }
        yield Row(f"p = 1, activations {chunks[0] * BATCH:,} on, snapshot {old} chunks old", found=found)


def overhead(quick: bool) -> Iterator[Row]:
    """Whole builds in turn: one process beside two workers on the same cores. `textbook` is one process here."""
    workers = 2
    sides = {"one process": ((), workers), "workers": (("--ray", "local", "--workers", str(workers)), 1)}
    for tokens, turns in [(34_000, 1)] if quick else [(120_000, 2), (240_000, 1)]:
        samples, cpu = {name: Samples([], []) for name in sides}, dict[str, float]()
        for name, (more, threads) in [*sides.items()] * turns:
            given = partial(build, tokens, "1", 16_384, *more, threads=threads, cores=list(range(workers)))
            ran, seconds, others = timed(given)
            cpu[name] = round(ran.cpu, 1)
            samples[name].seconds.append(seconds)
            samples[name].others.append(max(0.0, others - ran.cpu / seconds))
            print(f"  {name}: {seconds:.1f} s", flush=True)
        yield Row(
            f"{tokens:,} tokens: {workers} workers of 1 thread, and one process of {workers}",
            ours=samples["workers"],
            textbook=samples["one process"],
            target=">= 0.91x: 10% slower at most",
            found={f"processor s, {name}": seconds for name, seconds in cpu.items()},
        )


PARTS = {part.__name__: part for part in (identity, traffic, lag, overhead)}


def main() -> None:
    given = arguments(__doc__, tuple(PARTS))
    data = {"text": "packaged text; lag: " + text_name()}
    rows = kept_rows("ray", given.parts, quick=given.quick)
    for name in given.parts or PARTS:
        for row in PARTS[name](given.quick):
            rows.append(replace(row, what=f"{name}: {row.what}"))
            write("ray", quick=given.quick, seed=0, about=__doc__ or "", data=data, rows=rows)


if __name__ == "__main__":
    main()
