"""Laws L1-L3 and L7 of the clustering, judged by the oracle."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from exemplar_partitioning import Dictionary, LeaderClustering
from exemplar_partitioning.core import nearest
from exemplar_partitioning.core.geometry import has_direction
from exemplar_partitioning.core.nearest import ROWS, TILE, has_bfloat16_units
from exemplar_partitioning.errors import DataError, EPError
from streams import cuts, streams

PREFILTERS = ["float32", "bfloat16"]


def cluster(x, center, theta, sizes=None, prefilter="float32"):
    clustering = LeaderClustering(torch.from_numpy(center), theta, prefilter=prefilter)
    pieces = torch.from_numpy(x).split(sizes or [len(x)])
    return clustering, torch.cat([clustering.add(piece) for piece in pieces]).numpy()


@settings(max_examples=150, deadline=None)
@given(st.data(), streams(permuted=True), st.sampled_from(PREFILTERS))
def test_clustering_is_the_oracles_whatever_the_batching(data, stream, prefilter):
    """L1, L2: same exemplars bit for bit, same births, arrivals and sole covers, for any split of the stream."""
    x, center, theta = stream
    clustering, ids = cluster(x, center, theta, data.draw(cuts(len(x))), prefilter)
    exemplars, births, expected, soles = oracle.leader_clustering(x, center, theta)
    assert clustering.births.tolist() == births.tolist()
    assert ids.tolist() == expected.tolist()
    assert clustering.exemplars.numpy().tobytes() == exemplars.tobytes()
    assert clustering.online_counts.tolist() == np.bincount(expected[expected >= 0], minlength=len(births)).tolist()
    assert clustering.sole_counts.tolist() == np.minimum(soles, 2).tolist()
    assert (clustering.position, clustering.skipped) == (len(x), int((expected < 0).sum()))


@settings(max_examples=60, deadline=None)
@given(st.data(), streams(permuted=True))
def test_two_largest_products_in_bfloat16_decide_as_the_oracle(data, stream):
    """As above, where bfloat16 comes first however few exemplars there are; so does the nearest of the frozen ones."""
    x, center, theta = stream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_NARROW", 2)
        clustering, ids = cluster(x, center, theta, data.draw(cuts(len(x))), "bfloat16")
        frozen = Dictionary(clustering.center, clustering.exemplars, theta, prefilter="bfloat16").ids(x)
    exemplars, births, expected, soles = oracle.leader_clustering(x, center, theta)
    assert (clustering.births.tolist(), ids.tolist()) == (births.tolist(), expected.tolist())
    assert clustering.sole_counts.tolist() == np.minimum(soles, 2).tolist()
    if len(placed := np.flatnonzero(expected >= 0)):
        assert frozen[placed].tolist() == oracle.assign(x[placed], center, exemplars)[0].tolist()


@settings(max_examples=50, deadline=None)
@given(streams(permuted=True))
def test_exemplars_are_a_net(stream):
    """L3: farther apart than theta; every row with a direction within theta of one (in reference arithmetic)."""
    x, center, theta = stream
    exemplars, births = (c := cluster(x, center, theta)[0]).exemplars.numpy(), c.births
    directions = [oracle.direction(row, center) for row in x if oracle.has_direction(row, center)]
    for later in range(len(births)):
        u = oracle.direction(x[births[later]], center)
        assert all(oracle.distance(u, exemplars[earlier]) > theta for earlier in range(later))
    assert all(min(oracle.distance(u, e) for e in exemplars) <= theta for u in directions)


@settings(max_examples=40, deadline=None)
@given(st.data(), streams(bad_rows=False))
def test_the_dictionary_of_a_prefix_is_a_prefix(data, stream):
    x, center, theta = stream
    whole = cluster(x, center, theta)[0]
    cut = data.draw(st.integers(0, len(x)))
    prefix = cluster(x[:cut], center, theta)[0]
    assert whole.births[whole.births < cut].tolist() == prefix.births.tolist()
    assert whole.exemplars[: prefix.k].numpy().tobytes() == prefix.exemplars.numpy().tobytes()


@settings(max_examples=40, deadline=None)
@given(streams(bad_rows=False), st.integers(-20, 20))
def test_lengths_do_not_matter(stream, power):
    """Scaling centred activations by powers of two, which rounds nothing, changes nothing."""
    x, _, theta = stream
    origin = np.zeros(x.shape[1], np.float32)
    scaled, ids = cluster(x * np.float32(2.0**power), origin, theta)
    plain, expected = cluster(x, origin, theta)
    assert ids.tolist() == expected.tolist()
    assert scaled.exemplars.numpy().tobytes() == plain.exemplars.numpy().tobytes()


@pytest.mark.parametrize("prefilter", PREFILTERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_many_tiles_and_blocks(prefilter, threads):
    """More rows than a block and more exemplars than a tile, where the fast paths really run."""
    if prefilter == "bfloat16" and not has_bfloat16_units(torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16 units: the prefilter would be emulated")
    rng = np.random.default_rng(5)
    hubs = rng.normal(size=(2600, 24))
    x = (hubs[rng.integers(0, len(hubs), 4 * ROWS)] + 0.25 * rng.normal(size=(4 * ROWS, 24))).astype(np.float32)
    center = rng.normal(size=24).astype(np.float32) * np.float32(0.1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        clustering, ids = cluster(x, center, 0.05, [700, 3 * ROWS, ROWS - 700], prefilter)
    finally:
        torch.set_num_threads(before)
    assert clustering.k > TILE
    y = x.astype(np.float64) - center
    u = y / np.linalg.norm(y, axis=1, keepdims=True)
    births: list[int] = []
    for row in range(len(x)):  # plain float64: no pair of this stream is near enough to the threshold to differ
        if not births or (1 - u[births] @ u[row]).min() > 0.05:
            births.append(row)
    assert clustering.births.tolist() == births
    nearest = [
        int((u[births[: np.searchsorted(births, row, side="right")]] @ u[row]).argmax()) for row in range(len(x))
    ]
    assert ids.tolist() == nearest


def test_the_error_bound_holds_and_is_used():
    """Rows placed at the threshold to within float32 noise: only reference arithmetic can tell them apart."""
    rng = np.random.default_rng(11)
    d, theta = 64, 0.3
    e = rng.normal(size=d)
    e /= np.linalg.norm(e)
    rows = [e]
    for i in range(400):
        v = rng.normal(size=d)
        v -= (v @ e) * e
        v /= np.linalg.norm(v)
        cosine = 1 - theta + (i - 200) * 2e-9
        rows.append(cosine * e + np.sqrt(1 - cosine**2) * v)
    x, center = np.array(rows, np.float32), np.zeros(d, np.float32)
    expected = oracle.leader_clustering(x, center, theta)
    assert 1 < len(expected[1]) < len(x)
    for prefilter in PREFILTERS:
        clustering, ids = cluster(x, center, theta, prefilter=prefilter)
        assert clustering.births.tolist() == expected[1].tolist()
        assert ids.tolist() == expected[2].tolist()


def test_extreme_lengths_keep_their_direction():
    x = np.array([[1e38, 0], [0, 1e-38], [1e-30, 1e-30], [3e38, 3e38]], np.float32)
    clustering, ids = cluster(x, np.zeros(2, np.float32), 0.01)
    assert ids.tolist() == [0, 1, 2, 2]
    assert torch.isfinite(clustering.exemplars).all()


@pytest.mark.parametrize("setting", ["legacy", "mkldnn", "all"])
def test_precision_settings_of_the_program_around_do_not_matter(setting):
    """In a process of its own: torch does not let one program mix the old and the new way of setting them."""
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
import numpy as np, torch
from core.test_leader import cluster
x = np.random.default_rng(2).normal(size=(300, 64)).astype(np.float32)
expected = cluster(x, np.zeros(64, np.float32), 0.8)[1].tolist()
if {setting!r} == "legacy":
    torch.set_float32_matmul_precision("medium")
elif {setting!r} == "mkldnn":
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
else:
    torch.backends.fp32_precision = "tf32"
assert cluster(x, np.zeros(64, np.float32), 0.8)[1].tolist() == expected
if {setting!r} == "legacy":
    assert torch.get_float32_matmul_precision() == "medium"
elif {setting!r} == "mkldnn":
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_rounding_of_stored_bfloat16_similarities_is_in_the_bound():
    """Similarities just above one half, where a bfloat16 errs by 2^-9: the nearer exemplar must still be found."""
    u = np.zeros((3, 6), np.float32)
    u[0, 0] = 1
    rng = np.random.default_rng(0)
    for trial in range(300):
        s = 0.5 + rng.uniform(0, 2**-8, size=2)
        for i in (0, 1):
            u[1 + i] = 0
            u[1 + i, 0], u[1 + i, 1 + i] = s[i], np.sqrt(1 - s[i] ** 2)
        e = torch.from_numpy(u[1:])
        found = [Dictionary(torch.zeros(6), e, 0.1, prefilter=p).assign(u[:1])[0][0] for p in PREFILTERS]
        assert found[0] == found[1], trial


def test_strict_refuses_what_is_otherwise_skipped():
    x = torch.tensor([[1.0, 0.0], [float("nan"), 1.0]])
    clustering = LeaderClustering(torch.zeros(2), 0.5)
    with pytest.raises(DataError, match=r"1 of 2 activations have no direction \(row 1 first\)"):
        clustering.add(x, strict=True)
    assert clustering.add(x).tolist() == [0, -1]
    assert not has_direction(torch.zeros(1, 2), torch.zeros(2)).any()


@pytest.mark.parametrize("theta", [0.0, -0.1, 2.1, float("nan")])
def test_a_threshold_outside_its_range_is_refused(theta):
    with pytest.raises(EPError, match="threshold is a cosine distance"):
        LeaderClustering(torch.zeros(3), theta)
