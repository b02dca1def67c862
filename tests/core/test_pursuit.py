"""Decomposition: what the oracle finds, to the bit the same however rows are batched, and never worse with more."""

import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import orthogonal_mp_gram

import oracle
from annotated import annotated
from exemplar_partitioning import Dictionary, LeaderClustering
from exemplar_partitioning.core import atoms, compiled, dictionary, pursuit
from exemplar_partitioning.errors import EPError
from streams import cuts, streams

pytestmark = pytest.mark.filterwarnings("ignore:.*have no direction")  # some made-up rows have none, one test says so
WAYS = ("compiled", "side by side", "without a table")
RULES = [(method, nonnegative) for method in ("omp", "mp") for nonnegative in (True, False)]


def dictionary_of(x, center, theta):
    clustering = LeaderClustering(torch.from_numpy(center), theta)
    clustering.add(torch.from_numpy(x))
    return Dictionary(clustering.center, clustering.exemplars, theta)


def clouds(n, m, d, seed=0):
    """Activations with a few strong directions, as those of models, and a dictionary of m random ones of them."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n + m, d)) * np.exp(-np.arange(d) / (d / 4)) @ rng.normal(size=(d, d))).astype(np.float32)
    center = x[:m].mean(axis=0)
    atoms = torch.from_numpy(x[:m] - center)
    return x[m:], Dictionary(torch.from_numpy(center), torch.nn.functional.normalize(atoms, dim=1), 0.1)


def decomposed(d, x, k, way="side by side", **options):
    """In one of the ways there are to the same answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dictionary, "MANY", 0 if way == "compiled" else np.inf)
        patch.setattr(atoms, "GRAM_BYTES", 0 if way == "without a table" else 2**28)
        return Dictionary(d.center, d.exemplars, d.threshold).decompose(x, k, **options)


@settings(max_examples=100, deadline=None)
@given(streams(permuted=True), st.integers(1, 9), st.sampled_from(RULES), st.sampled_from(WAYS))
def test_weights_are_the_oracles(stream, k, rule, way):
    x, center, theta = stream
    d = dictionary_of(x, center, max(theta, 0.01))
    k = min(k, d.k, d.d_model)
    if not k:
        return
    found = decomposed(d, x, k, way, method=rule[0], nonnegative=rule[1])
    weights, atoms = found.dense().to_dense().numpy(), d.exemplars.double().numpy()
    for row, (activation, weight, left) in enumerate(zip(x, weights, found.residual_norm, strict=True)):
        if not oracle.has_direction(activation, center):
            assert np.isnan(left) and (found.regions[row] == -1).all() and (weight == 0).all()
            continue
        length = np.linalg.norm(activation.astype(np.float64) - center)
        expected, expected_left = oracle.decompose(oracle.direction(activation, center), atoms, k, *rule)
        assert left / length == pytest.approx(expected_left, abs=2e-6)
        # weights of atoms that nearly depend on each other are not determined to many digits; their sum is
        np.testing.assert_allclose(weight / length @ atoms, expected @ atoms, atol=2e-5)
        picked = np.flatnonzero(expected)
        if len(picked) and np.linalg.cond(atoms[picked]) < 1e3:
            np.testing.assert_allclose(weight / length, expected, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(st.data(), streams(max_rows=40, permuted=True), st.sampled_from(RULES))
def test_no_row_depends_on_the_rows_beside_it(data, stream, rule):
    x, center, theta = stream
    d = dictionary_of(x, center, theta)
    k = min(6, d.k, d.d_model)
    if not k:
        return
    options = {"method": rule[0], "nonnegative": rule[1]}
    whole = d.decompose(x, k, **options)
    order = data.draw(st.permutations(range(len(x))))
    starts = np.cumsum(data.draw(cuts(len(x))))[:-1]
    for rows in np.split(np.array(order), starts):
        assert same(d.decompose(x[rows], k, **options), whole[rows])


@settings(max_examples=60, deadline=None)
@given(streams(max_rows=40, permuted=True), st.integers(1, 9), st.sampled_from(RULES), st.sampled_from([0, 0.3]))
def test_all_ways_come_to_the_same_bits(stream, k, rule, tolerance):
    x, center, theta = stream
    d = dictionary_of(x, center, theta)
    options = {"method": rule[0], "nonnegative": rule[1], "tolerance": tolerance}
    if k := min(k, d.k, d.d_model):
        first, *others = (decomposed(d, x, k, way, **options) for way in WAYS)
        assert all(same(first, other) for other in others)


@pytest.mark.parametrize("rule", RULES)
def test_not_on_threads_blocks_or_what_is_kept_in_memory(monkeypatch, rule):
    x, d = clouds(150, 300, 24)
    x[::3] = np.round(x[::3])
    options = {"method": rule[0], "nonnegative": rule[1]}
    whole = decomposed(d, x, 12, **options)
    assert whole.l0.mean() > 8
    monkeypatch.setattr(pursuit, "_ROWS", 37)
    monkeypatch.setattr(compiled, "_TOGETHER", 37)
    monkeypatch.setattr(compiled, "_BY_ONE", 5)
    monkeypatch.setattr(atoms, "_GATHERED", 100)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert all(same(decomposed(d, x, 12, way, **options), whole) for way in WAYS)
    finally:
        torch.set_num_threads(threads)


def test_much_work_is_compiled_where_numba_is_and_done_without_it_elsewhere(monkeypatch):
    x, d = clouds(60, 50, 8)
    whole, calls = d.decompose(x, 4), []
    assert pursuit.compiled_pursuit() is compiled.pursue_by_row
    monkeypatch.setattr(dictionary, "MANY", 240)
    monkeypatch.setattr(
        pursuit, "compiled_pursuit", lambda: lambda *given: calls.append(1) or compiled.pursue_by_row(*given)
    )
    assert same(d.decompose(x, 4), whole) and len(calls) == 1
    d.decompose(x[1:], 4)
    assert len(calls) == 1
    monkeypatch.undo()
    pursuit.compiled_pursuit.cache_clear()
    monkeypatch.setitem(sys.modules, "exemplar_partitioning.core.compiled", None)  # as if it could not be imported
    monkeypatch.setattr(dictionary, "MANY", 0)
    try:
        assert pursuit.compiled_pursuit() is None and same(d.decompose(x, 4), whole)
    finally:
        pursuit.compiled_pursuit.cache_clear()


def same(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name == "residual_norm")
        for name in ("regions", "weights", "residual_norm")
    )


