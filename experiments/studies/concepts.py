"""Concept detection by regions beside words, dense activations and directions that know nothing.

    python -m experiments.studies.concepts CONCEPTS [CONCEPTS ...] --cache DIR --out FILE

What is asked, and by which rule it is decided: `ep_experiments/axbench/PREREGISTRATION.md`. Activations in the cache
are those of `ep experiment axbench --dtype bfloat16` at resid_post.15; missing ones are extracted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ep_experiments.activations import TextActivations, text_activations
from ep_experiments.axbench import readouts
from ep_experiments.axbench.baselines import cosines
from ep_experiments.axbench.columns import DualRidge, Ordinary, arms
from ep_experiments.axbench.detect import ORDINARY_CONTEXT, ordinary_texts
from ep_experiments.axbench.readouts import Examples, Rule, auroc, pool
from ep_experiments.concepts import Concept, ConceptSet, read_concepts
from ep_experiments.paired import difference, mean_spread
from ep_experiments.record import write_study
from exemplar_partitioning.demo.corpus import documents_of
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.models.loaded import LoadedModel

SITE = "resid_post.15"
TOKENS = 200_000
CONTEXT = 256
TRAININGS = ("own", "genres", "all")
KINDS = ("auroc", "negative", "hard")
PENALTIES = (1e-4, 1e-3, 1e-2)
FOLDS = 3


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("concepts", type=Path, nargs="+")
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--percentile", type=float, default=1.0)
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    begun = time.monotonic()
    loaded = load_model("smollm2-135m-instruct", dtype="bfloat16", device="cpu")
    ordinary = ordinary_at(loaded, given.cache, given.percentile)
    rows: list[dict[str, Any]] = []
    folds: list[dict[str, Any]] = []
    for path in given.concepts:
        found = read_concepts(path)
        acts = text_activations(loaded, [SITE], found.texts, cache=given.cache, context_size=CONTEXT)[SITE]
        rows += detected(found, acts, ordinary, given.cache)
        folds += chosen(found, acts, ordinary)
    result = {"site": SITE, "percentile": given.percentile, "k": ordinary.regions.k}
    result |= summary(rows) | {"choice": choice(folds), "concepts": rows}
    write_study(given.out, "concepts", loaded.info, begun, result, study="concepts")


def ordinary_activations(loaded: LoadedModel, cache: Path) -> TextActivations:
    """Of the packaged text, as `ep experiment axbench` has them."""
    texts = ordinary_texts(loaded, documents_of(None), TOKENS)
    return text_activations(loaded, [SITE], texts, cache=cache, context_size=ORDINARY_CONTEXT)[SITE]


def ordinary_at(loaded: LoadedModel, cache: Path, percentile: float) -> Ordinary:
    """Directions from the packaged text, as `ep experiment axbench` has them."""
    return Ordinary(torch.from_numpy(np.array(ordinary_activations(loaded, cache).x_nd[:TOKENS])), percentile)


def detected(given: ConceptSet, acts: TextActivations, ordinary: Ordinary, cache: Path) -> list[dict[str, Any]]:
    """AUROCs of every concept by every arm, under each training; of what is drawn at random, the mean of the draws."""
    training = sorted({int(i) for c in given.concepts for i in np.concatenate([c.positive, c.negative, c.others])})
    every = np.unique(np.concatenate([c.negative for c in given.concepts]))
    scores: list[dict[str, list[list[float]]]] = [{} for _ in given.concepts]
    for arm in arms(acts, given.texts, training, ordinary, cache):
        dual = arm.dual()
        for of, concept in zip(scores, given.concepts, strict=True):
            for trained_on in TRAININGS:
                value = scored(dual, concept, without(concept, trained_on, every))
                of.setdefault(f"{arm.name}, {trained_on}", []).append(value)
    return [
        {
            "set": given.name,
            "name": concept.name,
            "genre": concept.genre,
            "by": {name: [_rounded(v) for v in np.mean(draws, axis=0)] for name, draws in of.items()},
        }
        for of, concept in zip(scores, given.concepts, strict=True)
    ]


def without(concept: Concept, trained_on: str, every: np.ndarray) -> np.ndarray:
    """Training texts without the concept. every: negative ones of all concepts of the set."""
    if trained_on == "own":
        return concept.negative
    return every if trained_on == "genres" else np.concatenate([concept.negative, concept.others])


def scored(dual: DualRidge, concept: Concept, negative: np.ndarray) -> list[float]:
    """AUROC against all evaluation texts without it, the negative ones, and the hard negative ones."""
    rows = np.concatenate([concept.positive, negative])
    score_t = dual.score(rows, np.arange(len(rows)) < len(concept.positive))
    positive, easy, hard = (score_t[part] for part in (concept.eval_positive, concept.eval_negative, concept.eval_hard))

    def against(other: np.ndarray) -> float:
        scores = np.concatenate([positive, other])
        return float(auroc(scores, np.arange(len(scores)) < len(positive)))

    return [against(np.concatenate([easy, hard])), against(easy), against(hard)]


def chosen(given: ConceptSet, acts: TextActivations, ordinary: Ordinary) -> list[dict[str, Any]]:
    """AUROC of every rule on regions in folds of a concept's training texts; evaluation texts are not looked at."""
    encode = cosines(ordinary.regions.center, ordinary.regions.exemplars)
    texts = pool(acts, encode, readouts.shares)
    rules: dict[str, Rule] = {"best": readouts.best, "five best": readouts.several(5), "profile": readouts.profile}
    duals = {f"ridge, {penalty:g}": DualRidge(texts.highest, penalty) for penalty in PENALTIES}
    found = []
    for concept in given.concepts:
        rows = np.concatenate([concept.positive, concept.negative, concept.others])
        positive_m = np.arange(len(rows)) < len(concept.positive)
        fold_m = np.concatenate([np.arange(int(kind.sum())) % FOLDS for kind in (positive_m, ~positive_m)])
        values: dict[str, list[float]] = {name: [] for name in (*rules, *duals)}
        for fold in range(FOLDS):
            inside, left = rows[fold_m != fold], rows[fold_m == fold]
            examples = Examples(texts[inside], positive_m[fold_m != fold])
            scores = {name: rule(examples).score(texts[left]) for name, rule in rules.items()}
            scores |= {name: dual.score(inside, examples.positive_m)[left] for name, dual in duals.items()}
            for name, score_n in scores.items():
                values[name].append(float(auroc(score_n, positive_m[fold_m == fold])))
        found.append({"name": concept.name} | {name: float(np.mean(of)) for name, of in values.items()})
    return found


