"""Stages of `make demo`: where the seconds of a build that ends annotated go, and of the look at it.

SmolLM2 in fp32 at the default site and percentiles, 120,000 tokens of packaged text, in a process of its own from its
start to its last file; then `ep show`. A stage is charged what it takes itself, less the stages within it: by the
clock, and of all processors. What a separate annotation of the same tokens would add is counted, not run: it
loads, reads, and extracts again.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import psutil

from . import data
from .measure import Row, Samples, alone, arguments, write

START, REST = "start and imports", "checkpoints, writing and all else"
LOAD, TOKENISE, EXTRACT = "load and try the model", "read and tokenise", "extract"
AGAIN = (LOAD, TOKENISE, EXTRACT)
# Where each stage is called, in modules of the package.
CALLS = {
    LOAD: (
        "building.run:outline",
        "building.run:load_model",
        "building.run:check_context",
        "annotating.reader:_loaded",
    ),
    EXTRACT: ("stream:extract",),
    "calibrate": ("building.run:calibrate",),
    "cluster": ("building.growing:feed",),
    "activations to disk and back": ("folder.activations:Spill.append", "folder.activations:Kept.read"),
    "annotate: assign, and gather evidence": ("annotating.gather:Gathered.add",),
    "annotate: logit lens": ("annotating.tables:Tables._lens",),
    "annotate: metrics and their nulls": ("annotating.run:quality",),
    "annotate: tables of regions": ("annotating.tables:Tables.regions",),
}
STREAMS = {
    TOKENISE: ("building.run:text_chunks", "annotating.reader:text_chunks"),
    "annotate: examples": ("annotating.tables:Tables.examples",),
}


class Stages:
    """Seconds of each stage, by the clock and of the processor; what runs within another is not counted twice."""

    def __init__(self) -> None:
        begun = time.time() - psutil.Process().create_time()
        self.seconds: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._inside, self._marks = [START], (time.perf_counter() - begun, 0.0)

    def _charge(self) -> None:
        marks = time.perf_counter(), time.process_time()
        for i in range(2):
            self.seconds[self._inside[-1]][i] += marks[i] - self._marks[i]
        self._marks = marks

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        self._charge()
        self._inside.append(stage)
        try:
            yield
        finally:
            self._charge()
            self._inside.pop()

    def watch(self) -> None:
        """Charge the calls of every stage from here on."""
        for calls, timed in ((CALLS, self._call), (STREAMS, self._stream)):
            for stage, places in calls.items():
                for place in places:
                    module, _, name = place.partition(":")
                    *classes, name = name.split(".")
                    owner = importlib.import_module(f"exemplar_partitioning.{module}")
                    for each in classes:
                        owner = getattr(owner, each)
                    plain = owner.__dict__[name]
                    if isinstance(plain, property):
                        setattr(owner, name, property(timed(stage, plain.fget)))
                    else:
                        setattr(owner, name, timed(stage, plain))

    def _call(self, stage: str, work: Any) -> Any:
        @wraps(work)
        def timed(*given: Any, **named: Any) -> Any:
            with self.of(stage):
                return work(*given, **named)

        return timed

    def _stream(self, stage: str, work: Any) -> Any:
        @wraps(work)
        def timed(*given: Any, **named: Any) -> Iterator[Any]:
            stream = work(*given, **named)
            while True:
                with self.of(stage):
                    item = next(stream, None)
                if item is None:
                    return
                yield item

        return timed


def prepare(tokens: int) -> Callable[[], dict[str, list[float]]]:
    return partial(demo, tokens)


def demo(tokens: int) -> dict[str, list[float]]:
    """Seconds by the clock and of the processor, by stage."""
    stages = Stages()
    from exemplar_partitioning.api import build

    stages.watch()
    with tempfile.TemporaryDirectory() as folder, stages.of(REST):
        build(out=Path(folder) / "demo", max_tokens=tokens, annotate=True)
        shown, before = time.perf_counter(), psutil.Process().cpu_times()
        show = ["-c", "from exemplar_partitioning.cli import main; main()", "show", f"{folder}/demo"]
        subprocess.run([sys.executable, *show], check=True, stdout=subprocess.DEVNULL)
        after = psutil.Process().cpu_times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        shown = time.perf_counter() - shown
    seconds = {stage: list(both) for stage, both in stages.seconds.items()}
    seconds[REST][0] -= shown
    return seconds | {"ep show": [shown, spent]}


def main() -> None:
    given = arguments(__doc__)
    tokens = 4_000 if given.quick else 120_000
    run = alone(prepare, tokens=tokens)
    seconds: dict[str, list[float]] = run.result
    clock, processor = (sum(both[i] for both in seconds.values()) for i in range(2))
    again = sum(seconds[stage][1] for stage in AGAIN)
    rows = [
        Row(
            "all",
            Samples([clock], [run.others]),
            target="at most .65 of a build and an annotation apart",
            found={"processor s": round(processor, 2), "of the two apart": round(processor / (processor + again), 3)},
        )
    ]
    for stage, (by_clock, spent) in sorted(seconds.items(), key=lambda item: -item[1][1]):
        found = {"processor s": round(spent, 2), "share": round(spent / processor, 4)}
        rows.append(Row(stage, Samples([by_clock], [run.others]), found=found))
    write("stages", **data.stated(given, __doc__), data={"text": "packaged text", "tokens": tokens}, rows=rows)


if __name__ == "__main__":
    main()