@pytest.mark.parametrize("rule", RULES)
def test_more_steps_never_leave_more_and_what_is_left_is_what_reconstruction_lacks(rule):
    x, d = clouds(200, 150, 16)
    lengths = np.linalg.norm(x - d.center.numpy(), axis=1)
    before = lengths * (1 + 1e-6)
    for k in range(1, 17):
        found = d.decompose(x, k, method=rule[0], nonnegative=rule[1])
        lacking = np.linalg.norm(x - found.reconstruct(), axis=1)
        np.testing.assert_allclose(found.residual_norm, lacking, atol=1e-5 * lengths.max())
        assert (found.residual_norm <= before + 1e-6 * lengths).all()
        before = found.residual_norm
    assert before.mean() < 0.1 * lengths.mean()


@pytest.mark.parametrize("way", WAYS)
def test_orthogonal_pursuit_is_that_of_scikit_learn(way):
    x, d = clouds(60, 200, 32)
    atoms, a = d.exemplars.double().numpy(), x.astype(np.float64) - d.center.double().numpy()
    for k in (1, 5, 20):
        expected = orthogonal_mp_gram(atoms @ atoms.T, atoms @ a.T, n_nonzero_coefs=k).T
        found = decomposed(d, x, k, way, nonnegative=False).dense().to_dense().numpy()
        assert ((found != 0) == (expected != 0)).all()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_nonnegative_weights_are_the_best_on_their_support():
    """Karush, Kuhn and Tucker: what is left is orthogonal to every atom in use."""
    x, d = clouds(200, 300, 24)
    found = d.decompose(x, 16)
    assert (found.weights >= 0).all() and ((found.weights > 0) == (found.regions >= 0)).all()
    signed = d.decompose(x, 16, nonnegative=False)
    assert (signed.weights < 0).any() and signed.residual_norm.mean() < found.residual_norm.mean()
    left = torch.from_numpy(x - found.reconstruct())
    products = torch.einsum("nd,nkd->nk", left, d.exemplars[torch.from_numpy(found.regions.clip(0))])
    assert float(products.abs()[torch.from_numpy(found.regions >= 0)].max()) < 1e-3
    assert (found.l0 < 16).any()  # some atoms were picked and fell out again


def test_an_atom_that_fell_out_comes_back_once_it_gains_again():
    """Karush, Kuhn and Tucker again, for the atoms that were picked and are not in use: none would gain."""
    rng = np.random.default_rng(0)
    units = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(514, 9))), dim=1)
    x, atoms = units[14:], units[:14].float()
    expected = [oracle.decompose(u, atoms.double().numpy(), 8, "omp", True)[1] for u in x.numpy()]
    found = Dictionary(torch.zeros(9), atoms, 0.1).decompose(x.float(), 8)
    np.testing.assert_allclose(found.residual_norm, expected, atol=2e-6)


@pytest.mark.parametrize("way", WAYS)
def test_ties_go_to_the_lowest_region_and_rows_end_when_nothing_is_gained(way):
    d = Dictionary(torch.zeros(3), torch.eye(3)[[2, 0, 1]], 0.1)
    found = decomposed(d, np.array([[1, 1, 0], [0, 0, 2], [-1, 0, 0], [0, 0, 0]], np.float32), 3, way)
    assert found.regions.tolist() == [[1, 2, -1], [0, -1, -1], [-1, -1, -1], [-1, -1, -1]]
    assert found.residual_norm[:3].tolist() == [0, 0, 1] and np.isnan(found.residual_norm[3])
    signed = decomposed(d, np.array([[-1.0, 0, 0]], np.float32), 3, way, nonnegative=False)
    assert signed.regions.tolist() == [[1, -1, -1]] and signed.weights.tolist() == [[-1, 0, 0]]
    assert decomposed(d, np.array([[3.0, 4, 0]], np.float32), 3, way, tolerance=0.61).regions.tolist() == [[2, -1, -1]]


