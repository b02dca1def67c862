"""The method on one page (examples/ep_from_scratch.py) is the method of the package."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import sentences
from exemplar_partitioning import Dictionary, LeaderClustering, calibrate, load_model
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.sites import Site

FILE = Path(__file__).parents[2] / "examples" / "ep_from_scratch.py"
BATCH = 500


@pytest.fixture(scope="module")
def scratch():
    spec = importlib.util.spec_from_file_location("ep_from_scratch", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def activations(tiny_folder):
    """Of a small model on text: few kinds of tokens, many rows alike; some rows without a direction."""
    loaded = load_model(tiny_folder)
    site = Site(1, "resid_post")
    windows = [np.array(loaded.tokenizer(text)["input_ids"]) for text in sentences(60, seed=5)]
    x = Extractor(loaded.model, [site]).extract(windows)[site].numpy()
    x[[3, 700, 900]] = [[np.nan], [0], [np.inf]]
    return x


def agree(scratch, x, percentile):
    """The same from the page and from the package, which both get the activations and nothing else."""
    plain = scratch.partition(x, percentile, BATCH)
    size = min(BATCH, len(x))
    calibration = calibrate(torch.from_numpy(x[: len(x) - len(x) % size]).split(size), [percentile])
    clustering = LeaderClustering(calibration.center, calibration.thresholds[percentile])
    clustering.add(torch.from_numpy(x))
    d = Dictionary(clustering.center, clustering.exemplars, clustering.threshold)
    regions, distances = d.assign(x)
    members = d.members(x)
    np.testing.assert_allclose(plain["center"], d.center, rtol=1e-6)
    assert plain["threshold"] == pytest.approx(d.threshold, rel=1e-7)
    np.testing.assert_array_equal(plain["exemplar_rows"], clustering.births)
    np.testing.assert_allclose(plain["exemplars"], d.exemplars, atol=1e-6)
    np.testing.assert_array_equal(plain["regions"], regions)
    np.testing.assert_allclose(plain["distances"], distances, atol=1e-6)
    np.testing.assert_array_equal(plain["members"], members.members)
    np.testing.assert_allclose(plain["coherence"], members.coherence, atol=1e-6)
    np.testing.assert_allclose(plain["mean_distance"], members.mean_distance, atol=1e-6)
    return plain


@pytest.mark.parametrize("percentile", [1, 4, 20])
def test_it_agrees_on_activations(scratch, activations, percentile):
    found = agree(scratch, activations, percentile)
    assert len(activations) > 3 * BATCH and len(found["exemplars"]) > 5
    assert np.flatnonzero(found["regions"] < 0).tolist() == [3, 700, 900]


@pytest.mark.parametrize("rows", [2, BATCH - 1, 2_200])
def test_it_agrees_on_blobs(scratch, rows):
    agree(scratch, scratch.blobs(rows), 2)


def test_it_is_a_page_and_runs_on_a_file(scratch, tmp_path):
    assert len(FILE.read_text().splitlines()) <= 150
    np.save(tmp_path / "x.npy", x := scratch.blobs(400, seed=1))
    shown = subprocess.run(
        [sys.executable, FILE, tmp_path / "x.npy", "--percentile", "5"], capture_output=True, text=True, check=True
    ).stdout
    assert f"{len(scratch.partition(x, 5)['exemplars'])} regions" in shown
