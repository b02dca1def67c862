"""Timing side by side, peak memory of each side on its own, and the record of where it was measured.

Times: the sides take turns in one process on the same data; all samples are kept, and beside each the cores
that other processes used meanwhile. What counts is the median of the quiet samples; a side that was disturbed
takes more turns, and one that never had a quiet sample is marked in the table.

Memory: each side once more in a fresh process. What counts is the growth of the resident set while the work
runs, from after its input is in memory to its peak as the kernel keeps it (VmHWM, reset before the work).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
QUIET = 0.25  # cores that others may use in a sample that counts
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Samples:
    """Seconds of each turn; others: cores used by other processes in that turn."""

    seconds: list[float]
    others: list[float]

    @property
    def quiet(self) -> list[float]:
        """Seconds of the turns that had the machine to themselves."""
        return [s for s, o in zip(self.seconds, self.others, strict=True) if o <= QUIET]

    def times(self, factor: float, plus: float = 0.0) -> Samples:
        """The same turns, had the work been done `factor` times and something more of `plus` seconds."""
        return Samples([factor * s + plus for s in self.seconds], self.others)

    @property
    def median(self) -> float:
        return statistics.median(self.quiet or self.seconds)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Samples:
        return cls(record["samples_s"], record["other_cores"])

    def record(self) -> dict[str, Any]:
        return {
            "median_s": round(self.median, 4),
            "samples_s": [round(s, 4) for s in self.seconds],
            "other_cores": [round(o, 2) for o in self.others],
            "disturbed": not self.quiet,
        }


def timed(work: Callable[[], Any], *, processor: bool = False) -> tuple[Any, float, float]:
    """What work returns, its seconds, and the cores that other processes used meanwhile.

    Of seconds of the processor, others take none: they are told as 0.
    """
    gc.collect()
    busy, own, start = _busy(), time.process_time(), time.perf_counter()
    result = work()
    seconds, used = time.perf_counter() - start, time.process_time() - own
    others = (_busy() - busy - used) / seconds
    return (result, used, 0.0) if processor else (result, seconds, max(0.0, others))


def alternate(
    sides: Mapping[str, Callable[[], Any]],
    turns: int,
    before: Callable[[str], None] | None = None,
    *,
    processor: bool = False,
) -> tuple[dict[str, Samples], dict[str, Any]]:
    """Time the sides in turn until each has `turns` quiet samples, or twice as many of any kind.

    before: called with the name of the side ahead of each of its turns, outside the time.
    processor: count seconds of the processor.
    Returns the samples, and what each side returned last.
    """
    found = {name: Samples([], []) for name in sides}
    results = {}
    while missing := [name for name, s in found.items() if len(s.quiet) < turns and len(s.seconds) < 2 * turns]:
        for name in missing:
            if before is not None:
                before(name)
            results[name] = None  # what the turn before returned is not alive meanwhile
            results[name], seconds, others = timed(sides[name], processor=processor)
            found[name].seconds.append(seconds)
            found[name].others.append(others)
            print(f"  {name}: {seconds:.3f} s (others used {others:.2f} of {os.cpu_count()} cores)", flush=True)
    return found, results


def _busy() -> float:
    """CPU seconds that all processes of the machine have used, time stolen by other machines included."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


@dataclass(frozen=True)
class Alone:
    """One run in a process of its own; peak_gb: growth of the resident set, 10**9 bytes."""

    result: Any
    seconds: float
    others: float
    peak_gb: float


def alone(prepare: Callable[..., Callable[[], Any]], **given: Any) -> Alone:
    """Run work in a process of its own.

    prepare: a function of a module; called there with `given`, it loads the input and returns the work, whose
    result must be small.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_alone, (prepare, given, True, _threads()))


def peak_memory(prepare: Callable[..., Callable[[], Any]], **given: Any) -> float:
    """GB that the resident set grows by while such work runs; its result may be large."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_alone, (prepare, given, False, _threads())).peak_gb


def _alone(prepare: Callable[..., Callable[[], Any]], given: dict[str, Any], keep: bool, threads: int) -> Alone:
    use_threads(threads)
    work = prepare(**given)
    gc.collect()
    # Without leave to reset it, the peak is that of the process's whole life, loading included.
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
    before = _kilobytes("VmRSS")
    result, seconds, others = timed(work)
    peak_gb = (_kilobytes("VmHWM") - before) * 1024 / 1e9
    return Alone(result if keep else None, seconds, others, peak_gb)


def _kilobytes(name: str) -> float:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        unit = 1024 if sys.platform == "darwin" else 1
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return float(next(line for line in lines if line.startswith(name + ":")).split()[1])


@dataclass(frozen=True)
class Environment:
    """Where and with what a benchmark ran; nothing that names the machine or its folders."""

    cpu: str
    cores: int
    threads: int
    bfloat16_units: str
    os: str
    python: str
    torch: str
    numpy: str
    transformers: str
    blas: str
    commit: str
    date: str


