"""`python -m benchmarks`: run all, then print the table. `python -m benchmarks table`: print it only."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from .measure import RESULTS, table

BENCHMARKS = (
    "extraction",
    "calibration",
    "clustering",
    "peers",
    "floor",
    "decomposition",
    "large",
    "bounds",
    "long",
    "lasting",
    "identical",
    "interrupted",
    "whole",
    "stages",
    "annotation",
    "explorer",
    "generation",
    "gpu",
    "ray",
    "scaling",
)


def print_table(*, quick: bool) -> None:
    """The table of the results there are, and where they were measured."""
    records = [
        json.loads(path.read_text())
        for name in BENCHMARKS
        if (path := RESULTS / f"{name}{'-quick' if quick else ''}.json").exists()
    ]
    if not records:
        sys.exit(f"no results yet; run `python -m benchmarks{' --quick' if quick else ''}`")
    print(table(records))
    print()
    for line in sorted({_machine(record) for record in records}):
        print(line)


def _machine(record: dict) -> str:
    e = record["environment"]
    return (
        f"{e['cores']} cores {e['cpu']}, {e['threads']} threads, bf16 units: {e['bfloat16_units']}; "
        f"torch {e['torch']}, numpy {e['numpy']} ({e['blas']}), transformers {e['transformers']}; commit {e['commit']}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"table, or some of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look: no figures to quote")
    parser.add_argument("--threads", type=int, help="CPU threads of both sides (default: all)")
    given = parser.parse_args()
    if unknown := set(given.names) - {"table", *BENCHMARKS}:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; one of {', '.join(BENCHMARKS)}")
    options = ["--quick"] * given.quick + (["--threads", str(given.threads)] if given.threads else [])
    for name in given.names or BENCHMARKS:
        if name != "table":  # each in a process of its own: no warm caches, no leftover memory
            print(f"== {name}", flush=True)
            subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=True)
    print_table(quick=given.quick)


if __name__ == "__main__":
    main()
