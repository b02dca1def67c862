"""Exemplar Partitioning as a scikit-learn estimator."""

from __future__ import annotations

from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import EPError
from .calibration import BATCH, SAMPLE, calibrate, center, check_percentiles
from .dictionary import Dictionary
from .geometry import check_threshold
from .leader import LeaderClustering


class ExemplarPartition(TransformerMixin, BaseEstimator):
    """Partition of the centred unit sphere by leader clustering, anchored by observed rows.

    Rows are centred, put on the unit sphere and clustered in one pass: a row farther than the
    threshold (cosine distance) from every exemplar becomes one. The order of rows matters; how they
    are split between calls of `partial_fit` does not.

    It quantises rather than finds clusters: a fine percentile cuts a blob into many cells, so
    scikit-learn is told that this is a transformer, though it has the methods of a clusterer too.

    Parameters
    ----------
    percentile : float, default=2.0
        Resolution: the threshold is this percentile of the pairwise distances. Small is fine.
    threshold : float, default=None
        Cosine distance, 0..2; given, nothing is ranked and `percentile` has no say.
    center : array-like of shape (n_features,), default=None
        Given, subtracted as it is; by default computed from the rows that calibrate.
    calibration_batch : int, default=16384
        Rows among which distances are ranked; the threshold is the mean over batches.
    calibration_sample : int, default=212992
        Rows at the beginning of the stream that calibrate. Until `partial_fit` has seen so many, it
        keeps them and calibrates anew when asked for results; then centre and threshold are settled.

    Attributes
    ----------
    center_ : ndarray of shape (n_features,)
    threshold_ : float
    exemplars_ : ndarray of shape (n_exemplars, n_features)
        Unit directions.
    exemplar_indices_ : ndarray of shape (n_exemplars,)
        Row numbers in the stream of the rows that became exemplars.
    labels_ : ndarray of shape (n_samples,)
        Region of each row of the last `fit` or `partial_fit`, over the frozen exemplars; -1 for a row
        without a direction (equal to the centre).
    counts_ : ndarray of shape (n_exemplars,)
        Members of each region among those rows.
    n_features_in_ : int

    See Also
    --------
    exemplar_partitioning.Dictionary : The same partition for activations of a model.

    Examples
    --------
    >>> import numpy as np
    >>> from exemplar_partitioning import ExemplarPartition
    >>> X = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [-1.0, 0.0]])
    >>> ExemplarPartition(threshold=0.5, center=[0.0, 0.0]).fit_predict(X)
    array([0, 1, 0, 2])
    """

    def __init__(
        self,
        percentile: float = 2.0,
        threshold: float | None = None,
        center: Any = None,
        calibration_batch: int = BATCH,
        calibration_sample: int = SAMPLE,
    ):
        self.percentile = percentile
        self.threshold = threshold
        self.center = center
        self.calibration_batch = calibration_batch
        self.calibration_sample = calibration_sample

    def fit(self, X: Any, y: Any = None) -> ExemplarPartition:
        """Cluster the rows of X, forgetting what was learnt before."""
        self._take(X, reset=True)
        if self._stream.n == 1 and self.threshold is None:
            del self._stream
            raise EPError("cannot rank distances with 1 sample; give more rows or a threshold")
        _ = self.labels_  # settles everything while X is at hand
        return self

    def partial_fit(self, X: Any, y: Any = None) -> ExemplarPartition:
        """Continue the stream with the rows of X; pieces give what fitting the whole gives."""
        return self._take(X, reset=not self.__sklearn_is_fitted__())

    def _take(self, X: Any, *, reset: bool) -> ExemplarPartition:
        x_nd = torch.from_numpy(self._validated(X, reset=reset))
        if reset:
            self._check_parameters(x_nd.shape[1])
            self._stream = _Stream(self)
        self._stream.add(x_nd)
        self._last = x_nd.clone()
        self.__dict__.pop("_labels", None)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and return the region of each row: ndarray of shape (n_samples,)."""
        return self.fit(X).labels_

    def predict(self, X: Any) -> np.ndarray:
        """Region of each row: ndarray of shape (n_samples,); -1 for a row equal to the centre."""
        return self._dictionary.assign(self._validated(X, reset=False))[0]

    def transform(self, X: Any) -> np.ndarray:
        """Cosine distance of each row to each exemplar: ndarray of shape (n_samples, n_exemplars)."""
        dictionary = self._dictionary
        return np.nan_to_num(dictionary.distances(self._validated(X, reset=False)), nan=1.0)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """`exemplarpartition0`, `exemplarpartition1`, ..."""
        return np.array([f"exemplarpartition{i}" for i in range(self._dictionary.k)], dtype=object)

    @property
    def _dictionary(self) -> Dictionary:
        check_is_fitted(self)
        return self._stream.dictionary

    @cached_property
    def _labels(self) -> np.ndarray:
        return self._dictionary.assign(self._last)[0].numpy()

    center_ = property(lambda self: self._learnt.center.numpy())
    threshold_ = property(lambda self: self._learnt.threshold)
    exemplars_ = property(lambda self: self._learnt.exemplars.numpy())

    @property
    def _learnt(self) -> Dictionary:
        if not self.__sklearn_is_fitted__():
            raise AttributeError("not fitted")
        return self._stream.dictionary

    @property
    def exemplar_indices_(self) -> np.ndarray:
        _ = self._learnt
        return self._stream.clustering.births

    @property
    def labels_(self) -> np.ndarray:
        _ = self._learnt
        return self._labels

    @property
    def counts_(self) -> np.ndarray:
        labels = self.labels_
        return np.bincount(labels[labels >= 0], minlength=self._learnt.k)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_stream")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _validated(self, X: Any, *, reset: bool) -> np.ndarray:
        if not reset:
            check_is_fitted(self)
        return np.ascontiguousarray(validate_data(self, X, reset=reset, dtype=np.float32))

    def _check_parameters(self, n_features: int) -> None:
        check_percentiles([self.percentile])
        if self.threshold is not None:
            check_threshold(self.threshold)
        for name in ("calibration_batch", "calibration_sample"):
            if not isinstance(value := getattr(self, name), Integral) or value < 2:
                raise EPError(f"{name} must be a whole number of rows, at least 2; got {value!r}")
        if self.center is None:
            return
        if np.shape(self.center) != (n_features,):
            raise EPError(f"center must have one value per feature, ({n_features},); got {np.shape(self.center)}")
        if not np.isfinite(np.asarray(self.center, np.float32)).all():
            raise EPError("center must be finite; got NaN or infinity")


class _Stream:
    """Rows so far: kept while they calibrate, then clustered as they come."""

    def __init__(self, parameters: ExemplarPartition):
        self.parameters = parameters
        self.kept: list[torch.Tensor] = []
        self.n = 0
        self.settled: LeaderClustering | None = None
        self._current: LeaderClustering | None = None

    def add(self, x_nd: torch.Tensor) -> None:
        self._current = None
        p = self.parameters
        given = p.threshold is not None and p.center is not None
        need = 0 if given else p.calibration_sample - self.n
        self.n += len(x_nd)
        if self.settled is None:
            self.kept.append(x_nd.clone())
            if need > len(x_nd):
                return
            self.settled, self.kept = self._cluster(torch.cat(self.kept)), []
        else:
            self.settled.add(x_nd)

    @property
    def clustering(self) -> LeaderClustering:
        if self.settled is not None:
            return self.settled
        if self._current is None:
            self._current = self._cluster(torch.cat(self.kept))
        return self._current

    @property
    def dictionary(self) -> Dictionary:
        c = self.clustering
        return Dictionary(c.center, c.exemplars, c.threshold)

    def _cluster(self, x_nd: torch.Tensor) -> LeaderClustering:
        p = self.parameters
        sample = x_nd[: p.calibration_sample]
        size = min(p.calibration_batch, len(sample))
        whole = len(sample) - len(sample) % size
        batches = sample[:whole].split(size)
        threshold = p.threshold
        if p.center is not None:
            center_d = torch.as_tensor(np.asarray(p.center, np.float32))
        else:
            center_d = center(batches)
        if threshold is None:
            threshold = calibrate(batches, [p.percentile], center_d).thresholds[float(p.percentile)]
        clustering = LeaderClustering(center_d, threshold)
        clustering.add(x_nd)
        return clustering
