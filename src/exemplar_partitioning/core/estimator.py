"""Exemplar Partitioning as a scikit-learn estimator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, overload

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import EPError
from .calibration import BATCH, SAMPLE, Ranked, center, check_percentiles, settled
from .dictionary import Dictionary
from .geometry import check_threshold
from .intake import Rows, as_float32, intake
from .leader import LeaderClustering
from .nearest import ROWS

_BATCH = BATCH // 2  # ranking costs the square of it
_STAGES = (2, 4, 8, 16, SAMPLE // _BATCH)  # batches that calibrate: more until theta's standard error is small
_ERROR = 0.005  # of theta


class ExemplarPartition(TransformerMixin, BaseEstimator):
    """Partition of the centred unit sphere by leader clustering, anchored by observed rows.

    Rows are centred, put on the unit sphere and clustered in one pass: a row farther than the
    threshold (cosine distance) from every exemplar becomes one. The order of rows matters; how they
    are split between calls of `partial_fit` does not.

    It quantises rather than finds clusters: a fine percentile cuts a blob into many cells, so
    scikit-learn is told that this is a transformer, though it has the methods of a clusterer too.

    Args:
        percentile: resolution: the threshold is this percentile of the pairwise distances. Small is fine.
        threshold: cosine distance, 0..2; given, nothing is ranked and `percentile` has no say.
        center: [n_features], subtracted as it is; by default computed from the rows that calibrate.
        calibration_batch: rows among which distances are ranked; the threshold is the mean over batches.
        calibration_sample: rows at the beginning of the stream that calibrate; by default two batches, or four, eight,
            sixteen or twenty-six until the threshold's standard error is half a per cent of it, around the centre of
            the first two. Until `partial_fit` has seen so many, it keeps them and calibrates anew when asked for
            results; then centre and threshold are settled, as they are at the end of `fit`.

    Attributes:
        center_: what the rows are centred by.
        threshold_: the cosine distance that decides.
        theta_error_: standard error of the threshold, from how batches differ; 0 for a given one, NaN for one batch.
        exemplars_: [n_exemplars, n_features], unit directions.
        exemplar_indices_: [n_exemplars], numbers in the stream of the rows that became exemplars.
        labels_: [n_samples], region of each row of the last `fit` or `partial_fit`, over the frozen exemplars; -1 for
            a row without a direction (equal to the centre).
        counts_: [n_exemplars], members of each region among those rows.
        n_features_in_: columns.

    Examples:
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
        calibration_batch: int = _BATCH,
        calibration_sample: int | None = None,
    ):
        self.percentile = percentile
        self.threshold = threshold
        self.center = center
        self.calibration_batch = calibration_batch
        self.calibration_sample = calibration_sample

    def fit(self, X: Any, y: Any = None) -> ExemplarPartition:
        """Cluster the rows of X, forgetting what was learnt before; X is read in place, and not kept.

        Args:
            X: rows [n_samples, n_features], of numpy, torch, a frame, or mapped.
            y: ignored.

        Returns:
            This estimator.

        Raises:
            EPError: a parameter out of range, or too few rows to calibrate.
        """
        return self._learn(X, reset=True, end=True)

    def partial_fit(self, X: Any, y: Any = None) -> ExemplarPartition:
        """Continue the stream with the rows of X; pieces give what fitting the whole gives.

        Args:
            X: rows [n_samples, n_features], of numpy, torch, a frame, or mapped.
            y: ignored.

        Returns:
            This estimator.

        Raises:
            EPError: as for `fit`.
        """
        return self._learn(X, reset=not self.__sklearn_is_fitted__(), end=False)

    def _learn(self, X: Any, *, reset: bool, end: bool) -> ExemplarPartition:
        x_nd = self._validated(X, reset=reset)
        if reset:
            self._check_parameters(x_nd.width)
        if self.threshold is None and (x_nd.width == 1 or (end and len(x_nd) == 1)):
            few = "1 feature(s), along which there are two directions" if x_nd.width == 1 else "1 sample"
            raise EPError(f"cannot calibrate on {few}; give more of them or a threshold")
        stream = _Stream(self) if reset else self._stream
        stream.add(x_nd, end=end)
        self._stream = stream
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and return the region of each row: ndarray of shape (n_samples,).

        Args:
            X: rows [n_samples, n_features], of numpy, torch, a frame, or mapped.
            y: ignored.

        Returns:
            Ids of regions.
        """
        return self.fit(X).labels_

    def predict(self, X: Any) -> np.ndarray:
        """Region of each row: ndarray of shape (n_samples,); -1 for a row equal to the centre.

        Args:
            X: rows [n_samples, n_features], of numpy, torch, a frame, or mapped.

        Returns:
            Ids of regions.
        """
        return np.asarray(self._dictionary.ids(self._validated(X, reset=False)))

    def transform(self, X: Any) -> np.ndarray:
        """Cosine distance of each row to each exemplar: ndarray of shape (n_samples, n_exemplars).

        Args:
            X: rows [n_samples, n_features], of numpy, torch, a frame, or mapped.

        Returns:
            Distances; 1 for a row equal to the centre.
        """
        dictionary = self._dictionary
        return np.nan_to_num(np.asarray(dictionary.distances(self._validated(X, reset=False))), nan=1.0)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """`exemplarpartition0`, `exemplarpartition1`, ...

        Args:
            input_features: ignored.

        Returns:
            A name per exemplar.
        """
        return np.array([f"exemplarpartition{i}" for i in range(self._dictionary.k)], dtype=object)

    @property
    def _dictionary(self) -> Dictionary:
        check_is_fitted(self)
        return self._stream.learnt.dictionary

    center_ = property(lambda self: self._learnt.clustering.center.numpy())
    threshold_ = property(lambda self: self._learnt.clustering.threshold)
    theta_error_ = property(lambda self: self._learnt.theta_error)
    exemplars_ = property(lambda self: self._learnt.clustering.exemplars.numpy())
    exemplar_indices_ = property(lambda self: self._learnt.clustering.births)
    labels_ = property(lambda self: self._learnt.labels)

    @property
    def _learnt(self) -> _Learnt:
        if not self.__sklearn_is_fitted__():
            raise AttributeError("not fitted")
        return self._stream.learnt

    @property
    def counts_(self) -> np.ndarray:
        """Members of each region among the rows of `labels_`."""
        labels = self.labels_
        return np.bincount(labels[labels >= 0], minlength=len(self.exemplars_))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_stream")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _validated(self, X: Any, *, reset: bool) -> Rows:
        """X as rows, refused as scikit-learn wants it: names, width, and values that are not finite."""
        if not reset:
            check_is_fitted(self)
        x_nd = intake(X)
        if not x_nd.leading:
            raise EPError("X must be [n_samples, n_features]; got one axis. Reshape your data, one sample as X[None]")
        shape = (len(x_nd), x_nd.width)
        if 0 in shape:
            few = f"{shape[0]} sample(s)" if not shape[0] else f"{shape[1]} feature(s)"
            raise EPError(f"X has {few} (shape={shape}) while a minimum of 1 is required.")
        named: Any = X if hasattr(X, "columns") else np.broadcast_to(np.float32(0), shape)
        try:
            validate_data(self, named, reset=reset, skip_check_array=True)
        except ValueError as error:
            raise EPError(str(error)) from None
        for start in range(0, len(x_nd), ROWS):
            part = x_nd[start : start + ROWS]
            if not torch.isfinite(part.sum()) and not torch.isfinite(part).all():  # what is not finite shows in a sum
                row = start + int((~torch.isfinite(part).all(dim=1)).nonzero()[0])
                raise EPError(
                    f"X has values that are NaN, infinite or beyond float32, first in row {row}; drop such rows"
                )
        return x_nd

    def _check_parameters(self, n_features: int) -> None:
        check_percentiles([self.percentile])
        if self.threshold is not None:
            check_threshold(self.threshold)
        for name in ("calibration_batch", "calibration_sample"):
            value = getattr(self, name)
            if value is None and name == "calibration_sample":
                continue
            if not isinstance(value, Integral) or value < 2:
                raise EPError(f"{name} must be a whole number of rows, at least 2; got {value!r}")
        if self.center is None:
            return
        center_d = as_float32(self.center)
        if center_d.shape != (n_features,):
            raise EPError(f"center must have one value per feature, ({n_features},); got {tuple(center_d.shape)}")
        if not torch.isfinite(center_d).all():
            raise EPError("center must be finite; got NaN or infinity")


@dataclass
class _Learnt:
    """A clustering of all rows so far, and the regions of the last of them."""

    clustering: LeaderClustering
    theta_error: float
    labels: np.ndarray | None = None

    @property
    def dictionary(self) -> Dictionary:
        return Dictionary(self.clustering.center, self.clustering.exemplars, self.clustering.threshold)

    def add(self, x_nd: Rows, last: Rows) -> _Learnt:
        """Cluster more rows, of which the last ones are to be labelled."""
        self.clustering.add(x_nd)
        self.labels = np.asarray(self.dictionary.ids(last))
        return self


class _Stream:
    """Rows so far: kept while they calibrate, then clustered as they come."""

    def __init__(self, parameters: ExemplarPartition):
        self.parameters = p = parameters
        self.kept: list[torch.Tensor] = []
        self.settled: _Learnt | None = None
        self._current: _Learnt | None = None
        if p.threshold is not None and p.center is not None:
            self.stages = [0]
        elif p.calibration_sample is not None:
            self.stages = [p.calibration_sample]
        else:
            self.stages = [batches * p.calibration_batch for batches in _STAGES]
        self.first = self.stages[0]

    def add(self, x_nd: Rows, *, end: bool) -> None:
        """Add rows; at the end of a stream, however few they are, they settle centre and threshold."""
        self._current = None
        if self.settled is not None:
            self.settled.add(x_nd, x_nd)
        elif end:
            self.settled = self._calibrated(x_nd, end=True).add(x_nd, x_nd)
        else:
            self.kept.append(x_nd[:].reshape(*x_nd.leading, x_nd.width).clone())
            if sum(rows.shape[:-1].numel() for rows in self.kept) < self.stages[0]:
                return
            whole = self._whole()
            if (learnt := self._calibrated(whole, end=False)) is not None:
                self.settled, self.kept = learnt.add(whole, x_nd), []

    @property
    def learnt(self) -> _Learnt:
        """What the rows so far give, were they all."""
        if self.settled is not None:
            return self.settled
        if self._current is None:
            whole = self._whole()
            self._current = self._calibrated(whole, end=True).add(whole, intake(self.kept[-1]))
        return self._current

    def _whole(self) -> Rows:
        return intake(torch.cat([rows.flatten(0, -2) for rows in self.kept]))

    @overload
    def _calibrated(self, x_nd: Rows, *, end: Literal[True]) -> _Learnt: ...
    @overload
    def _calibrated(self, x_nd: Rows, *, end: bool) -> _Learnt | None: ...
    def _calibrated(self, x_nd: Rows, *, end: bool) -> _Learnt | None:
        """An empty clustering with centre and threshold of the first rows; None where more are to come before."""
        ranked: list[Ranked] = []
        while end or self.stages[0] <= len(x_nd):
            learnt = self._calibrated_on(x_nd, min(self.stages[0], len(x_nd)), ranked)
            whole = end and self.stages[0] >= len(x_nd)
            if whole or len(self.stages) == 1 or learnt.theta_error <= _ERROR * learnt.clustering.threshold:
                return learnt
            del self.stages[0]
        return None

    def _calibrated_on(self, x_nd: Rows, n: int, ranked: list[Ranked]) -> _Learnt:
        """Calibrate on n rows, whose first batches may be ranked already; the centre is that of the first stage."""
        p = self.parameters
        size = min(p.calibration_batch, n)
        first = _Batches(x_nd, min(self.first, n), size)
        center_d = center(first) if p.center is None else as_float32(p.center)
        if p.threshold is not None:
            return _Learnt(LeaderClustering(center_d, p.threshold), 0.0)
        percentile = float(p.percentile)
        for batch in itertools.islice(_Batches(x_nd, n, size), len(ranked), None):
            ranked.append(Ranked.of(batch, center_d, [percentile]))
        calibration = settled(center_d, [percentile], ranked)
        return _Learnt(LeaderClustering(center_d, calibration.thresholds[percentile]), calibration.error[percentile])


@dataclass(frozen=True)
class _Batches:
    """Whole batches of the first n rows, read anew each time."""

    x_nd: Rows
    n: int
    size: int

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self.x_nd[start : start + self.size] for start in range(0, self.n - self.size + 1, self.size))