def environment() -> Environment:
    import torch
    from threadpoolctl import threadpool_info

    blas = {f"{lib['internal_api']} {lib['version']}" for lib in threadpool_info() if lib["user_api"] == "blas"}
    return Environment(
        cpu=_cpuinfo("model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        bfloat16_units=bfloat16_units(),
        os=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=version("numpy"),
        transformers=version("transformers"),
        blas="numpy: " + ", ".join(sorted(blas)),
        commit=_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def bfloat16_units() -> str:
    """`amx`, `avx512_bf16` (vectors only: about twice float32) or `none`, as far as Linux tells."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    for flag, name in (("amx_bf16", "amx"), ("avx512_bf16", "avx512_bf16"), ("bf16", "bf16")):
        if flag in flags:
            return name
    return "none" if flags else "unknown"


def _cpuinfo(key: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    lines = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return next((value.strip() for name, value in lines if name.strip() == key), None)


def _commit() -> str:
    """Commit of the working tree, with `+changes` where src or benchmarks differ from it."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        code = ("--", "src", "benchmarks", ":!benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write(name: str, *, quick: bool, seed: int, about: str, data: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Print a benchmark's rows and write `results/<name>.json` (`<name>-quick.json` for a quick run)."""
    record = {
        "benchmark": name,
        "about": about,
        "command": f"python -m benchmarks.{name}" + (" --quick" if quick else ""),
        "quick": quick,
        "seed": seed,
        "environment": asdict(environment()),
        "data": dict(data),
        "rows": [row.record() for row in rows],
    }
    path = RESULTS / f"{name}{'-quick' if quick else ''}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n" + table([record]))
    print(f"\nwritten: results/{path.name}")


@dataclass(frozen=True)
class Row:
    """One comparison.

    ours, textbook: samples (None where a side has none).  ratio: textbook / ours if not given.
    target: what the project wants (None: no target).  memory: GB of each side.
    found: anything else worth keeping, short.
    """

    what: str
    ours: Samples | None = None
    textbook: Samples | None = None
    ratio: float | None = None
    target: str | None = None
    memory_ours: float | None = None
    memory_textbook: float | None = None
    found: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Row:
        """The row that `record` made this of."""
        sides = (record[side] and Samples.read(record[side]) for side in ("ours", "textbook"))
        memory = (record["memory"][side] for side in ("ours_gb", "textbook_gb"))
        return cls(record["what"], *sides, record["ratio"], record["target"], *memory, record["found"])

    def record(self) -> dict[str, Any]:
        ratio = self.ratio
        if ratio is None and self.ours and self.textbook:
            ratio = self.textbook.median / self.ours.median
        memory = {"ours_gb": self.memory_ours, "textbook_gb": self.memory_textbook}
        return {
            "what": self.what,
            "ours": self.ours.record() if self.ours else None,
            "textbook": self.textbook.record() if self.textbook else None,
            "ratio": None if ratio is None else round(ratio, 2),
            "target": self.target,
            "memory": {name: None if gb is None else round(gb, 3) for name, gb in memory.items()},
            "found": dict(self.found or {}),
        }


def kept_rows(name: str, parts: Sequence[str], *, quick: bool) -> list[Row]:
    """Rows of an earlier result but for those of some parts, which are done again; none where all parts are.

    What a row is of begins with the name of its part.
    """
    path = RESULTS / f"{name}{'-quick' if quick else ''}.json"
    if not parts or not path.exists():
        return []
    rows = [Row.read(row) for row in json.loads(path.read_text())["rows"]]
    return [row for row in rows if not row.what.startswith(tuple(parts))]


def table(records: list[dict[str, Any]]) -> str:
    """A markdown table of the rows of several results."""
    lines = [
        "| benchmark | what | ours | textbook | ratio | target | peak memory ours / textbook | found |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        for row in record["rows"]:
            cells = (
                record["benchmark"] + (" (quick)" if record["quick"] else ""),
                row["what"],
                _seconds(row["ours"]),
                _seconds(row["textbook"]),
                "" if row["ratio"] is None else f"**{row['ratio']:.1f}x**",
                row["target"] or "",
                " / ".join("-" if gb is None else f"{gb:.2f} GB" for gb in row["memory"].values())
                if any(gb is not None for gb in row["memory"].values())
                else "",
                "; ".join(f"{name} {_number(value)}" for name, value in row["found"].items()),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(side: dict[str, Any] | None) -> str:
    if side is None:
        return ""
    seconds = side["median_s"]
    return (f"{seconds:.3f} s" if seconds < 1 else f"{seconds:,.1f} s") + " (disturbed)" * side["disturbed"]


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def arguments(about: str | None, parts: Sequence[str] = ()) -> argparse.Namespace:
    """The options every benchmark has. parts: names of what can be run alone, to be found in `parts`."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n\n")[0])
    if parts:
        parser.add_argument(
            "parts", nargs="*", help=f"some of {', '.join(parts)}; default: all. Rows of others are kept"
        )
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look: no figures to quote")
    parser.add_argument("--threads", type=int, help="CPU threads of both sides (default: all)")
    given = parser.parse_args()
    if parts:
        check_parts(parser, given.parts, parts)
    if given.threads:
        use_threads(given.threads)
    return given


def check_parts(parser: argparse.ArgumentParser, given: Sequence[str], parts: Sequence[str]) -> None:
    """End with a message if some that are asked for do not exist."""
    if unknown := sorted(set(given) - set(parts)):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Threads of torch's and numpy's matrix products."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(count)
    threadpool_limits(count)
