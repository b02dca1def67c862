"""Law L6: the centre formula and exact percentiles of pairwise distances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from exemplar_partitioning import calibrate
from exemplar_partitioning.core.calibration import center, pairwise_percentiles
from exemplar_partitioning.core.geometry import MIN_THRESHOLD
from exemplar_partitioning.errors import EPError
from streams import streams

PERCENTILES = [1.0, 2.5, 10.0, 50.0, 99.0]


@settings(max_examples=60, deadline=None)
@given(streams(max_rows=25, max_d=6))
def test_percentiles_are_the_oracles(stream):
    x, c, _ = stream
    found = pairwise_percentiles(torch.from_numpy(x), torch.from_numpy(c), PERCENTILES)
    if sum(oracle.has_direction(row, c) for row in x) < 2:
        assert found is None
    else:
        expected = [oracle.threshold([x], c, p) for p in PERCENTILES]
        assert found == pytest.approx(expected, abs=1e-12)


def test_percentiles_of_many_pairs_are_numpys():
    """Several tiles and slices of columns; a million pairs."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(1500, 300)) * rng.gamma(1, size=300) + 0.5).astype(np.float32)
    c = center([torch.from_numpy(x)])
    y = x.astype(np.float64) - c.numpy()
    u = y / np.linalg.norm(y, axis=1, keepdims=True)
    i, j = np.triu_indices(len(x), k=1)
    expected = np.percentile((1 - u @ u.T)[i, j], PERCENTILES)
    found = pairwise_percentiles(torch.from_numpy(x), c, PERCENTILES)
    assert found == pytest.approx(expected.tolist(), abs=1e-13)


def test_threads_do_not_matter():
    x = torch.randn(700, 400, generator=torch.Generator().manual_seed(1))
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(calibrate([x[:350], x[350:]], [1, 10]))
        finally:
            torch.set_num_threads(before)
    assert found[0].thresholds == found[1].thresholds
    assert torch.equal(found[0].center, found[1].center)


def test_a_percentile_does_not_depend_on_its_companions():
    x = torch.randn(300, 20, generator=torch.Generator().manual_seed(2))
    assert calibrate([x], [2]).thresholds[2.0] == calibrate([x], [0.5, 2, 40, 98]).thresholds[2.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_centre_is_mean_projection_on_the_spherical_mean(seed, n_batches):
    rng = np.random.default_rng(seed)
    batches = [(rng.normal(size=(rng.integers(1, 30), 5)) + 0.5).astype(np.float32) for _ in range(n_batches)]
    expected = oracle.centre(batches)
    found = center([torch.from_numpy(batch) for batch in batches]).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_theta_is_the_mean_over_batches():
    rng = np.random.default_rng(4)
    batches = [rng.normal(size=(n, 4)).astype(np.float32) + 1 for n in (20, 31)]
    found = calibrate([torch.from_numpy(batch) for batch in batches], [5])
    per_batch = [oracle.threshold([batch], found.center.numpy(), 5) for batch in batches]
    assert found.thresholds[5.0] == pytest.approx(np.mean(per_batch), abs=1e-14)
    assert found.spread[5.0] == pytest.approx(np.std(per_batch), abs=1e-14)
    assert found.error[5.0] == pytest.approx(np.std(per_batch, ddof=1) / np.sqrt(2))
    assert np.isnan(calibrate([torch.from_numpy(batches[0])], [5]).error[5.0])
    assert (found.n_activations, found.batch) == (51, 31)


def test_a_balanced_sample_has_its_centre_at_the_origin():
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 2], [0, -2]])
    assert center([x]).tolist() == [0, 0]


def test_copies_do_not_make_a_threshold_of_nothing():
    """Three of four rows alike: half of the pairs; a percentile among them is refused, one above is not."""
    x = torch.tensor([[1.0, 0], [2, 0], [1, 0], [0, 1]])
    with pytest.raises(EPError, match=r"percentile 10 of the distances is .*50.00% of the pairs .* copies"):
        calibrate([x], [10, 80], torch.zeros(2))
    found = calibrate([x], [80], torch.zeros(2))
    assert found.identical == 0.5 and found.thresholds[80.0] > MIN_THRESHOLD


@pytest.mark.parametrize("percentiles", [[], [0], [100], [float("nan")], [-1, 5]])
def test_percentiles_outside_their_range_are_refused(percentiles):
    with pytest.raises(EPError, match="percentiles must lie between 0 and 100"):
        calibrate([torch.randn(5, 3)], percentiles)


def test_nothing_to_calibrate_on():
    with pytest.raises(EPError, match="all rows are zero or not finite"):
        calibrate([torch.full((4, 3), float("nan"))], [5])
    with pytest.raises(EPError, match="two different activations"):
        calibrate([torch.ones(4, 3)], [5])