def test_answers_keep_shape_and_kind_and_come_row_by_row():
    x, d = clouds(60, 50, 8)
    flat, cube = d.decompose(x, 4), d.decompose(torch.from_numpy(x).view(3, 20, 8), 4)
    assert isinstance(flat.reconstruct(), np.ndarray) and isinstance(cube.reconstruct(), torch.Tensor)
    assert cube.regions.shape == cube.weights.shape == (3, 20, 4) and cube.residual_norm.shape == (3, 20)
    assert cube.reconstruct().shape == (3, 20, 8) and cube.dense().shape == (3, 20, 50)
    assert torch.equal(cube.dense().to_dense().view(60, 50), flat.dense().to_dense())
    assert np.array_equal(flat[5:7].reconstruct(), flat.reconstruct()[5:7]) and len(flat[5:7]) == 2
    assert d.decompose(x[:0], 4).reconstruct().shape == (0, 8)
    one = d.decompose(x[0], 4)
    assert one.regions.shape == (4,) and np.array_equal(one.reconstruct(), flat.reconstruct()[0])
    np.testing.assert_allclose(d.decode(d.encode(x, "pursuit", k=4)), flat.reconstruct(), atol=1e-4)


def test_rows_without_a_direction_are_warned_of_and_change_no_other():
    x, d = clouds(60, 50, 8)
    bad = x.copy()
    bad[1], bad[2], bad[3], bad[4, 0] = np.nan, 0, d.center, np.inf
    with pytest.warns(UserWarning, match=r"4 of 60 activations have no direction \(not finite, zero or the centre\)"):
        found = d.decompose(bad, 4)
    assert (
        (found.regions[1:5] == -1).all() and np.isnan(found.residual_norm[1:5]).all() and not found.weights[1:5].any()
    )
    assert np.array_equal(found[5:].regions, d.decompose(x, 4)[5:].regions)


def test_means_are_a_basis_of_their_own(tmp_path):
    (d,) = annotated(tmp_path, k=200, d=16, percentiles=(2,))
    means = torch.from_numpy(d.annotation.mean_directions)
    regions = means.any(dim=1).nonzero()[:, 0]
    alone = Dictionary(d.center, means[regions], d.threshold)
    x = d.center + 5 * torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    found, expected = d.decompose(x, 6, basis="mean"), alone.decompose(x, 6)
    assert torch.equal(found.regions, torch.where(expected.regions < 0, -1, regions[expected.regions]))
    assert torch.equal(found.weights, expected.weights) and torch.equal(found.reconstruct(), expected.reconstruct())
    assert torch.equal(d.assign(x, basis="mean")[0], regions[alone.assign(x)[0]])
    code = d.encode(x, "pursuit", k=6, basis="mean")
    assert torch.equal(code, found.dense().to_dense())
    torch.testing.assert_close(d.decode(code, basis="mean"), found.reconstruct(), atol=1e-4, rtol=1e-4)


def test_decoding_projections_on_several_regions_warns_with_the_remedy():
    x, d = clouds(60, 50, 8)
    for readout in ("topk_norm", "signed", "cosine", "topk"):
        features = d.encode(x, readout, k=4)
        with pytest.warns(UserWarning, match="readout 'pursuit'"):
            worse = d.decode(features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        better = d.decode(d.encode(x, "pursuit", k=4))
        d.decode(d.encode(x, "topk"))
        d.decode(d.encode(x, "binary"))
    assert np.linalg.norm(better - x) < 0.5 * np.linalg.norm(worse - x)


def test_what_cannot_be_decomposed_is_refused():
    x, d = clouds(5, 50, 8)
    for k in (0, 9, 2.5, "4", True):
        with pytest.raises(EPError, match=f"from 1 to 8, the smaller of d_model and regions; got {k!r}"):
            d.decompose(x, k)
    with pytest.raises(EPError, match="method is 'lasso'; expected omp or mp"):
        d.decompose(x, 2, method="lasso")
    with pytest.raises(EPError, match="share of an activation's length"):
        d.decompose(x, 2, tolerance=2)
    with pytest.raises(EPError, match="width 7, but the dictionary has d_model = 8"):
        d.decompose(x[:, :7], 2)
    for method in (d.assign, d.encode, d.decompose):
        with pytest.raises(EPError, match="`ep annotate` makes it so"):
            method(x, basis="mean")
        with pytest.raises(EPError, match="basis is 'median'"):
            method(x, basis="median")
    empty = Dictionary(torch.zeros(8), torch.zeros(0, 8), 0.5)
    with pytest.raises(EPError, match="without regions"):
        empty.decompose(x, 1)
