"""Concept detection without a model: what the words and the length of a text tell.

    python -m experiments.studies.words CONCEPTS [CONCEPTS ...] --beside FILE [--out docs/results/words/smollm2.json]

Decided before the run. Question: what is left of concept detection by regions when words do the same? Data:
concepts and texts of `ep experiment axbench`. Arms: ridge regression, as of regions (penalty .001, chosen there and
not here), on TF-IDF of words (lower case, sublinear, vocabulary of the set's training texts), and the length of the
text in words. Trainings: own (the concept's texts and the negative ones of its genre, as AxBench trains), genres
(own, and the shared negative texts of all genres of the set; no other concepts), all (the texts of the set's other
concepts, too). Statistic: AUROC, mean over concepts, paired differences to the rows of FILE (a result of that
command) at its first site and percentile 1, concepts drawn anew 4,000 times; tables by genre. Rule: regions detect
more than words where the difference is .02 or more and its interval excludes 0. The setting in which regions should
win, stated beforehand: hard negatives, where the concept's words mean something else; training "all"; beside it
mean activation, the logistic probe and random exemplars, which a region must beat as well.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ep_experiments.resampling import mean_interval, resamples
from sklearn.feature_extraction.text import TfidfVectorizer

from ep_experiments.axbench.detect import RESAMPLES
from ep_experiments.axbench.readouts import Examples, Pooled, auroc, ridge
from ep_experiments.concepts import Concept, ConceptSet, read_concepts
from exemplar_partitioning.files import to_json

TRAININGS = ("own", "genres", "all")
KINDS = ("auroc", "negative", "hard")
BESIDE = ("exemplar", "random exemplars", "k-means", "mean activation", "logistic probe")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("concepts", type=Path, nargs="+")
    options.add_argument("--beside", type=Path, required=True, help="result of `ep experiment axbench`")
    options.add_argument("--out", type=Path, default=Path("docs/results/words/smollm2.json"))
    given = options.parse_args()
    sets = [read_concepts(path) for path in given.concepts]
    beside = json.loads(given.beside.read_bytes())
    assert [found.name for found in sets] == [found["name"] for found in beside["sets"]]
    rows = [row for found in sets for row in detected(found)]
    given.out.write_bytes(to_json(summary(rows, beside) | {"concepts": rows}))


def detected(given: ConceptSet) -> list[dict[str, Any]]:
    """AUROCs of every concept by words and by length, under each training."""
    training = sorted({int(i) for c in given.concepts for i in np.concatenate([c.positive, c.negative, c.others])})
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    vectorizer.fit([given.texts[i] for i in training])
    words = pooled(vectorizer.transform(given.texts).toarray().astype(np.float32))
    length = pooled(np.array([[len(text.split())] for text in given.texts], np.float32))
    every = np.unique(np.concatenate([c.negative for c in given.concepts]))
    rows = []
    for concept in given.concepts:
        row: dict[str, Any] = {"set": given.name, "name": concept.name, "genre": concept.genre, "by": {}}
        for name, texts in (("words", words), ("length", length)):
            for trained_on in TRAININGS:
                row["by"][f"{name}, {trained_on}"] = scored(texts, concept, without(concept, trained_on, every))
        rows.append(row)
    return rows


def pooled(x_tk: np.ndarray) -> Pooled:
    """Features of texts, as readouts of regions have them."""
    return Pooled(x_tk, x_tk, x_tk, np.ones(len(x_tk), np.int64))


def without(concept: Concept, trained_on: str, every: np.ndarray) -> np.ndarray:
    """Training texts without the concept. every: negative ones of all concepts of the set."""
    if trained_on == "own":
        return concept.negative
    if trained_on == "genres":
        return every
    return np.concatenate([concept.negative, concept.others])


def scored(texts: Pooled, concept: Concept, negative: np.ndarray) -> list[float | None]:
    """AUROC against all evaluation texts without it, the negative ones, and the hard negative ones."""
    rows = np.concatenate([concept.positive, negative])
    examples = Examples(texts[rows], np.arange(len(rows)) < len(concept.positive))
    weights = ridge()(examples)
    positive, easy, hard = (
        weights.score(texts[part]) for part in (concept.eval_positive, concept.eval_negative, concept.eval_hard)
    )

    def against(other: np.ndarray) -> float | None:
        scores = np.concatenate([positive, other])
        return round(float(auroc(scores, np.arange(len(scores)) < len(positive))), 4) if len(other) else None

    return [against(np.concatenate([easy, hard])), against(easy), against(hard)]


def summary(rows: list[dict[str, Any]], beside: dict[str, Any]) -> dict[str, Any]:
    """Means over concepts with intervals, by genre, and paired differences of regions to everything."""
    site = next(row["site"] for row in beside["rows"])
    values: dict[str, np.ndarray] = {}
    for by in rows[0]["by"]:
        values[by] = np.array([row["by"][by] for row in rows], np.float64)
    for row in beside["rows"]:
        rule = "" if row["basis"] == "logistic probe" else "ridge"
        if row["site"] == site and row["rule"] == rule and row["percentile"] in (None, 1.0) and _wanted(row["basis"]):
            value_ck = np.stack([np.array(row[kind], np.float64) for kind in KINDS], axis=1)
            values[f"{row['basis']}, {row['training']}"] = value_ck
    genre_c = np.array([row["genre"] for row in rows])
    table = [
        {
            "what": what,
            **{kind: _mean(value_ck[:, k]) for k, kind in enumerate(KINDS)},
            "genres": {genre: _mean(value_ck[genre_c == genre, 0]) for genre in sorted(set(genre_c))},
        }
        for what, value_ck in values.items()
    ]
    pairs = [
        {
            "above": what,
            **{kind: _mean(values["exemplar, all"][:, k] - value_ck[:, k]) for k, kind in enumerate(KINDS)},
        }
        for what, value_ck in values.items()
        if what != "exemplar, all"
    ]
    return {"site": site, "model": beside["model"]["id"], "table": table, "pairs": pairs}


def _wanted(basis: str) -> bool:
    return basis.startswith(BESIDE) and "percentiles" not in basis


def _mean(value_c: np.ndarray) -> list[float]:
    value_c = value_c[~np.isnan(value_c)]
    return [round(float(v), 4) for v in mean_interval(value_c, resamples(len(value_c), RESAMPLES, seed=0))]


if __name__ == "__main__":
    main()
