"""Interrupted = uninterrupted, on the real model: builds killed with `kill -9` at random moments and resumed.

SmolLM2 block 15, packaged text, two percentiles, evidence for the regions included. One build runs undisturbed;
others are killed several times each and continued with `--resume`. Every file of every dictionary must be the same.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .measure import Row, arguments, write

OPTIONS = ["--percentile", "2,8", "--checkpoint-seconds", "2", "--calibration-sample", "32_768"]


def start(out: Path, tokens: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "exemplar_partitioning", "build", *OPTIONS, "--max-tokens", str(tokens)]
    return subprocess.Popen(
        [*command, "--out", str(out), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def digest(out: Path) -> str:
    """Short sha256 over names and bytes of all files but build.json, which holds times."""
    total = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name != "build.json":
            total.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return total.hexdigest()[:16]


def main() -> None:
    given = arguments(__doc__)
    tokens, builds, kills = (20_000, 1, 2) if given.quick else (40_000, 3, 4)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        begun = time.monotonic()
        assert start(whole, tokens).wait() == 0
        took = time.monotonic() - begun
        rows = [Row("undisturbed", found={"sha256": digest(whole), "seconds": round(took, 1)})]
        for index in range(builds):
            out, moments = Path(folder) / f"killed-{index}", []
            while len(moments) < kills:
                process, moment = start(out, tokens), rng.uniform(3, 0.6 * took)
                try:
                    process.wait(moment)
                    break  # through before its time
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    moments.append(round(moment, 1))
            assert start(out, tokens).wait() == 0
            found = {"sha256": digest(out), "killed after, s": moments}
            rows.append(Row(f"killed {len(moments)} times and resumed", found=found, target="the same sha256"))
            print(rows[-1].what, found, flush=True)
    write(
        "interrupted",
        quick=given.quick,
        seed=0,
        about=__doc__ or "",
        data={"text": "packaged text", "tokens": tokens, "options": " ".join(OPTIONS)},
        rows=rows,
    )
    assert len({row.found["sha256"] for row in rows if row.found}) == 1, "the builds differ"


if __name__ == "__main__":
    main()
