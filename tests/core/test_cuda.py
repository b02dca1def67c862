"""Laws L1 and L2 on a GPU: the same bytes as on a CPU from the same activations. Skipped where there is none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import exemplar_partitioning as ep
from exemplar_partitioning.core import calibration
from streams import cuts, streams

DEVICE = "cuda"
PREFILTERS = ["float32", "bfloat16"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def clustered(x, center, theta, device, prefilter="float32", sizes=None):
    """Everything a clustering knows, and the ids it gave, as bytes."""
    clustering = ep.LeaderClustering(torch.from_numpy(center), theta, device=device, prefilter=prefilter)
    ids = torch.cat([clustering.add(part) for part in torch.from_numpy(x).split(sizes or [len(x)])])
    arrays = clustering.exemplars.numpy(force=True), clustering.births, clustering.arrivals, clustering.soles
    return [array.tobytes() for array in (*arrays, ids.numpy())]


def clouds(n, d, seed=0):
    """Activations around directions, far from the origin as real ones are, with copies of earlier rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, d))[rng.integers(0, 60, n)] + 0.6 * rng.normal(size=(n, d)) + 3
    copies = rng.random(n) < 0.05
    x[copies] = x[rng.integers(0, n, copies.sum())]
    return x.astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(st.data(), streams(), st.sampled_from(PREFILTERS))
def test_clustering_of_hard_streams(data, stream, prefilter):
    x, center, theta = stream
    there = clustered(x, center, theta, DEVICE, prefilter, data.draw(cuts(len(x))))
    assert there == clustered(x, center, theta, "cpu")


@pytest.mark.parametrize("prefilter", PREFILTERS)
def test_clustering_of_tiles_and_assignment(prefilter):
    x, center = clouds(9_000, 576), np.full(576, 3, np.float32)
    assert clustered(x, center, 0.24, DEVICE, prefilter, [4_000, 5_000]) == clustered(x, center, 0.24, "cpu")
    exemplars = torch.nn.functional.normalize(torch.from_numpy(x[:5_000] - center), dim=1)
    here, there = (
        ep.Dictionary(torch.from_numpy(center), exemplars, 0.3, device, prefilter).assign(x)
        for device in ("cpu", DEVICE)
    )
    assert all((a == b).all() for a, b in zip(here, there, strict=True))


def test_calibration():
    x = torch.from_numpy(clouds(4_000, 576))
    center = calibration.center([x.to(DEVICE)])
    assert torch.equal(center, calibration.center([x]))
    percentiles = (1.0, 2.0, 4.0, 8.0, 10.0)
    there = calibration.pairwise_percentiles(x.to(DEVICE), center, percentiles)
    assert there == calibration.pairwise_percentiles(x, center, percentiles)


def test_a_build_and_its_annotation(tiny_folder, text_file, tmp_path):
    """Everything runs beside the model; from the exemplars on, a CPU finds the same regions."""
    given = {"calibration_batch": 1000, "calibration_sample": 3000, "max_tokens": 6000, "percentiles": (2.0,)}
    ep.build(str(tiny_folder), text_file, out=tmp_path / "build", sites=["resid_post.1"], device=DEVICE, **given)
    ep.annotate(tmp_path / "build", text_file, model=str(tiny_folder), device=DEVICE)
    here, there = (ep.load(tmp_path / "build", percentile=2, device=device) for device in ("cpu", DEVICE))
    assert here.config.build.device == DEVICE and here.annotation is not None
    rows = clouds(500, here.d_model)
    assert (here.assign(rows)[0] == there.assign(rows)[0]).all()
