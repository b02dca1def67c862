"""The reconstruction experiment on made-up activations: its arms are what they are called, and the null does worst."""

import numpy as np
import torch

from ep_experiments.reconstruction import arms
from ep_experiments.reconstruction.run import Sizes, run
from ep_experiments.streamed import Streamed


def streamed(n=3000, d=40):
    """Rows made of two of 60 directions each, in documents of 20."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(60, d))
    x = sum(rng.uniform(1, 4, size=(n, 1)) * directions[rng.integers(0, 60, size=n)] for _ in range(2)) + 3
    documents = np.repeat(np.arange(n // 20), 20).astype(np.uint32)
    return Streamed(None, {}, torch.from_numpy(x.astype(np.float32)), np.zeros(n, np.int32), documents)


def test_every_arm_is_measured_in_every_order(monkeypatch):
    monkeypatch.setattr("ep_experiments.reconstruction.run.HELD_OUT_ROWS", 100)
    result = run(streamed(), Sizes(few=400, many=1200, orders=2))
    assert {row["arm"] for row in result["results"]} == {
        *("exemplars", "means", "random activations", "k-means", "Gaussian", "ITDA")
    }
    assert {row["order"] for row in result["results"]} == {0, 1} and result["held_out_rows"] >= 100
    for row in result["summary"]:
        mean, low, high = next(iter(row["fvu"].values()))
        assert 0 <= low <= mean <= high
        steps = [value[0] for value in row["fvu"].values()]
        assert steps == sorted(steps, reverse=True)
    by = {(row["arm"], row["tokens"], row["percentile"]): row for row in result["summary"]}
    for tokens in (400, 1200):
        null, real = by["Gaussian", tokens, 1.0], by["exemplars", tokens, 1.0]
        assert null["directions"] == real["directions"] and real["fvu"][1][0] < null["fvu"][1][0]


def test_kmeans_and_itda_are_unit_directions_of_the_number_asked_for():
    x = streamed().x_nd
    center = x.mean(dim=0)
    centroids = arms.spherical_kmeans(x, center, 30, seed=0)
    atoms, tau = arms.itda_of(x[:1000], center, 120, steps=4)
    for directions in (centroids, atoms):
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(directions)))
    assert len(centroids) == 30 and abs(len(atoms) - 120) < 120 and 0 < tau < 1
    strict, loose = (arms.itda(x[:1000], center, share, 4, 10_000) for share in (0.1, 0.6))
    assert len(strict) > len(loose) >= 4
