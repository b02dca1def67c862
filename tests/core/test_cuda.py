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
    arrays = clustering.exemplars.numpy(force=True), clustering.births, clustering.online_counts, clustering.sole_counts
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


def test_blocks_in_which_nothing_is_near_the_threshold():
    x, center = np.eye(64, dtype=np.float32)[np.arange(400) % 64], np.zeros(64, np.float32)
    assert clustered(x, center, 0.5, DEVICE, "float32", [64, 336]) == clustered(x, center, 0.5, "cpu")


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


@pytest.mark.parametrize("method", ["omp", "mp"])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_decomposition(method, nonnegative):
    x = clouds(700, 96)
    center = torch.from_numpy(x.mean(axis=0))
    exemplars = torch.nn.functional.normalize(torch.from_numpy(clouds(500, 96, seed=1)) - center, dim=1)
    here, there = (
        ep.Dictionary(center, exemplars, 0.3, device).decompose(x, 16, method=method, nonnegative=nonnegative)
        for device in ("cpu", DEVICE)
    )
    assert (here.regions == there.regions).all() and (here.weights == there.weights).all()
    assert (here.residual_norm == there.residual_norm).all()


def test_whatever_the_program_around_has_set():
    """Mixed precision and TF32 change nothing, and are as they were afterwards."""
    x, center = clouds(5_000, 576), np.full(576, 3, np.float32)
    expected = clustered(x, center, 0.24, "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with torch.autocast(DEVICE, torch.bfloat16):
            assert clustered(x, center, 0.24, DEVICE) == expected
        with torch.autocast(DEVICE, torch.float16), torch.inference_mode():
            assert clustered(x, center, 0.24, DEVICE, "bfloat16") == expected
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_tensors_on_the_device_are_taken_as_they_are():
    x = torch.from_numpy(clouds(600, 64))
    exemplars = torch.nn.functional.normalize(x[:50] - 3, dim=1)
    dictionary = ep.Dictionary(torch.full((64,), 3.0), exemplars, 0.3)
    for rows in (x.to(DEVICE), x.to(DEVICE).requires_grad_(), x.T.contiguous().to(DEVICE).T, x.to(DEVICE).double()):
        ids, distance = dictionary.assign(rows)
        expected, apart = dictionary.assign(x)
        assert torch.equal(torch.as_tensor(ids).cpu(), expected)
        assert torch.equal(torch.as_tensor(distance).cpu(), apart)
    half = x.to(DEVICE, torch.bfloat16)
    assert torch.equal(torch.as_tensor(dictionary.assign(half)[0]).cpu(), dictionary.assign(half.cpu())[0])
    assert dictionary.margins(half.view(20, 30, 64)).shape == (20, 30)
    for read in (dictionary.distances, dictionary.encode, dictionary.members):
        read(half)
    here, there = (ep.ExemplarPartition(percentile=10).fit(rows).exemplars_ for rows in (x, x.to(DEVICE)))
    assert (torch.as_tensor(here) == torch.as_tensor(there).cpu()).all()


def test_interventions(tiny_folder, text_file, tmp_path):
    """On the device an intervention touches the tokens that it touches on a CPU, and comes to the same logits."""
    ep.build(str(tiny_folder), text_file, out=tmp_path / "build", sites=["resid_post.1"], max_tokens=2000,
             percentiles=(8.0,), calibration_batch=500, calibration_sample=1500)  # fmt: skip
    dictionary = ep.load(tmp_path / "build", percentile=8)
    ids = torch.tensor([[0, 5, 9, 14, 20, 31]])
    logits = {}
    for device in ("cpu", DEVICE):
        loaded = ep.load_model(str(tiny_folder), device=device)
        with torch.no_grad(), ep.steer(loaded, dictionary, 0, alpha=2.0):
            steered = loaded.model(ids.to(device)).logits.cpu()
        with torch.no_grad(), ep.ablate(loaded, dictionary, 1, tokens="generated"):
            out = loaded.model.generate(ids.to(device), max_new_tokens=5, do_sample=False).cpu()
        logits[device] = steered, out
    assert torch.allclose(logits["cpu"][0], logits[DEVICE][0], atol=1e-3)
    assert torch.equal(logits["cpu"][1], logits[DEVICE][1])
