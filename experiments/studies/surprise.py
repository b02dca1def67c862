"""Does surprise need exemplars, or do as many activations drawn at random do the same?

    python -m experiments.studies.surprise DATA --cache DIR --out FILE

Question, data, arms, rule: `ep_experiments/ood/PREREGISTRATION.md`. DATA and cache are those of `few.py`.

Shapes: n activations, t documents, k regions, d = d_model.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ep_experiments import nulls
from ep_experiments.activations import TextActivations, text_activations
from ep_experiments.axbench import baselines
from ep_experiments.concepts import read_concepts
from ep_experiments.ood.methods import nearest
from ep_experiments.paired import auroc, resampled_by_kind, spread
from ep_experiments.record import write_study
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.novelty import scores

from .concepts import CONTEXT, SITE, ordinary_activations
from .few_data import LANGUAGE_CONTEXT, LENGTH, documents_of_tokens, in_another_language, intents

BUILT = 150_000  # activations
PERCENTILES = (2.0,)
DRAWS = 5
DOCUMENTS = 100
READ = 64  # tokens of a document
SAMPLES = 1000
KNN_ROWS = 15_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path)
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    begun = time.monotonic()
    loaded = load_model("smollm2-135m-instruct", dtype="bfloat16", device="cpu")

    def read(texts: list[str], context: int) -> TextActivations:
        return text_activations(loaded, [SITE], texts, cache=given.cache, context_size=context)[SITE]

    plain = ordinary_activations(loaded, given.cache)
    after = np.flatnonzero(plain.start_t[:-1] >= BUILT)
    x_nd = torch.from_numpy(np.array(plain.x_nd[:BUILT]))
    documents = {"ordinary": beginnings(plain, after)}
    concepts = [read_concepts(given.data / "axbench" / name) for name in ("concept10_2b_l10", "conceptFD_2b_l10")]
    for genre in ("code", "math"):
        parts = []
        for found in concepts:
            rows = np.unique(np.concatenate([c.eval_positive for c in found.concepts if c.genre == genre] or [[]]))
            parts += beginnings(read(found.texts, CONTEXT), rows.astype(int))
        documents[f"AxBench, {genre}"] = parts[:DOCUMENTS]
    texts, _ = intents(given.data / "labelled" / "clinc150_oos_plus.jsonl.gz")
    documents["requests"] = beginnings(read(texts, 64), np.arange(0, len(texts), 20))
    texts, questions = in_another_language(given.data / "corpora")
    documents["Spanish"] = beginnings(
        read(texts, LANGUAGE_CONTEXT), np.concatenate([q.test_positive for q in questions])
    )
    for kind, name in (("speech", "novels"), ("comment", "source code"), ("formula", "LaTeX")):
        acts = read(documents_of_tokens(given.data / "corpora", kind), LENGTH)
        documents[name] = beginnings(acts, np.arange(len(acts)))
    result = judged(scored(x_nd, documents))
    about = {"site": SITE, "built": BUILT}
    write_study(given.out, "surprise", loaded.info, begun, about | result, study="surprise")


def beginnings(acts: TextActivations, rows: np.ndarray) -> list[Tensor]:
    """The first tokens of some documents, as activations."""
    spans = [(int(acts.start_t[i]), int(acts.start_t[i + 1])) for i in rows[:DOCUMENTS]]
    return [torch.from_numpy(np.array(acts.x_nd[a : min(b, a + READ)])) for a, b in spans if b > a]


def scored(x_nd: Tensor, documents: dict[str, list[Tensor]]) -> dict[str, dict[str, list[Float64[np.ndarray, " t"]]]]:
    """Mean score of every document, by kind of text and arm; a list of draws."""
    found: dict[str, dict[str, list[np.ndarray]]] = {kind: {} for kind in documents}
    every = {kind: torch.cat(parts) for kind, parts in documents.items()}
    ends = {kind: np.cumsum([len(part) for part in parts])[:-1] for kind, parts in documents.items()}

    def keep(arm: str, score: Any) -> None:
        for kind, rows_nd in every.items():
            means = [part.mean() for part in np.split(score(rows_nd), ends[kind])]
            found[kind].setdefault(arm, []).append(np.array(means))

    made = baselines.partitions(x_nd, PERCENTILES)
    for percentile, regions in made.items():
        u_nd = baselines.centred(x_nd, regions.center)
        keep(f"surprise of regions, {percentile:g}", surprise(regions, x_nd))
        keep(f"distance to regions, {percentile:g}", distance(regions))
        for draw in range(DRAWS):
            random = Dictionary(regions.center, nulls.random_exemplars(u_nd, regions.k, draw), regions.threshold)
            keep(f"surprise of random activations, {percentile:g}", surprise(random, x_nd))
            keep(f"distance to random activations, {percentile:g}", distance(random))
            keep(f"surprise of Gaussian directions, {percentile:g}", surprise(nulls.random_cells(regions, draw), x_nd))
    stored = nearest({"k-NN": 1}, x_nd[:: len(x_nd) // KNN_ROWS].numpy(), made[PERCENTILES[0]].center)
    keep(f"k-NN on {KNN_ROWS:,}", lambda rows_nd: stored.scores(rows_nd.numpy())[0])
    return found


def surprise(dictionary: Dictionary, x_nd: Tensor) -> Any:
    """As `novelty.scores` has it, of a dictionary that is in no folder."""
    members = dictionary.members(x_nd)
    known = members.members > 0
    mean_kd = torch.from_numpy(members.mean_directions[known].astype(np.float32))
    members_k = torch.from_numpy(members.members[known].astype(np.float32))

    def score(rows_nd: Tensor) -> np.ndarray:
        u_nd = baselines.centred(rows_nd, dictionary.center)
        return scores.surprise(u_nd, mean_kd, members_k).double().numpy()

    return score


def distance(dictionary: Dictionary) -> Any:
    """To the nearest exemplar."""
    return lambda rows_nd: 1 - (baselines.centred(rows_nd, dictionary.center) @ dictionary.exemplars.T).amax(1).numpy()


def judged(found: dict[str, dict[str, list[np.ndarray]]]) -> dict[str, Any]:
    """AUROC by kind of strange text and arm; differences of the dictionary to its nulls, documents drawn anew."""
    ordinary = found.pop("ordinary")
    kinds, rows, total_b = {}, [], {}
    for kind, arms in found.items():
        for arm, draws in arms.items():
            value_b = []
            for plain_t, strange_t in zip(ordinary[arm], draws, strict=True):
                novel_t = np.arange(len(strange_t) + len(plain_t)) < len(strange_t)
                weight_bt = resampled_by_kind(novel_t, SAMPLES, 0)
                value_b.append(auroc(np.concatenate([strange_t, plain_t]), novel_t, weight_bt))
            kinds[kind, arm] = np.mean(value_b, axis=0)
            total_b.setdefault(arm, []).append(np.array(value_b))
    mean_b = {arm: np.mean([np.mean(draws, axis=0) for draws in of], axis=0) for arm, of in total_b.items()}
    for arm, value_b in mean_b.items():
        draw_d = np.mean([draws[:, 0] for draws in total_b[arm]], axis=0)
        row: dict[str, Any] = {"arm": arm, "auroc": spread(value_b), "draws": [_round(v) for v in sorted(draw_d)]}
        row["by"] = {kind: _round(kinds[kind, arm][0]) for kind in found}
        what, _, percentile = arm.rpartition(", ")
        if percentile in {f"{p:g}" for p in PERCENTILES} and "regions" not in what:
            base = f"{'surprise of' if what.startswith('surprise') else 'distance to'} regions, {percentile}"
            row["regions_above"] = spread(mean_b[base] - value_b)
        rows.append(row)
    return {"documents": {kind: len(next(iter(of.values()))[0]) for kind, of in found.items()}, "rows": rows}


def _round(value: float) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    main()
