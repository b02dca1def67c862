"""kill -9 in a Ray cluster here: of workers at random instants, of the process that decides, of Ray's server.

Workers that die leave no trace in what is built; without the other two the same command goes on, with --resume.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil

from conftest import tree

from .pool import SAME, WRONG

Outcome = tuple[str, str]
SECONDS = 1200  # of one build; beyond, it hangs
_OPTIONS = (
    *("--site", "resid_post.0,resid_post.1", "--percentile", "2,8", "--calibration-batch", "2000", "--no-annotate"),
    *("--calibration-sample", "20000", "--saturation-window", "10000000", "--threads", "1"),
    *("--checkpoint-seconds", "1"),
)


class Cluster:
    """One build, alone and on workers."""

    def __init__(self, model: Path, text: Path, folder: Path, tokens: int):
        self.folder, self._said = folder, folder / "said.txt"
        self.line = ("build", str(model), str(text), *_OPTIONS, "--max-tokens", str(tokens))
        out = folder / "alone"
        assert self._start(out).wait() == 0
        self.expected = tree(out)

    def workers(self, count: int, kills: int, seed: int) -> Iterator[Outcome]:
        """So many kills of one of so many workers, over as many builds as it takes."""
        rng, done, turn = Random(seed), 0, 0
        while done < kills:
            out = self.folder / f"workers-{count}-{turn}"
            process = self._start(out, "--ray", "local", "--workers", str(count))
            killed = self._kill(process, "ray::BuildW", kills - done, lambda: rng.uniform(0.5, 20))
            kind, said = self._ended(process, out)
            yield from [(kind, f"{count} workers, {said}")] * (killed or kind == WRONG)
            done, turn = done + killed, turn + 1

    def owner(self, name: str, after: float) -> Outcome:
        """The process that decides (no name), or one of Ray's, is killed; then the same with --resume."""
        out = self.folder / f"owner-{name}-{after}"
        more = ("--ray", "local", "--workers", "2", "--resume")
        process = self._start(out, *more)
        while not list(out.glob(".build/checkpoint-*")) and process.poll() is None:
            time.sleep(0.1)
        if name:
            assert self._kill(process, name, 1, lambda: after), "it had ended before"
            process.wait(SECONDS)
            said = self._said.read_text()
            if process.returncode != 4 or "Ray cluster is gone" not in said or "Traceback" in said:
                return WRONG, f"{name} killed: exit code {process.returncode}: {said[-300:]}"
        else:
            time.sleep(after)
            process.kill()
            process.wait()
        kind, said = self._ended(self._start(out, *more), out)
        return kind, f"{name or 'owner'} killed, then resumed: {said}"

    def _start(self, out: Path, *more: str) -> subprocess.Popen[bytes]:
        line = (sys.executable, "-m", "exemplar_partitioning", *self.line, "--out", str(out), *more)
        with self._said.open("w") as file:
            return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=file)

    def _kill(self, process: subprocess.Popen[bytes], name: str, count: int, pause: Callable[[], float]) -> int:
        """Kill descendants of this name, one after each pause, until it ends; how many were."""
        done, due = 0, time.monotonic() + pause()
        while process.poll() is None and done < count:
            with suppress(psutil.NoSuchProcess):
                there = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name().startswith(name)]
                if there and time.monotonic() > due:
                    there[done % len(there)].kill()
                    done, due = done + 1, time.monotonic() + pause()
            time.sleep(0.05)
        return done

    def _ended(self, process: subprocess.Popen[bytes], out: Path) -> Outcome:
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return WRONG, f"no end within {SECONDS} s"
        if process.returncode:
            return WRONG, self._said.read_text()[-300:]
        return (SAME, "the same bytes") if tree(out) == self.expected else (WRONG, "other bytes")
