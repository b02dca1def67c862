"""What is summed on the way: errors of rebuilt activations by document, and predictions of the model.

Shapes: n activations, d = d_model, f features, w documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .codes import Coder, Rebuilt
from .result import Bootstrap, Row

OUTLIER = 100  # times the median variance of a coordinate


class Spread:
    """How the activations to evaluate on are spread: their mean, outlier coordinates, and squares around the mean."""

    def __init__(self, x_nd: Float32[Tensor, "n d"], document_n: Int64[np.ndarray, " n"]):
        self.documents = int(document_n.max()) + 1
        exact_nd = x_nd.double()
        self.mean_d = exact_nd.mean(dim=0).float()
        variance_d = exact_nd.var(dim=0, correction=0)
        self.inside_d: Bool[Tensor, " d"] = variance_d <= OUTLIER * variance_d.median()
        self.total_w, self.total_inside_w = self.squares(x_nd - self.mean_d, document_n)

    def squares(
        self, error_nd: Float32[Tensor, "n d"], document_n: Int64[np.ndarray, " n"]
    ) -> tuple[Float64[np.ndarray, " w"], Float64[np.ndarray, " w"]]:
        """Squared lengths summed over each document: of all coordinates, and without the outliers."""
        square_nd = error_nd.double() ** 2
        every_n, inside_n = square_nd.sum(dim=1).numpy(), square_nd[:, self.inside_d].sum(dim=1).numpy()
        every_w, inside_w = (np.bincount(document_n, each_n, self.documents) for each_n in (every_n, inside_n))
        return every_w, inside_w


@dataclass
class Predictions:
    """Sums over the counted predictions of each document, nats."""

    count_w: Float64[np.ndarray, " w"]
    clean_w: Float64[np.ndarray, " w"]
    zero_w: Float64[np.ndarray, " w"]
    mean_w: Float64[np.ndarray, " w"]

    def each(self) -> Sequence[float]:
        """Mean cross-entropy of a prediction: clean, and with zeros or the mean spliced in."""
        count = self.count_w.sum()
        return [float(sum_w.sum() / count) for sum_w in (self.clean_w, self.zero_w, self.mean_w)]


class Tally:
    """Of one kind of code."""

    def __init__(self, coder: Coder, spread: Spread):
        self.coder, self.spread = coder, spread
        self.error_w, self.error_inside_w, self.ce_w, self.kl_w = np.zeros((4, spread.documents))
        self.l0 = self.cosine = 0.0
        self.rows = 0
        self.live_f = torch.zeros(coder.features, dtype=torch.bool)

    def add(self, x_nd: Float32[Tensor, "n d"], rebuilt: Rebuilt, document_n: Int64[np.ndarray, " n"]) -> None:
        """Count activations and what became of them."""
        error_w, error_inside_w = self.spread.squares(x_nd - rebuilt.x_nd, document_n)
        self.error_w += error_w
        self.error_inside_w += error_inside_w
        self.l0 += float(rebuilt.l0_n.sum())
        self.cosine += float(cosine_similarity(x_nd, rebuilt.x_nd).double().sum())
        self.live_f |= rebuilt.live_f
        self.rows += len(x_nd)

    def row(self, bootstrap: Bootstrap, predictions: Predictions | None) -> Row:
        """The figures, those of predictions if any were made."""
        row = Row(
            code=self.coder.name,
            k=self.coder.k,
            features=self.coder.features,
            l0=self.l0 / self.rows,
            fvu=bootstrap.ratio(self.error_w, self.spread.total_w),
            fvu_without_outliers=bootstrap.ratio(self.error_inside_w, self.spread.total_inside_w),
            cosine=self.cosine / self.rows,
            live=float(self.live_f.float().mean()),
        )
        if predictions is None:
            return row
        p, count = predictions, predictions.count_w.sum()
        return replace(
            row,
            ce=float(self.ce_w.sum() / count),
            kl=float(self.kl_w.sum() / count),
            ce_recovered_zero=bootstrap.ratio(p.zero_w - self.ce_w, p.zero_w - p.clean_w),
            ce_recovered_mean=bootstrap.ratio(p.mean_w - self.ce_w, p.mean_w - p.clean_w),
        )
