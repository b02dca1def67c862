"""What was new lately is counted from the growth of a dictionary; text in the order of its sources shows in it."""

import numpy as np
import pytest

from exemplar_partitioning.core.geometry import directions
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.core.missing_mass import missing_mass, recent_births, uneven_births


@pytest.mark.parametrize(
    ("growth", "share"),
    [
        ([(50, 20)], 0.4),  # less than a window: all there is
        ([(100, 40), (200, 45)], 0.05),
        ([(100, 40), (200, 45), (230, 51)], 11 / 130),  # the last place a window back at least
        ([(70, 40), (200, 45)], 5 / 130),  # grown on: where the text before ended
    ],
)
def test_share_of_the_last_window(growth, share):
    assert recent_births(growth, 100) == pytest.approx(share)


def grown(sources, window=500):
    """Growth over rows of sources, each with clouds of its own; and missing mass after each window."""
    import torch

    clustering = LeaderClustering(torch.zeros(24), 0.3)
    growth, masses = [], []
    for part in torch.from_numpy(sources).split(window):
        clustering.add_block(directions(part, clustering.center), len(part))
        growth.append((clustering.position, clustering.k))
        masses.append(missing_mass(clustering.sole_counts, clustering.position))
    return growth, masses


def sources(n=1500, count=3, seed=0):
    rng = np.random.default_rng(seed)
    clouds = rng.normal(size=(count, 60, 24))
    x = clouds[np.repeat(np.arange(count), n), rng.integers(0, 60, count * n)]
    return (x + 0.25 * rng.normal(size=x.shape)).astype(np.float32)


def test_text_in_the_order_of_its_sources_is_noticed_and_mixed_text_is_not():
    x = sources()
    growth, masses = grown(x)
    assert masses[2].high < recent_births(growth[:4], 500), "the estimate fell short of the next source"
    fewest, more = uneven_births(growth, 500)
    assert more > 2 * fewest
    for seed in range(10):
        mixed, _ = grown(np.random.default_rng(seed).permutation(x))
        assert uneven_births(mixed, 500) is None
