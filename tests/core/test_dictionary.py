"""A frozen dictionary: nearest exemplar as the oracle finds it, readouts, and member sums that merge exactly."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from exemplar_partitioning import Dictionary, LeaderClustering, MemberStatistics
from exemplar_partitioning.core.geometry import angle
from exemplar_partitioning.core.nearest import ROWS
from exemplar_partitioning.errors import DataError, EPError
from streams import cuts, streams


def dictionary_of(x, center, theta, prefilter="float32"):
    clustering = LeaderClustering(torch.from_numpy(center), theta)
    clustering.add(torch.from_numpy(x))
    return Dictionary(clustering.center, clustering.exemplars, theta, prefilter=prefilter)


@settings(max_examples=80, deadline=None)
@given(streams(permuted=True), st.sampled_from(["float32", "bfloat16"]))
def test_assign_is_the_oracles(stream, prefilter):
    """L4: nearest of the frozen exemplars, lowest id on an exact tie; rows without direction belong nowhere."""
    x, center, theta = stream
    dictionary = dictionary_of(x, center, theta, prefilter)
    ids, distances = dictionary.assign(x)
    good = np.array([oracle.has_direction(row, center) for row in x])
    assert (ids[~good] == -1).all() and np.isinf(distances[~good]).all()
    if good.any():
        expected_ids, expected = oracle.assign(x[good], center, dictionary.exemplars.numpy())
        assert ids[good].tolist() == expected_ids.tolist()
        assert distances[good].tolist() == expected.clip(0, 2).tolist()


@settings(max_examples=40, deadline=None)
@given(st.data(), streams())
def test_member_sums_leave_no_trace_of_order_or_grouping(data, stream):
    """L4: any split, in any order, merges to the same integers; the sums are what the definition says."""
    x, center, theta = stream
    dictionary = dictionary_of(x, center, theta)
    whole = dictionary.members(x)
    starts = np.cumsum([0, *data.draw(cuts(len(x)))])
    parts = [dictionary.members(x[a:b]) for a, b in itertools.pairwise(starts)]
    merged = MemberStatistics.empty(dictionary.k, dictionary.d_model)
    for part in data.draw(st.permutations(parts)):
        merged = merged.merge(part)
    for name in ("count_k", "direction_kd", "distance_k", "square_k"):
        assert torch.equal(getattr(merged, name), getattr(whole, name))
    assert merged.skipped == whole.skipped
    good = np.array([oracle.has_direction(row, center) for row in x])
    assert whole.skipped == int((~good).sum())
    ids, _ = dictionary.assign(x)
    for region in range(dictionary.k):
        u = np.array([oracle.direction(row, center) for row in x[ids == region]])
        assert whole.members[region] == len(u)
        if len(u) == 0:
            assert np.isnan(whole.coherence[region])
            continue
        away = np.array([oracle.distance(row, dictionary.exemplars.numpy()[region]) for row in u]).clip(0, 2)
        assert whole.coherence[region] == pytest.approx(np.linalg.norm(u.mean(axis=0)), abs=1e-9)
        assert whole.mean_distance[region] == pytest.approx(away.mean(), abs=1e-9)
        assert whole.distance_variance[region] == pytest.approx(away.var(), abs=1e-9)
        if whole.coherence[region] > 1e-3:
            mean = u.mean(axis=0) / np.linalg.norm(u.mean(axis=0))
            np.testing.assert_allclose(whole.mean_directions[region], mean, atol=1e-6)


@pytest.fixture
def dictionary():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3 * ROWS, 6)).astype(np.float32) + 1
    return dictionary_of(x, np.array([1, 0, 1, 0, 1, 0], np.float32) / 2, 0.2), x


def test_assign_answers_in_kind_and_in_any_pieces(dictionary):
    d, x = dictionary
    ids, distances = d.assign(x)
    assert ids.dtype == np.int64 and distances.dtype == np.float64
    pieces = [d.assign(torch.from_numpy(piece)) for piece in np.split(x, [1, 100, 2000])]
    assert torch.cat([p[0] for p in pieces]).tolist() == ids.tolist()
    assert torch.cat([p[1] for p in pieces]).tolist() == distances.tolist()
    assert (distances <= d.threshold).all()


def test_distances_margins_and_assignment_agree(dictionary):
    d, x = dictionary
    ids, nearest = d.assign(x)
    distances = d.distances(x)
    assert distances.shape == (len(x), d.k)
    np.testing.assert_allclose(distances.min(axis=1), nearest, atol=1e-6)
    two = np.sort(distances, axis=1)[:, :2]
    np.testing.assert_allclose(d.margins(x), two[:, 1] - two[:, 0], atol=1e-6)
    assert (d.margins(x) >= 0).all()
    assert (distances.argmin(axis=1) == ids)[d.margins(x) > 1e-5].all()


def test_readouts_are_what_protocols_say(dictionary):
    d, x = dictionary
    centred = x - d.center.numpy()
    projection = centred @ d.exemplars.numpy().T
    unit = projection / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(d.encode(x, "signed"), projection, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d.encode(x, "cosine"), unit, atol=1e-5)
    for k in (1, 3):
        for readout, dense in (("topk", projection), ("topk_norm", unit)):
            features = d.encode(x, readout, k=k)
            assert ((features != 0).sum(axis=1) <= k).all() and (features >= 0).all()
            expected = np.sort(dense, axis=1)[:, -k:].clip(0).sum(axis=1)
            np.testing.assert_allclose(features.sum(axis=1), expected, rtol=1e-4, atol=1e-4)
    ids, _ = d.assign(x)
    one_hot = d.encode(x, "binary")
    assert one_hot.sum() == len(x) and (one_hot.argmax(axis=1) == ids).all()


def test_exemplars_are_fixed_points_of_top_one(dictionary):
    d, _ = dictionary
    points = d.exemplars * 3 + d.center
    torch.testing.assert_close(d.decode(d.encode(points)), points, atol=1e-5, rtol=1e-5)


def test_wrong_shapes_and_values_are_refused_with_both_sides(dictionary):
    d, x = dictionary
    with pytest.raises(EPError, match="width 5, but the dictionary has d_model = 6"):
        d.assign(x[:, :5])
    with pytest.raises(EPError, match=r"rows \[n, d_model\]; got a single value of type float"):
        d.distances(1.0)
    with pytest.raises(EPError, match="readout is 'dense'"):
        d.encode(x, "dense")
    with pytest.raises(EPError, match=f"from 1 to {d.k}, the number of regions; got 0"):
        d.encode(x, k=0)
    with pytest.raises(EPError, match=rf"features must be \[n, {d.k}\]"):
        d.decode(x)
    with pytest.raises(DataError, match="unit directions"):
        Dictionary(d.center, d.exemplars * 2, 0.2)
    with pytest.raises(DataError, match="finite"):
        Dictionary(d.center, d.exemplars * float("nan"), 0.2)
    with pytest.raises(EPError, match=r"centre \[d\] and exemplars \[k, d\]"):
        Dictionary(d.center[:4], d.exemplars, 0.2)
    with pytest.raises(EPError, match="statistics of different dictionaries"):
        MemberStatistics.empty(2, 3).merge(MemberStatistics.empty(3, 3))


def test_one_region_and_none():
    x = np.ones((4, 3), np.float32)
    one = Dictionary(torch.zeros(3), torch.eye(3)[:1], 0.5)
    assert np.isinf(one.margins(x)).all() and one.assign(x)[0].tolist() == [0] * 4
    none = Dictionary(torch.zeros(3), torch.zeros(0, 3), 0.5)
    assert none.assign(x)[0].tolist() == [-1] * 4 and np.isinf(none.assign(x)[1]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=3, max_size=3))
def test_angles_obey_the_triangle_inequality(rows):
    u = torch.tensor(rows, dtype=torch.float64)
    if (u.norm(dim=1) < 1e-3).any():
        return
    u = u / u.norm(dim=1, keepdim=True)
    a = angle(1 - u @ u.T)
    assert a[0, 2] <= a[0, 1] + a[1, 2] + 1e-6
