"""The unseen mass: leave-one-out by definition, and right on streams where the truth is known."""

import numpy as np
import torch
from hypothesis import given, settings

from exemplar_partitioning import LeaderClustering, unseen_mass
from streams import streams


def clustered(x, center, theta):
    clustering = LeaderClustering(torch.from_numpy(center), theta)
    clustering.add(torch.from_numpy(x))
    return clustering


@settings(max_examples=40, deadline=None)
@given(streams(max_rows=25, bad_rows=False))
def test_the_estimate_is_leave_one_out(stream):
    """Rows that would found a region had they come last: take each out, cluster the rest, then add it."""
    x, center, theta = stream
    clustering = clustered(x, center, theta)
    n = clustering.position - clustering.skipped
    founders = 0
    for row in range(len(x)):
        rest = clustered(np.delete(x, row, axis=0), center, theta) if len(x) > 1 else None
        if rest is None:
            founders += n
            continue
        before = rest.k
        rest.add(torch.from_numpy(x[row : row + 1]))
        founders += rest.k - before
    assert n == 0 or abs(unseen_mass(clustering.sole_counts, n).estimate - founders / n) <= 1.5 / n


def test_the_interval_covers_the_truth_on_independent_rows():
    """The truth is measured on many further rows of the same distribution."""
    rng = np.random.default_rng(0)
    center, covered, ratios = np.zeros(5, np.float32), 0, []
    for _ in range(40):
        clustering = clustered(rng.normal(size=(600, 5)).astype(np.float32), center, 0.1)
        estimate = unseen_mass(clustering.sole_counts, 600)
        u = rng.normal(size=(4000, 5)).astype(np.float32)
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        truth = float((1 - u @ clustering.exemplars.numpy().T > 0.1).all(axis=1).mean())
        covered += estimate.low <= truth <= estimate.high
        ratios.append(estimate.estimate / truth)
    assert covered >= 34
    assert 0.9 < np.mean(ratios) < 1.1


def test_nothing_seen_is_all_unseen():
    assert unseen_mass(np.zeros(0, np.int64), 0).estimate == 1.0
