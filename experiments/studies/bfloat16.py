"""What does a forward pass in bfloat16 change: regions that come back, decompositions, what regions detect?

    python -m experiments.studies.bfloat16 SET [SET ...] --cache DIR --out FILE [--percentiles 2,8] [--orders 4]

Activations of one text (benchmarks/data.py) in float32 and in bfloat16, with one centre and threshold, each clustered
in the same few orders of its windows. What bfloat16 changes stands beside what another order changes, which any
other run would: differences of dictionaries in the same order, beside those of two float32 dictionaries in two orders.
Held-out activations are read in the precision of their dictionary. Detection: the region whose largest cosine in a
training text tells a concept of AxBench best, judged by its AUROC on other texts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.data import BATCH, activations, digest

from ep_experiments.activations import TextActivations, text_activations
from ep_experiments.axbench.readouts import Examples, auroc, best, pool
from ep_experiments.concepts import Concept, read_concepts
from ep_experiments.paired import difference
from ep_experiments.record import write_study
from ep_experiments.stability import Regions, summarise
from exemplar_partitioning.core.calibration import Calibration, calibrate
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.models.load import load_model

SITE = "resid_post.15"
BATCHES = 2  # built from; a third is held out
WINDOW = 127  # activations of a window: the unit that orders are shuffled by
CONTEXT = 32  # tokens of a text with or without a concept
STEPS, SUPPORT = (1, 8, 32), 8
DECOMPOSED = 2_048  # held-out rows
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, eq=False)
class Built:
    """A dictionary and what it does on held-out text. founders_k: place in the text of the token behind a region."""

    dictionary: Dictionary
    founders_k: np.ndarray
    regions: Regions
    leaders_n: np.ndarray  # founders of the regions of held-out activations
    supports: list[set[int]]  # founders of the regions that make up each
    fvu: dict[int, float]
    auroc_c: np.ndarray


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("sets", type=Path, nargs="+", metavar="SET")
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--percentiles", default="2,8")
    options.add_argument("--orders", type=int, default=4)
    asked = options.parse_args()
    begun, concepts = time.monotonic(), [read_concepts(path) for path in asked.sets]
    rows = {dtype: activations((BATCHES + 1) * BATCH, dtype=dtype) for dtype in DTYPES}
    texts = {dtype: [_texts(given.texts, dtype, asked.cache) for given in concepts] for dtype in DTYPES}
    percentiles = [float(p) for p in asked.percentiles.split(",")]
    calibrated = calibrate(np.split(rows["float32"][: BATCHES * BATCH], BATCHES), percentiles)
    results = []
    for percentile in percentiles:
        made = {
            dtype: [
                build(calibrated, percentile, rows[dtype], order, list(zip(concepts, texts[dtype], strict=True)))
                for order in range(asked.orders)
            ]
            for dtype in DTYPES
        }
        results.append({"percentile": percentile} | compared(made["float32"], made["bfloat16"], rows))
        result = {"activations": {d: digest(x_nd) for d, x_nd in rows.items()}, "results": results}
        result["concepts"] = sum(len(given.concepts) for given in concepts)
        write_study(asked.out, "bfloat16", load_model("smollm2-135m-instruct").info, begun, result, study="bfloat16")


def build(
    calibrated: Calibration, percentile: float, x_nd: np.ndarray, seed: int, concepts: Sequence[tuple[Any, Any]]
) -> Built:
    """A dictionary of the text's windows in one order (0: as they stand), read on the rest."""
    windows = np.arange(BATCHES * BATCH).reshape(-1, WINDOW)
    order = (np.random.default_rng(seed).permutation(windows) if seed else windows).ravel()
    held_nd = x_nd[BATCHES * BATCH :]
    clustering = LeaderClustering(calibrated.center, calibrated.thresholds[percentile])
    clustering.add(x_nd[order])
    dictionary = Dictionary(calibrated.center, clustering.exemplars.clone(), clustering.threshold)
    founders_k, regions = order[clustering.births], Regions.of(dictionary, x_nd[order], held_nd)
    codes = {steps: dictionary.decompose(held_nd[:DECOMPOSED], min(steps, dictionary.k)) for steps in STEPS}
    spread = ((held_nd[:DECOMPOSED] - held_nd[:DECOMPOSED].mean(axis=0)).astype(np.float64) ** 2).sum()
    return Built(
        dictionary,
        founders_k,
        regions,
        founders_k[regions.ids_n],
        [set(founders_k[ids[ids >= 0]].tolist()) for ids in codes[SUPPORT].regions],
        {steps: float((each.residual_norm.astype(np.float64) ** 2).sum() / spread) for steps, each in codes.items()},
        np.concatenate([detected(given.concepts, acts, dictionary) for given, acts in concepts]),
    )


