"""The reconstruction experiment on made-up activations: its arms are what they are called, and the null does worst."""

import numpy as np
import torch

from ep_experiments.reconstruction import arms
from ep_experiments.reconstruction.autoencoders import Recipe, train
from ep_experiments.reconstruction.measure import rebuilt_at
from ep_experiments.reconstruction.ratios import losses, token_ratios
from ep_experiments.reconstruction.run import Sizes, run
from ep_experiments.streamed import Streamed
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.evaluating.result import Bootstrap


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
    u = torch.nn.functional.normalize(x[:1000] - center, dim=1)
    atoms, tau = arms.of_size(lambda share: arms.grown(u, share, 4, 240), 120, 4)
    for directions in (centroids, atoms):
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(directions)))
    assert len(centroids) == 30 and abs(len(atoms) - 120) < 120 and 0 < tau < 1
    strict, loose = (arms.grown(u, share, 4, 10_000) for share in (0.1, 0.6))
    assert len(strict) > len(loose) >= 4


def share_left(x, rebuilt):
    return float(((x - rebuilt) ** 2).sum() / ((x - x.mean(dim=0)) ** 2).sum())


def test_rebuilding_at_several_k_is_what_decompose_does():
    x = streamed(400).x_nd
    center = x.mean(dim=0)
    directions = arms.random_activations(x, center, 90, seed=1)
    for k, rebuilt in rebuilt_at(directions, center, x, (1, 2, 8)).items():
        expected = Dictionary(center, directions, 1.0).decompose(x, k).reconstruct()
        torch.testing.assert_close(rebuilt, expected, rtol=0, atol=1e-4)


def test_least_squares_and_a_second_dictionary_rebuild_better_than_what_they_come_from():
    x = streamed(2000).x_nd
    center = x.mean(dim=0)
    u = torch.nn.functional.normalize(x - center, dim=1)
    first = arms.random_activations(x, center, 60, seed=1)
    before = share_left(x, rebuilt_at(first, center, x, [2])[2])
    assert share_left(x, rebuilt_at(arms.least_squares(first, u, 2, 2), center, x, [2])[2]) < 0.8 * before
    both = arms.second_dictionary(first[:30], u, 60, 2)
    assert torch.equal(both[:30], first[:30]) and len(both) <= 60


def test_autoencoders_trained_side_by_side_are_those_trained_alone_and_learn():
    x = streamed().x_nd
    rows = [torch.arange(3000).repeat(4)] * 2
    recipes = [Recipe("topk", 3e-3, k=4), Recipe("topk", 1e-3, k=4, seed=1)]
    both = train(recipes, x, rows, 80, 50)
    for recipe, sae in zip(recipes, both, strict=True):
        (alone,) = train([recipe], x, rows[:1], 80, 50)
        torch.testing.assert_close(alone.W_dec, sae.W_dec, rtol=1e-3, atol=1e-4)
        code = sae.encode(x)
        assert (code > 0).sum(dim=1).max() <= 4 and share_left(x, sae.decode(code)) < 0.5
    (frozen,) = train([Recipe("frozen", 3e-3, k=4)], x, rows[:1], 80, 50)
    assert share_left(x, frozen.decode(frozen.encode(x))) > share_left(x, both[0].decode(both[0].encode(x)))


def curve(documents, tokens=(100, 1000, 10_000), shift=1.0):
    """Losses linear in the log of tokens, times something a document."""
    bootstrap, nothing = Bootstrap(len(documents), 0), np.ones(len(documents))
    return [(n, losses(bootstrap, (1 - np.log(n / shift) / 20) * documents, nothing)) for n in tokens]


def test_token_ratios_of_log_linear_losses_are_their_shift():
    documents = np.random.default_rng(0).uniform(0.5, 1.5, size=40)
    for shift, wanted in ((7, [7, ""]), (0.5, [0.5, ""]), (40, [20, "at least"]), (0.02, [0.2, "less than"])):
        found = token_ratios(curve(documents, (2000,), shift), [curve(documents)])
        assert found == {"estimates": [wanted], "95 %": [wanted, wanted]}  # the same documents for both: exact
    (low, _), (high, _) = token_ratios(curve(documents, (2000,), 2), [curve(documents[::-1])])["95 %"]
    assert low < 1.5 and high > 2.5  # other documents are hard for the one than for the other
