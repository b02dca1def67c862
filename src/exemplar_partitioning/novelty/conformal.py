"""p-values that hold without assumptions on the scores: ranks among documents that were not used for anything else.

If a new document is exchangeable with those of the calibration (drawn from the same source, in any way), the
probability that its p-value is at most a is at most a, whatever a (Vovk et al. 2005). For a token, the same holds of
one drawn at random from the new document; there every document counts alike, however long (Dunn et al. 2022;
Lee, Barber and Willett 2023).

Shapes: n scores, g points of a tail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field, model_validator

POINTS = 400  # of a tail at most; between them p-values are rounded up


class Tail(BaseModel):
    """How much of the calibration scores more than so much.

    Attributes:
        scores: ascending.
        above: share of the calibration with a larger score, every document counting alike.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: int = Field(ge=1)
    scores: list[float] = Field(min_length=1)
    above: list[float] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Tail:
        score_g, above_g = np.array(self.scores), np.array(self.above)
        if above_g.min() < 0 or above_g.max() > 1:
            raise ValueError("a share lies between 0 and 1")
        if len(score_g) != len(above_g) or (np.diff(score_g) <= 0).any() or (np.diff(above_g) > 0).any():
            raise ValueError("scores must rise and above must fall, side by side")
        return self

    @classmethod
    def of(cls, documents: Sequence[Float64[np.ndarray, " n"]]) -> Tail:
        """The tail of the scores of some documents: one each, or one for each token; none without a score."""
        score_n = np.concatenate(documents)
        weight_n = np.concatenate([np.full(len(scores), 1 / len(scores)) for scores in documents]) / len(documents)
        order = np.argsort(-score_n, kind="stable")
        score_n, total_n = score_n[order], np.cumsum(weight_n[order])
        rank_g = np.unique(np.geomspace(1, len(score_n), POINTS).round().astype(int)) - 1
        score_g = np.unique(score_n[rank_g])
        before_g = np.searchsorted(-score_n, -score_g, side="left")  # scores larger than each
        above_g = np.where(before_g > 0, total_n[before_g - 1], 0.0)
        return cls(documents=len(documents), scores=score_g.tolist(), above=above_g.tolist())

    def p(self, score_n: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """(1 + documents that score as much) / (1 + documents), between points of the tail rounded up."""
        at_n = np.searchsorted(self.scores, score_n, side="left") - 1
        share_n = np.where(at_n >= 0, np.array(self.above)[at_n], 1.0)
        return np.round((1 + self.documents * share_n) / (1 + self.documents), 12)  # 5 of 100 are 0.05


def fewest(rate: float, confidence: float | None = None) -> int:
    """Documents of calibration below which no p-value is as small as the rate, or as `sure_level`."""
    if confidence is not None:
        return int(np.ceil(np.log1p(-confidence) / np.log1p(-rate) - 1e-9))
    return int(np.ceil(1 / rate - 1 - 1e-9))


def sure_level(rate: float, confidence: float, documents: int) -> float:
    """A level for p-values that keeps the false alarms of *this* calibration at a rate, with some confidence.

    At level a they are a on average over calibrations, and more than a in nearly half of these. With m of n documents
    at the level or above, the share of new documents that reach it is Beta(m, n + 1 - m) (Vovk 2012, conditional
    validity; ties only lower it). So m is the largest for which that stays within the rate with the confidence.
    0 if there are too few documents.
    """
    from scipy.stats import binom

    return round(float(binom.ppf(1 - confidence, documents, rate)) / (documents + 1), 12)