def choice(folds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every rule's mean over concepts with its interval, best first."""
    rules = [name for name in folds[0] if name != "name"]
    table = [{"rule": rule, "auroc": mean_spread(np.array([row[rule] for row in folds]))} for rule in rules]
    return sorted(table, key=lambda row: -row["auroc"][0])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over concepts with intervals, by genre, and paired differences of regions to all under one training."""
    values = {by: np.array([row["by"][by] for row in rows], np.float64) for by in rows[0]["by"]}
    genre_c = np.array([row["genre"] for row in rows])
    table = [
        {
            "what": what,
            **{kind: mean_spread(value_ck[:, k]) for k, kind in enumerate(KINDS)},
            "genres": {genre: mean_spread(value_ck[genre_c == genre, 0]) for genre in sorted(set(genre_c))},
        }
        for what, value_ck in values.items()
    ]
    pairs = [
        {
            "above": what,
            **{kind: _above(values[f"regions, {what.split(', ')[1]}"], of, k) for k, kind in enumerate(KINDS)},
        }
        for what, of in values.items()
        if not what.startswith("regions, ")
    ]
    return {"table": table, "pairs": pairs}


def _above(regions_ck: np.ndarray, other_ck: np.ndarray, kind: int) -> list[float]:
    apart = difference(regions_ck[:, kind], other_ck[:, kind])
    return [round(apart[name], 4) for name in ("difference", "low", "high")]


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


if __name__ == "__main__":
    main()
