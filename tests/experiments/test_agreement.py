"""Agreement of regions with an autoencoder's features: against plain loops, and where the answer is known."""

import json

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import exemplar_partitioning as ep
from autoencoders import invoke, made, refused, same, saved
from ep_experiments.agreement import FEW, TOP, Inputs, TopInputs, compare, inputs_of, shared_f1
from ep_experiments.nulls import permuted
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder


def scores(n, u, seed=0):
    """Many ties, zeros, and a unit that is never above 0."""
    found = np.random.default_rng(seed).integers(-3, 40, size=(n, u)) / 8
    found[:, 0] = -1
    return found.astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 500])
def test_top_inputs_are_those_of_a_full_sort(block):
    given = scores(500, 6)
    given[3, 2] = np.nan
    top = TopInputs(6, size=20)
    for start in range(0, 500, block):
        top.add(torch.from_numpy(given[start : start + block]))
    listed = top.inputs.toarray()
    for unit in range(6):
        active = [row for row in range(500) if given[row, unit] > 0]
        first = sorted(active, key=lambda row: (-given[row, unit], row))[:20]
        assert np.flatnonzero(listed[unit]).tolist() == sorted(first)
        assert int(top.active_u[unit]) == len(active)


def random_sets(units, n, seed, mean=30):
    rng = np.random.default_rng(seed)
    return (rng.random((units, n)) < mean / n * rng.random((units, 1)) * 2).astype(np.int64)


def slow(a, b):
    """Best F1 of every row of a, by sets."""
    sets_b = [set(np.flatnonzero(row)) for row in b]
    found = []
    for row in a:
        mine = set(np.flatnonzero(row))
        found.append(max((2 * len(mine & s) / (len(mine) + len(s)) if mine | s else 0.0) for s in sets_b))
    return np.array(found)


def test_agreement_is_that_of_plain_loops_over_all_units():
    a, b = random_sets(15, 300, 0), random_sets(22, 300, 1)
    a[4], b[2] = 0, 0
    b[7] = a[3]
    enough = a.sum(axis=1) >= FEW, b.sum(axis=1) >= FEW
    found = compare(Inputs(csr_array(a), enough[0]), Inputs(csr_array(b), enough[1]), np.arange(300) % 5)
    for side, f1, is_enough in (("regions", slow(a, b), enough[0]), ("features", slow(b, a), enough[1])):
        row = found[side]
        assert row["units"] == len(f1) and row["with_enough_inputs"] == is_enough.sum()
        assert row["sharing_nothing"] == (f1 == 0).sum() >= 1
        assert row["mean_f1"] == pytest.approx(f1.mean(), abs=1e-4)
        assert row["above_0.3"] == pytest.approx((f1 > 0.3).mean(), abs=1e-4)
        assert row["above_0.8"] == pytest.approx((f1 > 0.8).mean(), abs=1e-4) and row["above_0.8"] > 0
        assert row["of_those_with_enough"]["mean_f1"] == pytest.approx(f1[is_enough].mean(), abs=1e-4)
    assert found["one_to_one"]["above_0.8"] == pytest.approx(1 / 15, abs=1e-4)
    assert found["one_to_one"]["mean_f1"] <= found["regions"]["mean_f1"]


def test_chance_is_what_remains_of_agreement_when_inputs_are_permuted():
    """Units that follow the token alone agree as much under the permutation that keeps tokens, others do not."""
    rng = np.random.default_rng(0)
    token_n = rng.integers(40, size=2000)
    by_token = (token_n == np.arange(40)[:, None]).astype(np.int64)
    at_random = np.stack([rng.permutation(2000) < 50 for _ in range(40)]).astype(np.int64)
    everyone = np.ones(40, bool)

    def both(sets):
        return compare(Inputs(csr_array(sets), everyone), Inputs(csr_array(sets), everyone), token_n)

    tokens, others = both(by_token), both(at_random)
    assert tokens["regions"]["mean_f1"] == others["regions"]["mean_f1"] == 1
    assert tokens["chance_same_token"]["regions"]["mean_f1"] == 1 > tokens["chance"]["regions"]["mean_f1"] + 0.8
    assert others["chance_same_token"]["regions"]["mean_f1"] < 0.2


def test_a_permutation_keeps_inputs_in_their_groups():
    group_n = np.random.default_rng(0).integers(5, size=200)
    found = permuted(group_n, np.random.default_rng(1))
    assert sorted(found) == list(range(200)) and (group_n[found] == group_n).all()
    assert (found != np.arange(200)).mean() > 0.8


def test_a_dictionary_agrees_with_the_autoencoder_that_is_the_same():
    rng = np.random.default_rng(0)
    exemplars = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((30, 16), np.float32)), dim=1)
    dictionary = Dictionary(torch.ones(16), exemplars, 0.5)
    x_nd = torch.from_numpy(rng.standard_normal((4000, 16), np.float32)) + 1
    sides = inputs_of(dictionary, same(dictionary), [(x_nd[:1500], np.zeros(1500)), (x_nd[1500:], np.zeros(2500))])
    members = shared_f1(sides.members[0].of, csr_array(sides.members[1].of.T))
    assert np.allclose(members.diagonal(), 1)
    assert int(sides.members[0].of.sum()) == 4000
    assert sides.top[0].of.sum(axis=1).max() == TOP == sides.top[1].of.sum(axis=1).max()


@pytest.fixture(scope="module")
def given(tiny_folder, text_file, tmp_path_factory):
    return made(tiny_folder, text_file, tmp_path_factory.mktemp("agreement"))


def test_the_command(given, tmp_path):
    rest = ["--activations", given / "x", "--quick", "--out", tmp_path / "found.json"]
    shown = invoke("agreement", given / "build", "--sae", given / "sae", *rest)
    assert "same token" in shown and "members" in shown
    result = json.loads((tmp_path / "found.json").read_bytes())
    fine, coarse = result["results"]
    assert (fine["dictionary"]["percentile"], coarse["dictionary"]["percentile"]) == (5, 20)
    assert (
        fine["members"]["regions"]["mean_f1"]
        == 1 - fine["members"]["regions"]["sharing_nothing"] / fine["sae"]["features"]
    )
    assert coarse["members"]["regions"]["mean_f1"] < fine["members"]["regions"]["mean_f1"]
    assert fine["top"]["regions"]["mean_f1"] > fine["top"]["chance"]["regions"]["mean_f1"]


def test_an_autoencoder_of_another_width_or_site_is_refused(given, tmp_path):
    narrow = SparseAutoencoder(torch.ones(7, 5), torch.zeros(5), torch.ones(5, 7), torch.zeros(7), "topk", k=1)
    saved(narrow, tmp_path / "narrow", "blocks.1.hook_resid_post")
    saved(same(ep.load(given / "build", percentile=5)), tmp_path / "elsewhere", "blocks.2.hook_resid_post")
    rest = ["--activations", given / "x", "--out", tmp_path / "found.json"]
    assert "width 7" in refused("agreement", given / "build", "--sae", tmp_path / "narrow", *rest)
    assert "blocks.2.hook_resid_post" in refused("agreement", given / "build", "--sae", tmp_path / "elsewhere", *rest)
    assert "ep experiment extract" in refused(
        "agreement", given / "build", "--sae", given / "sae", "--activations", tmp_path
    )
