"""The scikit-learn facade: check_estimator whole, and pieces equal to the whole."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.utils.estimator_checks import check_clustering, check_estimator

from exemplar_partitioning import ExemplarPartition
from exemplar_partitioning.errors import EPError
from streams import cuts, streams


@pytest.mark.parametrize("parameters", [{}, {"percentile": 10}, {"threshold": 0.3}])
def test_check_estimator(parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)  # the array API is checked only where it is switched on
        results = check_estimator(ExemplarPartition(**parameters), on_skip=None)
    assert len(results) > 40
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= {"check_array_api_input"}


def test_check_clustering_at_a_coarse_percentile():
    """A fine one cuts blobs to pieces, which is its purpose and what this check forbids."""
    check_clustering("ExemplarPartition", ExemplarPartition(percentile=40))


@settings(max_examples=40, deadline=None)
@given(st.data(), streams(bad_rows=False), st.booleans())
def test_pieces_give_what_the_whole_gives(data, stream, given_threshold):
    x, center, theta = stream
    options = {"threshold": theta, "center": center} if given_threshold else {"calibration_sample": 20}
    if not given_threshold and len(x) < 2:
        return
    try:
        whole = ExemplarPartition(calibration_batch=7, **{"percentile": 30.0} | options).fit(x)
    except EPError as error:
        assert "calibrat" in str(error)
        return
    pieces = ExemplarPartition(calibration_batch=7, **{"percentile": 30.0} | options)
    for piece in np.split(x, np.cumsum(data.draw(cuts(len(x))))[:-1]):
        pieces.partial_fit(piece)
    for name in ("center_", "threshold_", "exemplars_", "exemplar_indices_"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))
    np.testing.assert_array_equal(pieces.predict(x), whole.labels_)


def test_attributes():
    x = np.random.default_rng(0).normal(size=(300, 4)) + 1
    partition = ExemplarPartition(percentile=5).fit(x)
    assert partition.exemplars_.shape == (len(partition.exemplar_indices_), 4)
    np.testing.assert_allclose(np.linalg.norm(partition.exemplars_, axis=1), 1, atol=1e-6)
    assert (np.diff(partition.exemplar_indices_) > 0).all() and partition.exemplar_indices_[0] == 0
    assert (partition.labels_[partition.exemplar_indices_] == np.arange(len(partition.exemplars_))).all()
    assert partition.counts_.sum() == 300 and (partition.counts_ == np.bincount(partition.labels_)).all()
    assert partition.transform(x).argmin(axis=1).tolist() == partition.predict(x).tolist()
    assert partition.get_feature_names_out()[1] == "exemplarpartition1"
    assert (partition.fit_predict(x) == partition.labels_).all()


def test_refusals():
    x = np.random.default_rng(0).normal(size=(30, 4))
    for parameters, message in [
        ({"percentile": 0}, "percentiles must lie"),
        ({"threshold": 3.0}, "threshold is a cosine distance"),
        ({"center": [1.0, 2.0, 3.0, float("nan")]}, "center must be finite"),
        ({"center": [1.0, 2.0]}, r"one value per feature, \(4,\); got \(2,\)"),
        ({"calibration_batch": 1}, "calibration_batch must be a whole number"),
    ]:
        with pytest.raises(EPError, match=message):
            ExemplarPartition(**parameters).fit(x)
    with pytest.raises(NotFittedError):
        ExemplarPartition().predict(x)
    with pytest.raises(EPError, match="calibrate on 1 sample"):
        ExemplarPartition().fit(x[:1])
