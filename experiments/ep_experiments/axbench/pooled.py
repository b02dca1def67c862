"""Several results of `run.py` as one: every method over all models, sites and concepts, paired with a reference.

Shapes: s places (a site of a model), c concepts, b resamples.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..paired import interval, ratio, resamples
from .detect import RESAMPLES
from .site import KINDS, TRAININGS

REFERENCES = ("DiffMean", "logistic probe")
_OWN = ("contrast", "best", "five best", "")  # rules shown as AxBench trains them; and of regions all
_ALL = ("best", "five best", "profile", "ridge", "")  # rules shown as trained against other concepts, too
_TWICE = ("exemplar", "mean activation")
_FEW = {"PCA": ("best", "ridge"), "LAT": ("",)}
Method = tuple[str, str, float | None, str]
"""Basis, rule, percentile, and the texts it was trained on."""


def methods(results: Sequence[dict[str, Any]]) -> dict[Method, dict[str, Float64[np.ndarray, "s c"]]]:
    """AUROCs of every method that was tried at every place, in the order of trial.

    Concepts are those of all results; NaN where a place did not have one.
    """
    places = [
        (i, site) for i, result in enumerate(results) for site in dict.fromkeys(r["site"] for r in result["rows"])
    ]
    named = [[(s["name"], n) for s in result["sets"] for n in range(len(s["concepts"]))] for result in results]
    column = {concept: c for c, concept in enumerate(dict.fromkeys(concept for own in named for concept in own))}
    scores: dict[Method, dict[str, np.ndarray]] = {}
    tried: Counter[Method] = Counter()
    for i, result in enumerate(results):
        columns = [column[concept] for concept in named[i]]
        for row in result["rows"]:
            method = (row["basis"], row["rule"], row["percentile"], row["training"])
            tried[method] += 1
            empty = {kind: np.full((len(places), len(column)), np.nan) for kind in KINDS}
            for kind, value_sc in scores.setdefault(method, empty).items():
                value_sc[places.index((i, row["site"])), columns] = np.array(row[kind], np.float64)
    return {method: values for method, values in scores.items() if tried[method] == len(places)}


def reference(scores: dict[Method, dict[str, np.ndarray]], trained_on: str = "own") -> Method:
    """The better of difference of means and logistic probe, pooled, of those trained on some texts."""
    return max(
        ((name, "", None, trained_on) for name in REFERENCES), key=lambda method: np.nanmean(scores[method]["auroc"])
    )


def pooled(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean AUROC of every method with its interval, and how far it lies above the references.

    above_reference: the better one as AxBench trains it.  above_same: the better one trained on the same texts.
    A resample draws concepts: a concept is drawn with its figures at all places, which are no independent witnesses.
    """
    scores = methods(results)
    base = {trained_on: scores[reference(scores, trained_on)]["auroc"] for trained_on in TRAININGS}
    weight_bc = resamples(base["own"].shape[1], RESAMPLES, seed=0)

    def estimate(value_sc: np.ndarray) -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a concept without hard negatives anywhere: NaN
            value_c = np.nanmean(value_sc, axis=0)
        known_c = np.isfinite(value_c)
        mean_b = ratio(np.where(known_c, value_c, 0), known_c.astype(float), weight_bc)
        return [round(float(x), 4) for x in (value_c[known_c].mean(), *interval(mean_b))]

    return [
        {
            "basis": basis,
            "rule": rule,
            "percentile": percentile,
            "training": trained_on,
            **{kind: estimate(values[kind]) for kind in KINDS},
            "above_reference": estimate(values["auroc"] - base["own"]),
            "above_same": estimate(values["auroc"] - base[trained_on]),
            "places": np.nanmean(values["auroc"], axis=1).round(4).tolist(),
        }
        for (basis, rule, percentile, trained_on), values in scores.items()
    ]


def shown(rows: Sequence[dict[str, Any]], percentile: float) -> list[dict[str, Any]]:
    """Pooled rows that a reader is shown: of one percentile, without rules where they are of no use; best first."""

    def wanted(row: dict[str, Any]) -> bool:
        basis, rule, own = row["basis"], row["rule"], row["training"] == "own"
        if row["percentile"] not in (None, percentile) or rule not in _FEW.get(basis, (rule,)):
            return False
        return basis in _TWICE or rule in (_OWN if own else _ALL)

    return sorted(filter(wanted, rows), key=lambda row: -row["auroc"][0])
