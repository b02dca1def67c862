"""kill -9 in a Ray cluster here: of workers at random instants, of the process that decides, of Ray's server.

Workers that die leave no trace in what is built; without the other two the same command goes on, with --resume.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import psutil

import exemplar_partitioning as ep
from building.test_build import LONG
from conftest import tree
from exemplar_partitioning.errors import EPError

from .pool import SAME, WRONG

Outcome = tuple[str, str]
SECONDS = 900  # of one command; beyond, it hangs
_LINE = (
    *("--site", "resid_post.0,resid_post.1", "--percentile", "2,8", "--calibration-batch", "500", "--no-annotate"),
    *("--calibration-sample", "2000", "--saturation-window", "10000000", "--threads", "1"),
    *("--checkpoint-seconds", "0"),
)
_OPTIONS: dict[str, Any] = LONG | {"max_tokens": 60_000, "saturation_window": 10**7}


@contextmanager
def cluster() -> Iterator[None]:
    """Room for eight workers in this machine."""
    import ray

    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def workers(model: Path, text: Path, folder: Path, count: int, kills: int) -> Iterator[Outcome]:
    """So many kills of one of so many workers, over as many builds as it takes."""
    if not (folder / "alone").exists():
        ep.build(str(model), [text], out=folder / "alone", **_OPTIONS)
    expected, done, builds = tree(folder / "alone"), 0, itertools.count()  # a build may end before a worker is killed
    with cluster():
        while done < kills:
            build = next(builds)
            out, killer = folder / f"workers-{count}-{build}", _Killer(Random(f"{count} {build}"), kills - done)
            try:
                ep.build(str(model), [text], out=out, ray="auto", workers=count, on_event=killer.progressed, **_OPTIONS)
                kind, said = (SAME, "") if tree(out) == expected else (WRONG, "other bytes")
            except EPError as error:
                kind, said = WRONG, str(error)
            done += (killed := max(killer.done, kind == WRONG))
            yield from [(kind, f"{count} workers: {said}")] * killed


class _Killer:
    """Kills a worker some time after each progress that follows a kill."""

    def __init__(self, rng: Random, most: int):
        self.rng, self.most, self.done, self._timer = rng, most, 0, None

    def progressed(self, event: Any) -> None:
        if event.kind == "progress" and self.done < self.most and not (self._timer and self._timer.is_alive()):
            self._timer = threading.Timer(self.rng.uniform(0, 2), self._kill)
            self._timer.start()

    def _kill(self) -> None:
        there = _named("ray::BuildW")
        with suppress(psutil.NoSuchProcess, IndexError):
            self.rng.choice(there).kill()
            self.done += 1


def _named(name: str, of: int | None = None) -> list[psutil.Process]:
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(of).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [process] if process.name().startswith(name) else []
    return found


def resumed(model: Path, text: Path, folder: Path, name: str) -> Outcome:
    """The process that decides (no name), or one of Ray's, is killed after a checkpoint; then --resume."""
    tokens = "150000" if name else "40000"  # a build goes on without the server for a while, and must not end so soon
    line = ["build", str(model), str(text), *_LINE, "--max-tokens", tokens, "--out"]
    ended = [_start(folder, *line, str(folder / f"alone-{tokens}")).wait(SECONDS)]
    out, more = folder / f"without-{name}", ("--ray", "local", "--workers", "2", "--resume")
    process = _start(folder, *line, str(out), *more)
    while not list(out.glob(".build/checkpoint-*")) and process.poll() is None:
        time.sleep(0.05)
    for each in _named(name, process.pid) if name else [psutil.Process(process.pid)]:
        each.kill()
    ended.append(process.wait(SECONDS))
    said = (folder / "said.txt").read_text()
    if name and (ended[1] != 4 or "Ray cluster is gone" not in said or "Traceback" in said):
        return WRONG, f"{name} killed: exit code {ended[1]}: {said[-300:]}"
    ended.append(_start(folder, *line, str(out), *more).wait(SECONDS))
    if ended[0] or ended[2] or tree(out) != tree(folder / f"alone-{tokens}"):
        return WRONG, f"{name or 'owner'} killed, then resumed: exit codes {ended}"
    return SAME, ""


def _start(folder: Path, *line: str) -> subprocess.Popen[bytes]:
    with (folder / "said.txt").open("w") as file:
        whole = (sys.executable, "-m", "exemplar_partitioning", *line)
        return subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=file)
