"""How well scores report novel documents from ordinary ones, with intervals over documents.

Tokens of one document are no independent samples, so documents are drawn anew and take their tokens along.

Shapes: n scores, b resamples, t documents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from ..paired import auroc, spread


def fpr95(
    score_n: Float[np.ndarray, " n"], novel_n: Bool[np.ndarray, " n"], weight_bn: Int64[np.ndarray, "b n"]
) -> Float64[np.ndarray, " b"]:
    """Share of ordinary scores that reach the highest threshold which 95 % of the novel ones reach."""
    order = np.argsort(-score_n, kind="stable")
    starts = np.flatnonzero(np.diff(score_n[order], prepend=np.inf))  # of each run of equal scores, from the highest
    weight_bn = weight_bn[:, order]
    flagged_bg = np.cumsum(np.add.reduceat(weight_bn * novel_n[order], starts, axis=1), axis=1)
    reached_bg = np.cumsum(np.add.reduceat(weight_bn, starts, axis=1), axis=1) - flagged_bg
    at_b = (flagged_bg * 100 >= 95 * flagged_bg[:, -1:]).argmax(axis=1)
    return reached_bg[np.arange(len(at_b)), at_b] / reached_bg[:, -1]


def separation(
    score_n: Float[np.ndarray, " n"], novel_n: Bool[np.ndarray, " n"], weight_bn: Int64[np.ndarray, "b n"]
) -> tuple[dict[str, Any], Float64[np.ndarray, " b"]]:
    """AUROC and FPR95 with 95 % intervals, and the AUROC under every row of weights; the first is the data itself."""
    auroc_b = auroc(score_n, novel_n, weight_bn)
    return {"auroc": spread(auroc_b), "fpr95": spread(fpr95(score_n, novel_n, weight_bn))}, auroc_b
