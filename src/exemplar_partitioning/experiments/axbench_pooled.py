"""Several results of `axbench.run` as one: every method over all models, sites and concepts, paired with a reference.

Shapes: s places (a site of a model), c concepts, b resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from .axbench import KINDS, RESAMPLES
from .resampling import interval, resamples

REFERENCES = ("DiffMean", "logistic probe")
Method = tuple[str, str, float | None]
"""Basis, rule and percentile."""


def methods(results: Sequence[dict[str, Any]]) -> dict[Method, dict[str, Float64[np.ndarray, "s c"]]]:
    """AUROCs of every method that was tried at every place, NaN where a concept has none, in the order of trial."""
    places = [
        (i, site) for i, result in enumerate(results) for site in dict.fromkeys(r["site"] for r in result["rows"])
    ]
    found: dict[Method, dict[tuple[int, str], dict[str, Any]]] = {}
    for i, result in enumerate(results):
        for row in result["rows"]:
            found.setdefault((row["basis"], row["rule"], row["percentile"]), {})[i, row["site"]] = row
    return {
        method: {kind: np.array([rows[place][kind] for place in places], np.float64) for kind in KINDS}
        for method, rows in found.items()
        if len(rows) == len(places)
    }


def reference(found: dict[Method, dict[str, np.ndarray]]) -> Method:
    """The better of difference of means and logistic probe, pooled."""
    return max(((name, "", None) for name in REFERENCES), key=lambda method: found[method]["auroc"].mean())


def pooled(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean AUROC of every method with its interval, and how far it lies above the reference.

    A resample draws concepts: a concept is drawn with its figures at all places, which are no independent witnesses.
    """
    found = methods(results)
    base_sc = found[reference(found)]["auroc"]
    weight_bc = resamples(base_sc.shape[1], RESAMPLES, seed=0)

    def estimate(value_sc: np.ndarray) -> list[float]:
        value_c = np.nanmean(value_sc, axis=0)
        known_c = np.isfinite(value_c)
        mean_b = weight_bc[:, known_c] @ value_c[known_c] / weight_bc[:, known_c].sum(axis=1)
        return [round(float(x), 4) for x in (value_c[known_c].mean(), *interval(mean_b))]

    return [
        {
            "basis": basis,
            "rule": rule,
            "percentile": percentile,
            **{kind: estimate(values[kind]) for kind in KINDS},
            "above_reference": estimate(values["auroc"] - base_sc),
            "places": np.nanmean(values["auroc"], axis=1).round(4).tolist(),
        }
        for (basis, rule, percentile), values in found.items()
    ]
