"""Missing mass where what follows are other documents: activations, windows and documents as the unit.

    python -m experiments.studies.blocks CORPUS --out FILE

Question, arms and rule: `ep_experiments/MISSING_MASS.md`. CORPUS is .jsonl.gz with `text`.

Shapes: n activations, k regions, d = d_model.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn.functional import normalize

from ep_experiments.record import write_study
from exemplar_partitioning.core.calibration import BATCH, calibrate
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.missing_mass import missing_mass
from exemplar_partitioning.models.capture import extract_rows
from exemplar_partitioning.models.identity import special_token_ids
from exemplar_partitioning.models.load import bos_id, load_model
from exemplar_partitioning.models.sites import resolve_sites
from exemplar_partitioning.text.readers import Document
from exemplar_partitioning.text.windowing import Windowing
from exemplar_partitioning.text.windows import windows

SITE = "resid_post.2"
PERCENTILES = (1.0, 4.0, 10.0)
DOCUMENTS, CHARACTERS = 400, 3000  # drawn at random; of each from its beginning
DRAWS = 16  # of the half of the documents that is read
FOLLOWING = 12_000  # activations of the other half
LIMIT = 1.96


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("corpus", type=Path)
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    begun = time.monotonic()
    loaded = load_model("smollm2-135m-instruct", dtype="bfloat16", device="cpu")
    with gzip.open(given.corpus, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    chosen = np.random.default_rng(0).permutation(len(texts))[:DOCUMENTS]
    documents = [Document(str(i), texts[at][:CHARACTERS]) for i, at in enumerate(chosen)]
    cut = windows(documents, loaded.tokenizer, Windowing(shuffle_buffer=0), bos_id=bos_id(loaded),
                  special_ids=special_token_ids(loaded.tokenizer))  # fmt: skip
    kept = [(int(w.document), w.ids) for w in cut if len(w.ids) > 1]
    rows = [np.arange(1, len(ids)) for _, ids in kept]
    site = resolve_sites(SITE, loaded.architecture)[0]
    x_nd = torch.from_numpy(extract_rows(loaded.model, [site], [ids for _, ids in kept], rows)[site])
    window_n = np.repeat(np.arange(len(kept)), [len(at) for at in rows])
    document_n = np.array([document for document, _ in kept])[window_n]
    found = list(drawn(x_nd, window_n, document_n))
    about = {"site": SITE, "documents": DOCUMENTS, "windows": len(kept), "activations": BATCH, "draws": DRAWS}
    write_study(given.out, "blocks", loaded.info, begun, about | {"results": summary(found)}, study="blocks")


def drawn(x_nd: Tensor, window_n: np.ndarray, document_n: np.ndarray) -> Iterator[dict[str, Any]]:
    """Estimates from windows, in mixed order, of half of the documents; and the truth in the other half."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x_nd))[:BATCH])
    calibration = calibrate([x_nd[order]], list(PERCENTILES))
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        read_n = np.isin(document_n, rng.permutation(DOCUMENTS)[: DOCUMENTS // 2])
        place_w = rng.permutation(window_n.max() + 1)
        mixed = np.argsort(place_w[window_n], kind="stable")
        rows = mixed[read_n[mixed]][:BATCH]
        rest = rng.choice(np.flatnonzero(~read_n), FOLLOWING, replace=False)
        for percentile, theta in calibration.thresholds.items():
            clustering = LeaderClustering(calibration.center, theta)
            clustering.add(x_nd[torch.from_numpy(rows)])
            once = clustering.births[clustering.sole_counts == 0]
            mass, n = missing_mass(clustering.sole_counts, len(rows)), len(rows)
            apart_n = by_others(covered(clustering, x_nd[torch.from_numpy(rows)]), document_n[rows], clustering.births)
            truth = ~covered(clustering, x_nd[torch.from_numpy(rest)]).any(axis=1)
            yield {
                "percentile": percentile,
                "k": clustering.k,
                "truth": truth.mean(),
                "activations": (mass.estimate, (mass.high - mass.low) / 2),
                "windows": (mass.estimate, half(once, window_n[rows], clustering.sole_counts, n)),
                "documents": (mass.estimate, half(once, document_n[rows], clustering.sole_counts, n)),
                "other documents": (apart_n.mean(), of_ratio(apart_n, document_n[rows])),
            }


def covered(clustering: LeaderClustering, x_nd: Tensor) -> Bool[np.ndarray, "n k"]:
    """Which exemplars lie within the threshold of which activations."""
    u_nd = normalize(x_nd.float() - clustering.center, dim=1)
    parts = [(1 - part @ clustering.exemplars.T <= clustering.threshold).numpy() for part in u_nd.split(4096)]
    return np.concatenate(parts)


def half(once: np.ndarray, block_n: np.ndarray, sole_k: Int64[np.ndarray, " k"], n: int) -> float:
    """Esty's half interval, where exemplars met once come by blocks: the sum of squares in place of their number."""
    _, count_b = np.unique(block_n[once], return_counts=True)
    return LIMIT * np.sqrt(max(float((count_b**2).sum()) - len(once) ** 2 / n + 2 * (sole_k == 1).sum(), 0)) / n


def by_others(
    covered_nk: Bool[np.ndarray, "n k"], document_n: np.ndarray, births_k: Int64[np.ndarray, " k"]
) -> Bool[np.ndarray, " n"]:
    """Activations that no region would hold, had their document come last.

    All that covers them is of that document, and stands for nothing that another document brings.
    """
    own_nk = covered_nk & (document_n[:, None] == document_n[births_k][None])
    all_n = covered_nk.sum(axis=1)
    of_k = document_n[births_k]
    stands_k = np.zeros(len(births_k), bool)
    for document in np.unique(of_k):
        mine_k = of_k == document
        # rows of other documents that only this one's exemplars cover would have founded regions of their own
        other_n = (document_n != document) & (covered_nk[:, mine_k].sum(axis=1) == all_n)
        stands_k[mine_k] = covered_nk[np.ix_(other_n, mine_k)].any(axis=0)
    return (own_nk.sum(axis=1) == all_n) & ~(own_nk & stands_k).any(axis=1)


def of_ratio(value_n: np.ndarray, block_n: np.ndarray) -> float:
    """Half interval of a mean over items that come by blocks (of a ratio of sums)."""
    _, of_n = np.unique(block_n, return_inverse=True)
    apart_b = np.bincount(of_n, value_n - value_n.mean())
    return LIMIT * float(np.sqrt((apart_b**2).sum() * len(apart_b) / (len(apart_b) - 1))) / len(value_n)


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each percentile and unit: mean estimate and interval, truth over estimate, how often the truth is held."""
    rows = []
    for percentile in PERCENTILES:
        of = [row for row in found if row["percentile"] == percentile]
        truth_m = np.array([row["truth"] for row in of])
        for unit in ("activations", "windows", "documents", "other documents"):
            value_m, half_m = np.array([row[unit] for row in of]).T
            figures = {
                "regions": np.mean([row["k"] for row in of]),
                "estimate": value_m.mean(),
                "half": half_m.mean(),
                "truth": truth_m.mean(),
                "ratio": truth_m.mean() / value_m.mean(),
                "covers": (np.abs(value_m - truth_m) <= half_m).mean(),
            }
            rows.append({"percentile": percentile, "unit": unit} | {k: float(f"{v:.3g}") for k, v in figures.items()})
    return rows


if __name__ == "__main__":
    main()
