"""Long runs: memory and file descriptors that must not grow with what is done.

A build of a tiny random model over millions of tokens, a region's members assigned from a file on disk that is larger
than memory need be, thousands of requests to the explorer, and a dictionary of many regions written and read. Small
models and widths, as it is not speed that is looked at: memory and descriptors along the way. Memory is the resident
set without mapped files, whose pages the system takes back when it needs room.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil

from .measure import Row, arguments, kept_rows, write

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]
MARKS = (0.1, 0.5, 1.0)


class Watch:
    """Resident set without mapped files, and descriptors, of this process at shares of the whole."""

    def __init__(self, whole: int):
        self.whole, self.process, self.marks = whole, psutil.Process(), dict[str, str]()

    def at(self, done: int) -> None:
        for share in MARKS:
            if done >= share * self.whole and f"{share:.0%}" not in self.marks:
                memory = (
                    self.process.memory_info()
                )  # pages of mapped files are the disk's, and go when others need room
                own = (memory.rss - memory.shared) / 1e6
                self.marks[f"{share:.0%}"] = f"{own:,.0f} MB, {self.process.num_fds()} descriptors"


def build(folder: Path, quick: bool) -> Iterator[Row]:
    import exemplar_partitioning as ep
    from conftest import sentences, tiny_llama

    tokens = 100_000 if quick else 5_000_000
    documents = sentences(4000, seed=1)
    watch, rng = Watch(tokens), Random(0)

    def texts() -> Iterator[str]:
        while True:
            yield " ".join(rng.choices(documents, k=5))

    options: dict[str, Any] = {"percentiles": (5,), "calibration_sample": 16_384, "saturation_window": 10**9}
    begun = time.process_time()
    result = ep.build(
        str(tiny_llama(folder / "tiny")),
        texts(),
        out=folder / "out",
        sites="resid_post.1",
        max_tokens=tokens,
        on_event=lambda event: watch.at(getattr(event, "tokens", 0)),
        **options,
    )
    watch.at(tokens)
    (made,) = result.dictionaries
    seconds = round(time.process_time() - begun, 1)
    yield Row(f"{tokens:,} tokens of a tiny model", found=watch.marks | {"K": made.k, "processor s": seconds})


def assign(folder: Path, quick: bool) -> Iterator[Row]:
    import torch

    from exemplar_partitioning.core.dictionary import Dictionary

    rows, d, k, step = (200_000 if quick else 10_000_000), 32, 500, 1 << 16
    rng = np.random.default_rng(0)
    held = np.memmap(folder / "rows.f32", np.float32, "w+", shape=(rows, d))
    for start in range(0, rows, step):
        held[start : start + step] = rng.standard_normal((min(step, rows - start), d), dtype=np.float32)
    held.flush()
    del held
    e_kd = torch.nn.functional.normalize(torch.randn(k, d, generator=torch.Generator().manual_seed(0)), dim=1)
    dictionary = Dictionary(torch.zeros(d), e_kd, 0.5)
    given, watch, total = np.memmap(folder / "rows.f32", np.float32, "r", shape=(rows, d)), Watch(rows), 0
    for start in range(0, rows, rows // 10):
        ids_n, _ = dictionary.assign(given[start : start + rows // 10])
        total += len(ids_n)
        watch.at(start + rows // 10)
    begun = time.process_time()
    ids_n, distance_n = dictionary.assign(given)
    own = psutil.Process().memory_info()
    last = f"{(own.rss - own.shared - ids_n.nbytes - distance_n.nbytes) / 1e6:,.0f} MB"
    watch.marks |= {
        "all in one call, beside what it returns": last,
        "processor s": f"{time.process_time() - begun:.0f}",
    }
    del given
    (folder / "rows.f32").unlink()
    yield Row(f"{total:,} rows of d = {d} from a memmap, ten calls, K = {k}", found=watch.marks)


def explorer(folder: Path, quick: bool) -> Iterator[Row]:
    from annotated import annotated
    from explorer_site import request, served

    annotated(folder / "build", k=300, percentiles=(2, 8))
    count, rng = 200 if quick else 10_000, Random(0)
    watch = Watch(count)
    key = "/api/dictionaries/resid_post.1-p2"
    places = ("/api/dictionaries", key, f"{key}/regions?q=dog", f"{key}/regions?sort=size", f"{key}/regions/%d")
    with served(folder / "build") as address:
        statuses = set()
        for done in range(1, count + 1):
            place = rng.choice(places)
            statuses.add(request(address + (place % rng.randrange(300) if "%d" in place else place))[0])
            watch.at(done)
    yield Row(f"{count:,} requests to the explorer", found=watch.marks | {"statuses": sorted(statuses)})


def large(folder: Path, quick: bool) -> Iterator[Row]:
    from annotated import annotated
    from exemplar_partitioning.folder.dictionary import load

    k, found = 2_000 if quick else 50_000, dict[str, Any]()
    for what, work in (
        ("made and saved", lambda: annotated(folder / "large", k=k, d=64, percentiles=(2,), annotate=False)),
        ("loaded, with its table", lambda: load(folder / "large").regions),
    ):
        begun = time.process_time()
        work()
        found[f"{what}, processor s"] = round(time.process_time() - begun, 2)
    found["resident"] = f"{psutil.Process().memory_info().rss / 1e6:,.0f} MB"
    yield Row(f"K = {k:,}, d = 64", found=found)


PARTS = {part.__name__: part for part in (build, assign, explorer, large)}


def main() -> None:
    given = arguments(__doc__, tuple(PARTS))
    rows = kept_rows("lasting", [f"{part}:" for part in given.parts], quick=given.quick)
    for name in given.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            for row in PARTS[name](Path(folder), given.quick):
                rows.append(Row(f"{name}: {row.what}", found=row.found))
                write("lasting", quick=given.quick, seed=0, about=__doc__ or "", data={}, rows=rows)
    print(json.dumps([row.found for row in rows]))


if __name__ == "__main__":
    main()
