"""Builds on 8, 64 and 1,024 workers, simulated from recorded growth: traffic, the owner's load, time.

Events, chunk by chunk, as `ray/build.py` has them: a worker holds three chunks at most, extracts one after
the other, is told what was born when it is given a chunk, and proposes the rows its snapshot does not cover; the
owner takes chunks one after the other in stream order, then workers count between two extractions. How many rows a
snapshot does not cover is the share of rows that founded exemplars when it was new: the slope of the recorded growth,
continued as a power law beyond it. What the owner needs for a chunk is measured here, on synthetic activations, in
processor seconds of one thread. Rates of extraction are given, not measured here.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exemplar_partitioning.demo.corpus import documents_of

from .data import BATCH
from .measure import Row, arguments, write

GROWTH = Path(__file__).parent.parent / "docs" / "results" / "smollm2.json"
CALIBRATION = 212_992  # activations that the owner clusters itself
DEPTH = 3
WORKERS = (8, 64, 1024)
WORKERS_PER_HOST = 8  # news goes to each host once


@dataclass(frozen=True)
class Growth:
    """Exemplars by activations: a power law through the end of what was recorded, k = k_end (n / n_end)^a."""

    n_end: float
    k_end: float
    a: float

    @classmethod
    def of(cls, recorded: list[tuple[int, int]]) -> Growth:
        """The exponent is that of the second half of the record, on logarithmic scales."""
        n, k = np.array(recorded, float).T
        late = n >= n[-1] / 2
        return cls(n[-1], k[-1], float(np.polyfit(np.log(n[late]), np.log(k[late]), 1)[0]))

    def k(self, n: float) -> float:
        return self.k_end * (max(n, 1.0) / self.n_end) ** self.a

    def unseen(self, n: float) -> float:
        """Share of further activations that found an exemplar."""
        return min(1.0, self.a * self.k(n) / max(n, 1.0))


@dataclass(frozen=True)
class Costs:
    """Seconds of the owner: for every chunk, its text included; for every row proposed; for every exemplar met."""

    chunk: float
    row: float
    count: float


@dataclass
class Outcome:
    """seconds: from the end of calibration.  owner: share of them it was at work.  bytes of all: to and from it."""

    seconds: float
    owner: float
    sent: float
    received: float
    lag: float
    proposed: float
    activations: float


def simulate(workers: int, rate: float, chunks: int, growth: Growth, d: int, costs: Costs) -> Outcome:
    """chunks: after calibration, dealt out in turn.  rate: activations a second that one worker extracts."""
    extract, hosts = BATCH / rate, -(-workers // WORKERS_PER_HOST)
    begun, done, decided = (np.zeros(chunks) for _ in range(3))  # extraction, extraction, decision of each chunk
    owner = busy = sent = received = lag = proposed = 0.0
    for i in range(chunks):
        given = _settled(i - DEPTH * workers, workers, begun, done, decided) if i >= DEPTH * workers else 0.0
        begun[i] = max(given, done[i - workers] if i >= workers else 0.0)
        done[i] = begun[i] + extract
        known = int(np.searchsorted(decided[:i], given, side="right"))
        rows = BATCH * growth.unseen(CALIBRATION + known * BATCH)
        k = growth.k(CALIBRATION + i * BATCH)
        born = growth.k(CALIBRATION + (i + 1) * BATCH) - k
        counted = min(k, BATCH)
        work = costs.chunk + costs.row * rows + costs.count * counted
        owner = max(owner, done[i]) + work
        decided[i] = owner
        busy += work
        lag += i - known
        proposed += rows
        received += rows * (4 * d + 8) + counted * 4
        sent += BATCH * 4 + born * (4 * d + 8) * hosts
    total = float(max(owner, done.max()))
    return Outcome(
        total, busy / total, sent, received, lag / chunks, proposed / chunks / BATCH, chunks * BATCH * d * 4.0
    )


def _settled(i: int, workers: int, begun: np.ndarray, done: np.ndarray, decided: np.ndarray) -> float:
    """When a worker has counted a chunk: after its decision, and after the extraction that is at work then."""
    at = float(decided[i])
    for later in range(i + workers, i + DEPTH * workers, workers):
        if begun[later] < at < done[later]:
            at = float(done[later])
    return at


def measured(d: int, k: int) -> Costs:
    """What a chunk costs the owner, each proposed row becoming an exemplar: a fit over several sizes."""
    import torch

    from exemplar_partitioning.building.growing import Growing
    from exemplar_partitioning.building.settings import BuildSettings
    from exemplar_partitioning.core.leader import LeaderClustering
    from exemplar_partitioning.ray.deciding import Ahead, settle
    from exemplar_partitioning.ray.wire import Proposal, Segment
    from exemplar_partitioning.stream import Chunk
    from exemplar_partitioning.text.windows import Window

    rng = np.random.default_rng(0)
    window = np.ones(BATCH // 128, np.int32)
    chunk = Chunk([Window("a", 0, window, 0) for _ in range(128)], frozenset(), 0, 0, "", None)
    settings = BuildSettings.model_construct(saturation_window=10**9, until_unseen=None)
    clustering = LeaderClustering(torch.zeros(d), 0.6)
    e_kd = rng.normal(size=(k, d)).astype(np.float32)
    e_kd /= np.linalg.norm(e_kd, axis=1, keepdims=True)
    zero = np.zeros(k, np.int64)
    clustering.restore(torch.from_numpy(e_kd), zero, zero, zero - 1, position=0, skipped=0)
    growing = Growing("a", 1.0, clustering, settings)
    ahead = Ahead.of(growing, "cpu")
    terms, seconds = [], []
    for _ in range(24):
        rows, counted = int(rng.choice([10, 100, 400])), int(rng.choice([100, 1000, k]))
        at = np.sort(rng.choice(len(chunk.kept), rows, replace=False)).astype(np.int32)
        x_rd = rng.normal(size=(rows, d)).astype(np.float32)
        every = np.arange(rows, dtype=np.int32)
        proposal = Proposal({"a": at}, {"a": x_rd}, {"a": at[:0]}, [ahead.clustering.k], [every])
        ids_n = rng.integers(0, counted, len(chunk.kept))
        begun = time.process_time()
        decision = ahead.decide(chunk, proposal, 0)
        pause = time.process_time()
        segments = [
            Segment.of(ids_n[a:b], ids_n[a:b] < 0) for a, b in zip([0, *decision.cuts[:-1]], decision.cuts, strict=True)
        ]
        resumed = time.process_time()
        settle(growing, decision, segments, at[:0], "")
        growing.stopped = ahead.stopped = None
        terms.append((1.0, rows, counted))
        seconds.append(pause - begun + time.process_time() - resumed)
    found = np.linalg.lstsq(np.array(terms)[4:], np.array(seconds)[4:])[0]  # the first turns warm up
    chunk_s, row_s, count_s = np.maximum(found, 0.0).tolist()
    return Costs(chunk_s + reading(), row_s, count_s)


def reading() -> float:
    """Seconds to read, tokenise and cut a chunk of the packaged text."""
    from exemplar_partitioning.folder.schema import TextRecord
    from exemplar_partitioning.models.load import load_model
    from exemplar_partitioning.stream import text_chunks

    loaded = load_model("smollm2-135m-instruct", device="cpu")
    windowing = TextRecord(source="", context_size=128, prepend_bos=True, bos_id=1, shuffle_buffer=0, seed=0, digest="")
    chunks = text_chunks(documents_of(None, field="text"), loaded, windowing, 10**9)
    next(chunks)
    begun = time.process_time()
    read = [len(next(chunks).kept) for _ in range(6)]
    return (time.process_time() - begun) / sum(read) * BATCH


def rows_of(growth: Growth, rate: float, what: str, tokens: float, d: int, costs: Costs) -> list[Row]:
    chunks, rows = round(tokens / BATCH), []
    for workers in WORKERS:
        out = simulate(workers, rate, chunks, growth, d, costs)
        ideal = chunks * BATCH / rate / workers
        found = {
            "hours": out.seconds / 3600,
            "efficiency": f"{ideal / out.seconds:.1%}",
            "owner at work": f"{out.owner:.2%}",
            "traffic of activations": f"{(out.sent + out.received) / out.activations:.2%}",
            "MB/s at the owner": (out.sent + out.received) / out.seconds / 1e6,
            "mean lag, chunks": out.lag,
            "rows proposed": f"{out.proposed:.3%}",
        }
        rows.append(Row(f"{what}, {workers:,} workers", found=found))
    return rows


def main() -> None:
    given = arguments(__doc__)
    d, k = 576, 3000
    costs = measured(d, k)
    recorded = json.loads(GROWTH.read_text())["dictionaries"][0]["build"]["growth"]
    smollm2 = Growth.of([(n, k) for n, k in recorded])
    # gemma-3-270m block 12 at p = 1: the steepest that was recorded, to 203,200 activations
    gemma = Growth.of([(12_700, 1297), (25_400, 2122), (50_800, 3423), (101_600, 5236), (203_200, 7797)])
    about = f"{costs.chunk * 1e3:.2f} ms a chunk + {costs.row * 1e6:.0f} us a row + {costs.count * 1e9:.0f} ns a count"
    rows = [
        Row("the owner's costs, d = 576, K = 3,000", found={"processor time": about}),
        Row("growth", found={"SmolLM2 exponent": smollm2.a, "Gemma exponent": gemma.a}),
    ]
    for name, growth in (("SmolLM2", smollm2), ("Gemma", gemma)):
        rows += rows_of(growth, 740, f"{name}, 740 activations/s a worker", 1e8, d, costs)
        rows += rows_of(growth, 200_000, f"{name}, 200,000 activations/s a worker", 1e9, d, costs)
    data = {"activations a chunk": BATCH, "depth": DEPTH, "workers a host": WORKERS_PER_HOST, "p": 1}
    write("scaling", quick=given.quick, seed=0, about=__doc__ or "", data=data, rows=rows)


if __name__ == "__main__":
    main()