def compared(exact: list[Built], coarse: list[Built], rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """What bfloat16 changes (same order), and what an order changes (float32, and bfloat16 among themselves)."""
    held = {dtype: rows[dtype][BATCHES * BATCH :] for dtype in DTYPES}
    fixed = exact[0].dictionary
    codes = [fixed.decompose(held[dtype][:DECOMPOSED], min(SUPPORT, fixed.k)).regions for dtype in DTYPES]
    concepts = np.mean([built.auroc_c for built in exact], axis=0), np.mean([b.auroc_c for b in coarse], axis=0)
    return {
        "k": [built.dictionary.k for built in exact],
        "k, bfloat16": [built.dictionary.k for built in coarse],
        "one dictionary, activations of both": {
            "regions kept": float((fixed.ids(held["float32"]) == fixed.ids(held["bfloat16"])).mean()),
            "supports shared": _shared(*([set(ids[ids >= 0].tolist()) for ids in side] for side in codes)),
        },
        "bfloat16": _pairs(list(zip(exact, coarse, strict=True))),
        "order": _pairs(list(combinations(exact, 2))),
        "FVU": {str(steps): [[built.fvu[steps] for built in side] for side in (exact, coarse)] for steps in STEPS},
        "AUROC": [[float(np.nanmean(built.auroc_c)) for built in side] for side in (exact, coarse)],
        "AUROC, bfloat16 less float32": difference(concepts[1], concepts[0]),
    }


def _pairs(pairs: Sequence[tuple[Built, Built]]) -> dict[str, list[float]]:
    """How alike two dictionaries are, for each pair."""
    found: dict[str, list[float]] = {}
    for a, b in pairs:
        again = summarise([a.regions, b.regions])
        common = len(np.intersect1d(a.founders_k, b.founders_k))
        values = {
            "founded by the same token": 2 * common / (a.dictionary.k + b.dictionary.k),
            "regions that return": again["same"],
            "activations in those": again["same_members"],
            "adjusted Rand index": again["rand"],
            "activations with the same leader": float((a.leaders_n == b.leaders_n).mean()),
            "supports shared": _shared(a.supports, b.supports),
            "largest change of FVU": max(abs(a.fvu[steps] - b.fvu[steps]) for steps in STEPS),
            "change of AUROC of a concept": float(np.nanmean(abs(a.auroc_c - b.auroc_c))),
            "change of mean AUROC": float(abs(np.nanmean(a.auroc_c) - np.nanmean(b.auroc_c))),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(round(value, 4))
    return found


def _shared(a: Sequence[set[int]], b: Sequence[set[int]]) -> float:
    """Mean Jaccard index of the supports of two decompositions of the same rows."""
    return float(np.mean([len(x & y) / max(1, len(x | y)) for x, y in zip(a, b, strict=True)]))


def _texts(texts: Sequence[str], dtype: str, cache: Path) -> TextActivations:
    loaded = load_model("smollm2-135m-instruct", dtype=dtype, device="cpu")
    return text_activations(loaded, [SITE], texts, cache=cache, context_size=CONTEXT)[SITE]


def detected(concepts: Sequence[Concept], acts: TextActivations, dictionary: Dictionary) -> np.ndarray:
    """AUROC of each concept's best region, chosen on training texts and judged on others."""
    pooled = pool(acts, lambda x_nd: 1 - dictionary.distances(x_nd).nan_to_num(nan=1.0))
    scores: list[float] = []
    for concept in concepts:
        train, judged = (
            (np.concatenate(rows), np.repeat([True, False], [len(kind) for kind in rows]))
            for rows in ((concept.positive, concept.negative), (concept.eval_positive, concept.eval_negative))
        )
        chosen = best(Examples(pooled[train[0]], train[1]))
        scores.append(float(auroc(chosen.score(pooled[judged[0]]), judged[1])))
    return np.array(scores)


if __name__ == "__main__":
    main()
