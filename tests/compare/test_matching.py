"""Matching: pairs against brute force, nulls that keep their promise, and `ep match` on real dictionaries."""

import itertools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import exemplar_partitioning as ep
from annotated import annotated
from cli.test_cli import run
from exemplar_partitioning.compare.common_tokens import _aligned, common_tokens, places
from exemplar_partitioning.compare.matching import raw_exemplars
from exemplar_partitioning.compare.neighbours import one_to_one
from exemplar_partitioning.compare.nulls import reflections
from exemplar_partitioning.compare.overlap import best_f1, contingency, overlap
from exemplar_partitioning.core.nearest import nearest
from exemplar_partitioning.errors import DataError, EPError

OPTIONS = {"sites": "resid_post.1", "percentiles": (10, 30), "calibration_batch": 500, "context_size": 32}


def unit(rng, k, d):
    x = rng.standard_normal((k, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def builds(tiny_folder, text_file, tmp_path_factory):
    """The same text in two orders."""
    folder = tmp_path_factory.mktemp("builds")
    for seed in (0, 1):
        ep.build(str(tiny_folder), text_file, out=folder / str(seed), seed=seed, **OPTIONS)
        ep.annotate(folder / str(seed), text_file, model=str(tiny_folder), max_tokens=3000)
    return folder / "0", folder / "1"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_one_to_one_is_the_best_of_all_assignments(k, other, seed):
    rng = np.random.default_rng(seed)
    a, b = unit(rng, k, 3), unit(rng, other, 3)
    cosine = a.astype(float) @ b.T.astype(float)
    if k <= other:
        best = max(sum(cosine[i, p[i]] for i in range(k)) for p in itertools.permutations(range(other), k))
    else:
        best = max(sum(cosine[p[j], j] for j in range(other)) for p in itertools.permutations(range(k), other))
    pairs = one_to_one(a, b)
    assert len(pairs.row_p) == len(set(pairs.row_p)) == len(set(pairs.column_p)) == min(k, other)
    assert pairs.total == pytest.approx(best) and pairs.gap == 0
    assert np.allclose(pairs.cosine_p, cosine[pairs.row_p, pairs.column_p])


@settings(max_examples=25, deadline=None)
@given(st.integers(30, 90), st.integers(30, 90), st.sampled_from([2, 6]), st.integers(0, 2**32 - 1))
def test_the_greedy_assignment_states_a_true_gap(k, other, d, seed):
    rng = np.random.default_rng(seed)
    a, b = unit(rng, k, d), unit(rng, other, d)
    greedy, best = one_to_one(a, b, exact=7), one_to_one(a, b)
    assert len(set(greedy.row_p)) == len(set(greedy.column_p)) == min(k, other)
    assert greedy.total <= best.total + 1e-9 <= greedy.bound + 2e-6 * min(k, other)
    assert greedy.total >= best.total - 0.5 * min(k, other)


def test_nearest_is_the_largest_cosine():
    rng = np.random.default_rng(0)
    a, b = unit(rng, 2500, 8), unit(rng, 40, 8)
    index, cosine = nearest(a, b)
    assert (index == (a @ b.T).argmax(axis=1)).all() and np.allclose(cosine, (a @ b.T).max(axis=1), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_overlap_against_scikit_learn(n, k, other, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, k, n), rng.integers(0, other, n)
    shared = contingency(a, b, k, other)
    best, value = best_f1(shared)
    for region in range(k):
        scores = [f1_score(a == region, b == column, zero_division=0) for column in range(other)]
        assert value[region] == pytest.approx(max(scores) if (a == region).any() else 0)
        assert best[region] == -1 or scores[best[region]] == pytest.approx(value[region])


def test_overlap_of_a_partition_with_itself_and_with_chance():
    rng = np.random.default_rng(0)
    ids = rng.integers(-1, 20, 3000)
    same = overlap(ids, ids, 20, 20)
    assert same.rand == pytest.approx(1) and (same.f1_k == 1).all() and (same.best_k == np.arange(20)).all()
    assert same.jaccard(np.arange(20), np.arange(20)) == pytest.approx(1)
    other = overlap(ids, rng.permutation(ids), 20, 20)
    assert abs(other.rand) < 0.02 and other.f1_k.mean() == pytest.approx(other.f1_null, abs=0.02)


def test_unrelated_directions_pass_the_cutoff_as_often_as_stated():
    """Directions with one spectrum and nothing else in common are called persisted at the stated rate."""
    scale = np.arange(1, 41) ** -0.5
    passed = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        a, b = (rng.standard_normal((400, 40)).astype(np.float32) * scale.astype(np.float32) for _ in range(2))
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        passed.append((nearest(a, b)[1] > reflections(a, b).cutoffs(0.05)[0]).mean())
    assert np.mean(passed) == pytest.approx(0.05, abs=0.03)


def test_a_dictionary_matches_itself(builds):
    d = ep.load(builds[0], percentile=10)
    found = ep.match(d, d)
    assert (found.nearest_k == np.arange(d.k)).all() and found.cosine_k == pytest.approx(1, abs=1e-6)
    assert (found.pairs.column_p == np.arange(d.k)).all() and found.persisted.all() and not found.introduced.any()
    raw = found.raw_k[np.isfinite(found.raw_k)]
    assert len(raw) and raw == pytest.approx(1)


def test_raw_exemplars_are_the_activations_they_came_from(builds, tiny_folder):
    d = ep.load(builds[0], percentile=10)
    model = ep.load_model(str(tiny_folder))
    first, _ = places(d, d, model, model)
    tokens = common_tokens(first, first, ["the old grey dog walks under the river. " * 3])
    raw = raw_exemplars(d)
    known = np.isfinite(raw).all(axis=1)
    assert known.any()
    ids, distance = d.assign(raw[known].astype(np.float32))
    assert (ids == np.flatnonzero(known)).all() and distance.max() < 1e-5
    norms = np.linalg.norm(raw[known], axis=1)
    assert norms == pytest.approx(d.regions["raw_norm"].to_numpy()[known], rel=1e-4)
    assert tokens.a_nd is tokens.b_ne and tokens.read == len(tokens)


def test_two_orders_of_a_text(builds, text_file, tiny_folder):
    a, b = (ep.load(build, percentile=10) for build in builds)
    found = ep.match(a, b, text=text_file, max_tokens=1500, model_a=str(tiny_folder), rebuild=b)
    summary = found.summary()
    assert [null["name"] for null in summary["nulls"]] == ["reflections", "random exemplars"]
    assert summary["persisted"] + summary["dropped"] == a.k
    assert summary["rebuild"]["persisted"] == summary["persisted"]
    assert summary["text"]["aligned"] == summary["text"]["tokens"] == 1500
    assert summary["text"]["mean_best_f1"] > 1.5 * summary["text"]["mean_best_f1_null"]
    table = found.table().to_pylist()
    assert len(table) == a.k and {row["region_a"] for row in table} == set(range(a.k))
    row = table[0]
    assert row["cosine"] == pytest.approx(float((a.exemplars[row["region_a"]] * b.exemplars[row["region_b"]]).sum()))
    assert row["distance_in_theta_a"] == pytest.approx((1 - row["cosine"]) / a.threshold)
    assert {row["region_b"] for row in found.introduced_table().to_pylist()} == set(np.flatnonzero(found.introduced))


def test_means_are_matched_among_regions_with_members(tmp_path):
    a, b = (annotated(tmp_path / str(seed), k=60, percentiles=(2,), seed=seed)[0] for seed in (0, 1))
    found = ep.match(a, b, basis="mean")
    assert len(found.regions_a) < a.k and 5 not in found.regions_a and 5 not in found.nearest_k
    assert found.raw_k is None and set(found.pairs.row_p) <= set(found.regions_a)


def test_one_region(tmp_path):
    """The smallest dictionaries there can be."""
    d = annotated(tmp_path / "d", k=60, percentiles=(2,))[0]
    one = single(d, tmp_path / "one")
    found = ep.match(one, one)
    assert found.cosine_k.tolist() == pytest.approx([1]) and found.summary()["one_to_one"]["pairs"] == 1
    assert found.null.cutoffs(0.01) == pytest.approx((1, 1))  # one direction against its own reflection: no evidence
    assert ep.match(one, d).pairs.row_p.tolist() == [0]


def single(d, path):
    from exemplar_partitioning.core.dictionary import Dictionary
    from exemplar_partitioning.folder.dictionary import save

    config = d.config.model_copy(update={"build": d.config.build.model_copy(update={"k": 1})})
    save(path, config, Dictionary(d.center, d.exemplars[:1], d.threshold), d.regions.slice(0, 1))
    return ep.load(path)


def test_what_does_not_fit_is_named(tmp_path):
    a = annotated(tmp_path / "a", k=60, percentiles=(2,), annotate=False)[0]
    b = annotated(tmp_path / "b", k=60, d=8, percentiles=(2,))[0]
    with pytest.raises(EPError, match=r"d_model = 16 .* 8 .*ep transport"):
        ep.match(a, b)
    with pytest.raises(EPError, match="not annotated"):
        ep.match(a, a, basis="mean")
    with pytest.raises(EPError, match="give one with --text"):
        ep.match(a, a, null="random exemplars")
    with pytest.raises(EPError, match="false alarms is 2"):
        ep.match(a, a, false_alarms=2)


def test_damage_is_told(builds, tmp_path):
    shutil.copytree(builds[0], tmp_path / "d")
    file = next((tmp_path / "d").glob("*/p10/exemplars.safetensors"))
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DataError, match="truncated or altered"):
        ep.load(tmp_path / "d", percentile=10)


def test_tokens_are_aligned_where_they_end():
    a = np.array([[0, 3], [3, 5], [5, 9], [9, 10]])
    b = np.array([[0, 5], [5, 6], [6, 6], [6, 9], [9, 11]])
    i, j = _aligned(a, b)
    assert i.tolist() == [1, 2] and j.tolist() == [0, 3]
    i, j = _aligned(np.array([[0, 1], [0, 1], [1, 2]]), np.array([[0, 1], [1, 2]]))
    assert i.tolist() == [1, 2] and j.tolist() == [0, 1]  # of two tokens in one character, the one that completes it


def test_command(builds, tmp_path):
    out = tmp_path / "out"
    done = run("match", *builds, "--percentile", "10", "--out", out, "--csv")
    assert done.returncode == 0, done.stderr
    assert "persisted" in done.stdout and "reflections" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert (out / "regions.csv").read_text().count("region_a") == 1 and (out / "introduced.csv").is_file()
    shown = json.loads(run("match", *builds, "--percentile", "10", "--json").stdout)
    assert {name: shown[name] for name in summary} == summary and len(shown["table"]) == summary["regions"][0]
    several = run("match", *builds)
    assert several.returncode == 2 and "choose one by site and percentile" in several.stderr


def test_a_large_set_is_matched_in_parts_with_the_same_quantiles(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 24)).astype(np.float32) for n in (300, 260))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    whole = reflections(a, b)
    assert len(whole.to_b) == 8 * 300 and len(whole.to_a) == 8 * 260
    monkeypatch.setattr("exemplar_partitioning.compare.nulls._MATCHED", 64)
    parts = reflections(a, b)
    assert len(parts.to_b) == 8 * 60 and len(parts.to_a) == 8 * 52
    assert np.isin(parts.to_b, whole.to_b).all() and np.isin(parts.to_a, whole.to_a).all()
    for share in (0.5, 0.9):
        assert np.quantile(parts.to_b, share) == pytest.approx(np.quantile(whole.to_b, share), abs=0.02)
