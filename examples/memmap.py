"""Ten million activations of width 768 from one file on disk, in memory that does not grow with it.

    python memmap.py --rows 10_000_000        # writes 15 GB; 100_000 by default

Writes a file of 16-bit activations as another program might have left it, and builds on it where it lies.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

import exemplar_partitioning as ep

WIDTH, CLUSTERS, BLOCK = 768, 400, 16_384


def write(path: Path, rows: int) -> None:
    """Rows around a few hundred directions, the commonest of them far commoner than the rarest."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, WIDTH), np.float32)
    noise = rng.standard_normal((4 * BLOCK, WIDTH), np.float32)
    share = 1 / np.arange(1, CLUSTERS + 1)
    file = np.lib.format.open_memmap(path, "w+", np.float16, (rows, WIDTH))
    for start in range(0, rows, BLOCK):
        n = min(BLOCK, rows - start)
        at = rng.integers(len(noise) - n)
        file[start : start + n] = centres[rng.choice(CLUSTERS, n, p=share / share.sum())] + 0.5 * noise[at : at + n]
    file.flush()


def main() -> None:
    """Write the file unless it is there, build, and tell how long it took and how much memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=lambda text: int(text.replace("_", "")), default=100_000)
    parser.add_argument("--file", type=Path, default=Path("activations.npy"))
    parser.add_argument("--out", type=Path, default=Path("memmap"))
    asked = parser.parse_args()
    if not asked.file.exists():
        write(asked.file, asked.rows)
    before = time.monotonic()
    # A long window, so that all of the file is read: by default a build ends once nothing new comes.
    result = ep.build_from_activations(asked.file, out=asked.out, percentiles=[10], saturation_window=10**9)
    (built,) = result.dictionaries
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{built.n_activations:,} activations, {built.k:,} regions, {time.monotonic() - before:,.0f} s, {peak:.2f} GB"
    )


if __name__ == "__main__":
    main()
