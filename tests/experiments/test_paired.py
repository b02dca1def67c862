"""Differences of what was measured both ways, by clusters; nulls that know nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ep_experiments import nulls
from ep_experiments.paired import above_null, clustered, difference
from exemplar_partitioning.errors import EPError


def test_copies_of_one_item_are_one_witness_in_a_cluster():
    rng = np.random.default_rng(0)
    a = rng.normal(0.3, 1, 30)
    wide = difference(np.repeat(a, 10), np.zeros(300), np.repeat(np.arange(30), 10))
    narrow, alone = difference(np.repeat(a, 10), np.zeros(300)), difference(a, np.zeros(30))
    assert wide == pytest.approx(alone)  # as if each had been measured once
    assert narrow["high"] - narrow["low"] < 0.4 * (wide["high"] - wide["low"])
    assert narrow["p"] < wide["p"]


@given(st.integers(0, 10_000), st.floats(-2, 2))
@settings(max_examples=20, deadline=None)
def test_a_difference_has_a_sign_and_leaves_out_what_is_not_known(seed, shift):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(shift, 1, 12), rng.normal(0, 1, 12)
    there, back = difference(a, b), difference(b, a)
    assert there["difference"] == pytest.approx(-back["difference"]) and there["p"] == back["p"]
    assert there["low"] <= there["difference"] <= there["high"]
    assert difference(np.append(a, np.nan), np.append(b, 1.0)) == there


def test_p_is_uniform_where_nothing_is_apart():
    rng = np.random.default_rng(1)
    p = [difference(rng.normal(size=20), rng.normal(size=20))["p"] for _ in range(60)]
    assert 0.3 < np.mean(p) < 0.7 and np.mean(np.array(p) < 0.05) < 0.2
    assert above_null(3.0, np.arange(3.0)) == 0.25 and above_null(0.0, np.arange(3.0)) == 1


def test_whole_clusters_are_drawn():
    weight = clustered(np.array(["a", "b", "a", "c"]), 50, seed=0)
    assert (weight[:, 0] == weight[:, 2]).all() and (weight[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_nulls_of_one_seed_are_the_same_and_know_no_model():
    u = torch.nn.functional.normalize(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    drawn = nulls.random_exemplars(u, 20, seed=3)
    assert torch.equal(drawn, nulls.random_exemplars(u, 20, seed=3))
    assert len({tuple(row.tolist()) for row in drawn}) == 20  # none twice
    assert not torch.equal(drawn, nulls.random_exemplars(u, 20, seed=4))
    torch.testing.assert_close(nulls.gaussian_directions(6, 9, 1).norm(dim=1), torch.ones(9))
    with pytest.raises(EPError, match="51 directions cannot be had from 50 activations"):
        nulls.random_rows(50, 51, 0)


def test_words_are_those_of_the_texts_they_were_fitted_on():
    table = nulls.words(["Red fox", "red red dog", "unicorn"], [0, 1])
    assert table.shape == (3, 3) and not table[2].any()
    assert table[0] @ table[1] > 0  # case aside
