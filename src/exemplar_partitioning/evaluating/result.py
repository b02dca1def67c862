"""The figures of an evaluation, with intervals over documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

_RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, documents drawn anew."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """How well one kind of code does.

    Attributes:
        l0: features in use per token.
        fvu: sum |x - x'|^2 / sum |x - mean|^2 over the tokens, mean of these tokens; 0 is perfect.
        fvu_without_outliers: the same without the coordinates whose variance exceeds 100 times the median one.
        cosine: mean cosine of x and x'.
        ce, kl: mean cross-entropy with x' in place of x, and mean KL from the model's clean predictions; nats a token.
        ce_recovered_zero, ce_recovered_mean: (CE_ablated - ce) / (CE_ablated - CE_clean), ablated by zeros or by the
            mean.
        live: share of the features in use on at least one token.
    """

    code: str
    k: int | None
    features: int
    l0: float
    fvu: Interval
    fvu_without_outliers: Interval
    cosine: float
    live: float
    ce: float | None = None
    kl: float | None = None
    ce_recovered_zero: Interval | None = None
    ce_recovered_mean: Interval | None = None


@dataclass(frozen=True)
class Evaluation:
    """Codes of held-out activations, and what the model makes of them.

    Attributes:
        outlier_coordinates: how many fvu_without_outliers leaves out.
        ce_clean: cross-entropy of the model as it is.
        ce_zero: with zeros spliced in.
        ce_mean: with the mean spliced in.
    """

    dictionary: str
    site: str
    text: str
    documents: int
    tokens: int
    outlier_coordinates: int
    ce_clean: float | None
    ce_zero: float | None
    ce_mean: float | None
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Bootstrap:
    """Documents drawn with replacement, the same ones for every figure."""

    def __init__(self, documents: int, seed: int):
        rng = np.random.default_rng(seed)
        self.count_bd = rng.multinomial(documents, np.full(documents, 1 / documents), size=_RESAMPLES)

    def ratio(self, above_d: Float64[np.ndarray, " d"], below_d: Float64[np.ndarray, " d"]) -> Interval:
        """Of sums over documents."""
        below_b = self.count_bd @ below_d
        ratio_b = (self.count_bd @ above_d)[below_b != 0] / below_b[below_b != 0]
        low, high = np.quantile(ratio_b, [0.025, 0.975])
        return Interval(float(above_d.sum() / below_d.sum()), float(low), float(high))
