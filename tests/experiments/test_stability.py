"""Stability: measures on known cases, and remedies that keep the laws of a net."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.stats import spearmanr

from ep_experiments.stability import (
    Regions,
    consensus,
    medoids,
    predict,
    predictors,
    reanchored,
    reappearance,
    summarise,
)
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.leader import LeaderClustering
from streams import streams


def lead(x, center, theta):
    clustering = LeaderClustering(torch.from_numpy(center), theta)
    clustering.add(torch.from_numpy(x))
    return Dictionary(torch.from_numpy(center), clustering.exemplars.clone(), theta)


def clouds(n, seed, spread=0.25, d=12, groups=10):
    """Activations around a few fixed directions, so that there is something to come back."""
    heart = np.random.default_rng(7).normal(size=(groups, d))
    heart /= np.linalg.norm(heart, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    x = heart[rng.integers(0, groups, n)] + spread * rng.normal(size=(n, d))
    return (rng.uniform(5, 9, size=(n, 1)) * x).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(streams())
def test_remedies_keep_the_net(stream):
    """L3: anchors are observed activations, pairwise farther than theta; every activation is within theta of one."""
    x, center, theta = stream
    made = lead(x, center, theta)
    if not made.k:
        return
    for remedy in (reanchored(made, x, rounds=2), consensus([made, lead(x[::-1].copy(), center, theta)], x)):
        distance = remedy.assign(x)[1]
        assert (distance[np.isfinite(distance)] <= theta).all()
        own = made.assign(x)[0] >= 0
        assert np.isfinite(distance).tolist() == own.tolist()
        e = remedy.exemplars.double()
        mutual = 1 - e @ e.T + 9 * torch.eye(remedy.k)
        assert float(mutual.min()) > theta - 1e-6
        nearest = Dictionary(torch.from_numpy(center), remedy.exemplars, theta).distances(x[own]).min(axis=0)
        assert nearest.max() < 1e-5


def test_medoids_against_the_definition():
    x = clouds(300, 0)
    d = lead(x, np.zeros(12, np.float32), 0.4)
    rows, members = medoids(d, x)
    ids = d.assign(x)[0]
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    for region, row, size in zip(np.unique(ids), rows, members, strict=True):
        here = np.flatnonzero(ids == region)
        mean = u[here].mean(axis=0)
        assert size == len(here) and row == here[np.argmax(u[here] @ mean)]


def test_a_dictionary_comes_back_in_itself():
    x = clouds(500, 0)
    regions = Regions.of(lead(x, np.zeros(12, np.float32), 0.4), x, clouds(300, 1))
    found = reappearance(regions, regions)
    there = np.isfinite(found.f1_k)
    assert there.any() and (found.f1_k[there] == 1).all() and found.rand == pytest.approx(1)
    assert found.exemplar_k == pytest.approx(1, abs=1e-6) and found.mean_k == pytest.approx(1, abs=1e-6)
    summary = summarise([regions, regions])
    assert summary["same"] == summary["same_members"] == 1 and summary["regions"] == len(regions.members_k)


def test_medoids_come_back_where_first_comers_do_not():
    """In separated clouds, the medoid does not depend on who came first."""
    held_out, center = clouds(500, 99), np.zeros(12, np.float32)
    built, moved = [], []
    for seed in range(3):
        x = clouds(1500, seed)
        d = lead(x, center, 0.5)
        built.append(Regions.of(d, x, held_out))
        moved.append(Regions.of(reanchored(d, x, 3), x, held_out))
    before, after = summarise(built), summarise(moved)
    assert after["same_members"] > before["same_members"] + 0.2 and after["rand"] > before["rand"]


def test_predictors_and_their_correlations():
    held_out, center = clouds(400, 99), np.zeros(12, np.float32)
    both = [Regions.of(lead(x, center, 0.3), x, held_out) for x in (clouds(900, 0), clouds(900, 1))]
    given = predictors(both[0])
    n, c = both[0].members_k, both[0].coherence_k
    assert given["log10(N C^2)"] == pytest.approx(np.log10(n * c**2))
    found = predict(both, "mean_k")
    expected = []
    for a, b in (both, both[::-1]):
        expected.append(spearmanr(predictors(a)["C"], reappearance(a, b).mean_k).statistic)
    assert found["C"][0] == pytest.approx(np.mean(expected))
    assert found["log10 N"][1] == 0 and all(-1 <= value <= 1 for pair in found.values() for value in pair)
