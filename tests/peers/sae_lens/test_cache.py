"""Activations that SAELens cached, written by its own runner."""

import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sae_lens", reason="only `make test-peers` has SAELens")

from datasets import load_from_disk

import exemplar_partitioning as ep
from exemplar_partitioning.activations.given import given

EXAMPLE = Path(__file__).parents[3] / "examples" / "saelens_cache.py"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """What the example has SAELens write: shards that it has consolidated into one data set."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE))["write"]()
    return tmp_path / "cache"


def test_a_cache_gives_the_rows_and_ids_that_saelens_wrote(cache, tmp_path):
    written = load_from_disk(str(cache)).with_format("numpy")
    x_nd = np.concatenate(list(written["blocks.0.hook_resid_post"]))
    ids_n = np.concatenate(list(written["token_ids"]))
    chunks = list(given(cache).chunks(10**9))
    np.testing.assert_array_equal(np.concatenate([chunk.x_nd for chunk in chunks]), x_nd)
    read = [window.ids for chunk in chunks for window in chunk.windows]
    np.testing.assert_array_equal(np.concatenate(read), ids_n)
    assert {len(ids) for ids in read} == {32}

    ep.build_from_activations(cache, out=tmp_path / "o", percentiles=[5], annotate=True)
    d = ep.load(tmp_path / "o")
    assert d.config.site.name == "resid_post.0"
    at = d.regions["arrival_index"].to_numpy()
    np.testing.assert_array_equal(d.regions["token_id"].to_numpy(), ids_n[at])
    assert d.annotation is not None
    np.testing.assert_array_equal(
        d.annotation.regions["members"].to_numpy(), np.bincount(d.assign(x_nd)[0], minlength=d.k)
    )
