"""Do regions come back under another order, another half of the text, less precision; and what helps?

    python -m experiments.studies.stability [--rows 50000] [--percentiles 2,4,8] [--out stability.json]

Real activations of SmolLM2-135M's middle layer (benchmarks/data.py; cached there). One centre and threshold for all:
only the order, the half or the precision differ. Reappearance is measured on held-out activations.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from benchmarks.data import activations, digest

from ep_experiments.stability import Regions, consensus, predict, reanchored, summarise
from exemplar_partitioning.core.calibration import BATCH, calibrate
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.geometry import directions
from exemplar_partitioning.core.leader import LeaderClustering

WINDOW = 127  # activations of a window: the unit that orders are shuffled by


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=50_000, help="activations each dictionary is built from")
    options.add_argument("--percentiles", default="2,4,8")
    options.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "stability.json")
    given = options.parse_args()
    rows = given.rows // WINDOW * WINDOW
    x = activations(3 * rows)
    a, b, held_out = x[:rows], x[rows : 2 * rows], x[2 * rows :]
    coarse = activations(3 * rows, dtype="bfloat16")
    percentiles = [float(p) for p in given.percentiles.split(",")]
    found = calibrate(
        [torch.from_numpy(part) for part in np.split(a[: len(a) // BATCH * BATCH], len(a) // BATCH)], percentiles
    )
    results = []
    for percentile in percentiles:
        like = Dictionary(found.center, np.zeros((0, x.shape[1]), np.float32), found.thresholds[percentile])
        results.append({"percentile": percentile, "threshold": like.threshold} | one(like, a, b, held_out, coarse))
        record = {"rows": rows, "held_out": len(held_out), "activations": digest(x), "results": results}
        given.out.parent.mkdir(exist_ok=True)
        given.out.write_text(json.dumps(record, indent=2) + "\n")


def one(like: Dictionary, a: np.ndarray, b: np.ndarray, held_out: np.ndarray, coarse: np.ndarray) -> dict:
    """All conditions and remedies at one threshold. coarse: all activations, by a forward pass in bfloat16."""
    orders = [shuffled(a, seed) for seed in range(3)]
    halves = [a, b]
    rounded = torch.from_numpy(a).bfloat16().float().numpy()
    streams = {"order": orders, "half": halves, "bfloat16": [a, rounded], "forward": [a, coarse[: len(a)]]}
    methods = {
        "as built": lambda x: lead(like, x),
        "random exemplars": lambda x: drawn(like, x, lead(like, x).k),
        "medoids, 1 round": lambda x: reanchored(lead(like, x), x, 1),
        "medoids, 5 rounds": lambda x: reanchored(lead(like, x), x, 5),
        "consensus of 4 orders": lambda x: consensus([lead(like, shuffled(x, 100 + i)) for i in range(4)], x),
    }
    found: dict = {"precision": precision(like, a, coarse[: len(a)], held_out, coarse[-len(held_out) :])}
    say(like.threshold, "precision", "", found["precision"])
    for condition, parts in streams.items():
        for name, method in methods.items():
            if condition in ("bfloat16", "forward") and name == "consensus of 4 orders":
                continue
            regions = [Regions.of(method(part), part, held_out) for part in parts]
            found.setdefault(condition, {})[name] = summarise(regions)
            say(like.threshold, condition, name, found[condition][name])
            if condition == "half" and name == "as built":
                found["predictors"] = {of: predict(regions, of) for of in ("f1_k", "mean_k", "exemplar_k")}
                say(like.threshold, "predictors", "", found["predictors"])
    return found


def precision(like: Dictionary, a: np.ndarray, b: np.ndarray, held_a: np.ndarray, held_b: np.ndarray) -> dict:
    """Two forward passes over one text: exemplars they share, and tokens that keep their region in one dictionary."""
    births = []
    for x in (a, b):
        clustering = LeaderClustering(like.center, like.threshold)
        clustering.add(torch.from_numpy(x))
        births.append(set(np.asarray(clustering.births).tolist()))
    fixed = lead(like, a)
    return {
        "shared_exemplars": len(births[0] & births[1]) / min(map(len, births)),
        "tokens_that_stay": float((fixed.assign(held_a)[0] == fixed.assign(held_b)[0]).mean()),
    }


def shuffled(x: np.ndarray, seed: int) -> np.ndarray:
    """The same windows in another order."""
    order = np.random.default_rng(seed).permutation(len(x) // WINDOW)
    return x.reshape(-1, WINDOW, x.shape[1])[order].reshape(x.shape)


def lead(like: Dictionary, x: np.ndarray) -> Dictionary:
    """Streaming leader clustering, as a build does it."""
    clustering = LeaderClustering(like.center, like.threshold)
    clustering.add(torch.from_numpy(x))
    return Dictionary(like.center, clustering.exemplars.clone(), like.threshold)


def drawn(like: Dictionary, x: np.ndarray, k: int) -> Dictionary:
    """As many random activations as exemplars; another draw for every stream."""
    seed = int.from_bytes(digest(x)[:8].encode(), "little")
    rows = np.random.default_rng(seed).choice(len(x), size=k, replace=False)
    return Dictionary(like.center, directions(torch.from_numpy(x[rows]), like.center).u_nd, like.threshold)


def say(threshold: float, condition: str, name: str, values: dict) -> None:
    sys.stdout.write(f"{threshold:.4f} {condition:10s} {name:22s} {json.dumps(values)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
