"""On a CUDA device: what clustering takes of a build at 20,000 exemplars, and whether its bytes are those of a CPU.

SmolLM2 in bfloat16 up to block 15, batches of 128 windows of 128 tokens; then synthetic activations of the same width
and number, a fiftieth of them far from all exemplars. `textbook` is our own clustering on the CPU here. The share is
that of clustering in the sum of both, which is what a build does in its steady state. Needs a GPU: without one it says
so and measures nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from . import data
from .large import add, started
from .measure import Row, Samples, alternate, arguments, write

DEVICE = "cuda"


def extraction(batches: int, turns: int) -> tuple[Samples, int]:
    """Seconds of extracting one batch, on average over so many, and its activations' width."""
    from exemplar_partitioning.models.capture import Extractor
    from exemplar_partitioning.models.load import load_model
    from exemplar_partitioning.models.sites import resolve_sites

    loaded = load_model(data.MODELS["smollm2"], dtype="bfloat16", device=DEVICE)
    sites = resolve_sites(data.SITES["smollm2"], loaded.architecture)
    extractor = Extractor(loaded.model, sites, batch_size=data.BATCH_WINDOWS)
    windows = np.split(data.token_windows(loaded, batches * data.BATCH_WINDOWS), batches)

    def work() -> None:
        for part in windows:
            extractor.extract(list(part))
        torch.cuda.synchronize()

    work()
    samples, _ = alternate({"extraction": work}, turns)
    return samples["extraction"].times(1 / batches), extractor.architecture.d_model


def clustering(k: int, d: int, turns: int, extracted: Samples) -> Row:
    """One batch against k exemplars on the device, beside the same on the CPU."""
    e_kd, x_nd, threshold = data.clustered_directions(k, data.BATCH, d)
    standing = {}
    there = torch.from_numpy(x_nd).to(DEVICE)

    def restore(side: str) -> None:
        standing[side] = None
        standing[side] = started("ours", e_kd, threshold, "cpu" if side == "CPU" else DEVICE)

    sides = {"CPU": lambda: add(standing["CPU"], x_nd), DEVICE: lambda: standing[DEVICE].add(there).numpy()}
    times, ids = alternate(sides, turns, before=restore)
    arrays = [(c.exemplars.numpy(force=True), c.births, c.online_counts, c.sole_counts) for c in standing.values()]
    same = all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True)) and np.array_equal(*ids.values())
    seconds = times[DEVICE].median
    return Row(
        f"clustering: K = {k:,}, d = {d:,}",
        times[DEVICE],
        times["CPU"],
        target="<= 10% of a build's time",
        found={
            "share of a build's time": f"{seconds / (seconds + extracted.median):.1%}",
            "GFLOP/s of the search": round(2 * k * data.BATCH * d / seconds / 1e9),
            "the CPU's bytes": same,
        },
    )


def main() -> None:
    given = arguments(__doc__)
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing to measure")
        return
    k, batches, turns = (2_000, 1, 1) if given.quick else (20_000, 16, 5)
    extracted, d = extraction(batches, turns)
    rows = [
        Row(
            f"extraction: {data.MODELS['smollm2']} block 15, bfloat16",
            extracted,
            found={"activations/s": round(data.BATCH / extracted.median)},
        ),
        clustering(k, d, turns, extracted),
    ]
    about = {"device": torch.cuda.get_device_name(), "activations": data.BATCH, "text": data.text_name()}
    write("gpu", **data.stated(given, __doc__), data=about, rows=rows)


if __name__ == "__main__":
    main()
