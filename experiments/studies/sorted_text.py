"""What missing mass says of text that comes source by source, through a default build's shuffle buffer and without.

    python -m experiments.studies.sorted_text CORPUS --out FILE [--share 1 --percentiles 4,10]

Question, arms and rule: `ep_experiments/MISSING_MASS.md`. CORPUS is .jsonl.gz with `source`, `id` and `text`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ep_experiments.record import write_study
from exemplar_partitioning.core.calibration import BATCH, calibrate
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.missing_mass import missing_mass, recent_births, uneven_births
from exemplar_partitioning.models.capture import extract_rows
from exemplar_partitioning.models.identity import special_token_ids
from exemplar_partitioning.models.load import bos_id, load_model
from exemplar_partitioning.models.sites import resolve_sites
from exemplar_partitioning.text.readers import Document
from exemplar_partitioning.text.windowing import Windowing
from exemplar_partitioning.text.windows import _shuffled, windows

SITE = "resid_post.1"
PLACES = (6, 10)  # tokens of a window whose activations are taken; the rest of it is not read
PARTS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
BUFFER = 10_000  # windows of a default build
CALIBRATED = 1  # batches, of each arm's own beginning
RECENT = 1024  # activations
BLOCKS = 100
FOLLOWING = 20_000  # activations of what follows, drawn at random


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("corpus", type=Path)
    options.add_argument("--share", type=int, default=2, help="of documents one in so many, and as much of the buffer")
    options.add_argument("--percentiles", default="1,4,10")
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    begun = time.monotonic()
    loaded = load_model("smollm2-135m-instruct", dtype="bfloat16", device="cpu")
    documents, buffer = sorted_documents(given.corpus, given.share), BUFFER // given.share
    percentiles = [float(p) for p in given.percentiles.split(",")]
    cut = windows(documents, loaded.tokenizer, Windowing(shuffle_buffer=0), bos_id=bos_id(loaded),
                  special_ids=special_token_ids(loaded.tokenizer))  # fmt: skip
    kept = [(w.document, w.ids[: max(PLACES) + 1]) for w in cut if len(w.ids) > max(PLACES)]
    site = resolve_sites(SITE, loaded.architecture)[0]
    rows = [np.array(PLACES)] * len(kept)
    x_nd = torch.from_numpy(extract_rows(loaded.model, [site], [ids for _, ids in kept], rows)[site])
    orders = {
        "sorted, no buffer": np.arange(len(kept)),
        f"sorted, buffer of {buffer:,}": buffered(len(kept), buffer),
        "shuffled": np.random.default_rng(0).permutation(len(kept)),
    }
    results = [row for name, order_w in orders.items() for row in measured(name, x_nd, order_w, percentiles)]
    sources = [name.partition(" ")[0] for name, _ in kept]
    counts = {source: sources.count(source) for source in dict.fromkeys(sources)}
    about = {"site": SITE, "windows": len(kept), "a_window": len(PLACES), "sources": counts}
    write_study(given.out, "sorted text", loaded.info, begun, about | {"results": results}, study="sorted_text")


def sorted_documents(path: Path, share: int) -> list[Document]:
    """One of so many documents, source by source."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = sorted(rows, key=lambda row: row["source"])[::share]
    return [Document(f"{row['source']} {i}", row["text"]) for i, row in enumerate(rows)]


def buffered(count: int, buffer: int) -> np.ndarray:
    """The order in which a build's buffer gives so many windows."""
    numbers: Any = range(count)  # it hands on whatever it is given
    return np.array(list(_shuffled(numbers, Windowing(shuffle_buffer=buffer))))


def measured(name: str, x_nd: torch.Tensor, order_w: np.ndarray, percentiles: list[float]) -> list[dict[str, Any]]:
    """Estimates and the truth after several parts of a stream, at every percentile."""
    row_n = (order_w[:, None] * len(PLACES) + np.arange(len(PLACES))).ravel()
    stream_nd = x_nd[torch.from_numpy(row_n)]
    calibration = calibrate(stream_nd[: CALIBRATED * BATCH].split(BATCH), percentiles)
    found = []
    for percentile, theta in calibration.thresholds.items():
        clustering, growth, start = LeaderClustering(calibration.center, theta), [], 0
        for part in PARTS:
            end = int(part * len(stream_nd)) // RECENT * RECENT
            for begin in range(start, end, RECENT):
                clustering.add(stream_nd[begin : begin + RECENT])
                growth.append((begin + RECENT, clustering.k))
            start = end
            head = {"arm": name, "percentile": percentile, "part": part}
            found.append(head | _judged(clustering, growth, stream_nd[end:]))
    return found


def _judged(clustering: LeaderClustering, growth: list[tuple[int, int]], rest_nd: torch.Tensor) -> dict[str, Any]:
    n = clustering.position
    mass = missing_mass(clustering.sole_counts, n - clustering.skipped)
    once_b = np.bincount(clustering.births[clustering.sole_counts == 0] * BLOCKS // n, minlength=BLOCKS)
    half = 1.96 * np.sqrt(BLOCKS * once_b.var(ddof=1)) / n
    chosen = torch.randperm(len(rest_nd), generator=torch.Generator().manual_seed(0))[:FOLLOWING]
    u_nd = torch.nn.functional.normalize(rest_nd[chosen] - clustering.center, dim=1)
    near_n = torch.cat([(part @ clustering.exemplars.T).amax(dim=1) for part in u_nd.split(4096)])
    truth = float((1 - near_n > clustering.threshold).float().mean())
    values = {"estimate": mass.estimate, "low": mass.low, "high": mass.high, "blocks_low": mass.estimate - half,
              "blocks_high": mass.estimate + half, "recent": recent_births(growth, RECENT), "truth": truth}  # fmt: skip
    dispersion = float(once_b.var(ddof=1) / max(once_b.mean(), 1e-9))  # 1 where blocks are alike
    return {
        "n": n,
        "k": clustering.k,
        **{name: float(f"{max(0.0, value):.3g}") for name, value in values.items()},
        "dispersion": round(dispersion, 2),
        "warned": uneven_births(growth, 4 * RECENT) is not None,
    }


if __name__ == "__main__":
    main()
