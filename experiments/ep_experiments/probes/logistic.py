"""Logistic regression as a probe. Whatever it learns or chooses, it learns from training rows alone.

Shapes: n training rows, t test rows, f features, c classes.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float, Float64, Int64

from ..tasks import FOLDS

GRID = tuple(10.0**power for power in range(-2, 5))  # C, for rows of unit mean square length


def probe(
    train_nf: Float[np.ndarray, "n f"],
    label_n: Int64[np.ndarray, " n"],
    test_tf: Float[np.ndarray, "t f"],
    *,
    standardise: bool,
    seed: int,
) -> tuple[Float64[np.ndarray, "t c"], float]:
    """Probabilities of the classes on test rows, and C: the one with the least log loss in cross-validation.

    standardise: bring every feature to unit variance; for dense ones.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    train, test = prepared(train_nf, test_tf, standardise=standardise)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": GRID}, scoring="neg_log_loss", cv=folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak regularisation on separable classes has no end
        search.fit(train, label_n)
    return search.predict_proba(test), float(search.best_params_["C"])


def prepared(
    train_nf: Float[np.ndarray, "n f"], test_tf: Float[np.ndarray, "t f"], *, standardise: bool
) -> tuple[Float64[np.ndarray, "n g"], Float64[np.ndarray, "t g"]]:
    """Features centred, scaled so that one grid of C serves all, and as few as there are training rows.

    The weights of a regression with an L2 penalty lie in the span of its rows, so turning the features onto that span
    changes no prediction.
    """
    used = np.flatnonzero(np.ptp(train_nf, axis=0) > 0)  # a deviation would round to more than 0 for equal numbers
    if not len(used):
        return np.zeros((len(train_nf), 1)), np.zeros((len(test_tf), 1))
    train, test = train_nf[:, used].astype(np.float64), test_tf[:, used].astype(np.float64)
    mean_f = train.mean(axis=0)
    scale = train.std(axis=0) if standardise else 1.0
    train, test = (train - mean_f) / scale, (test - mean_f) / scale
    if train.shape[1] > len(train):
        span_fn, _ = np.linalg.qr(train.T)
        train, test = train @ span_fn, test @ span_fn
    length = np.sqrt((train**2).sum(axis=1).mean())
    return train / length, test / length


def top_features(
    train_nf: Float[np.ndarray, "n f"], label_n: Int64[np.ndarray, " n"], k: int
) -> Int64[np.ndarray, " k"]:
    """The features whose mean in a class differs most from that in the others, most different first."""
    differences = [
        np.abs(train_nf[label_n == c].mean(axis=0) - train_nf[label_n != c].mean(axis=0)) for c in np.unique(label_n)
    ]
    return np.argsort(-np.max(differences, axis=0), kind="stable")[:k]
