"""Maps keep neighbours together, are the same every time, and are computed once."""

import os

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import exemplar_partitioning as ep
from annotated import annotated
from exemplar_partitioning.errors import DataError
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.show import map as atlas


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def dictionary(folder, k, d=16):
    return annotated(folder, k=k, d=d, percentiles=(2,), annotate=False)[0]


def kept_neighbours(e_kd, xy_k2, rows, count=10):
    """Share of the nearest exemplars by cosine that are among the nearest on the map."""
    by_cosine = NearestNeighbors(n_neighbors=count, metric="cosine").fit(e_kd).kneighbors()[1][rows]
    on_map = NearestNeighbors(n_neighbors=count).fit(xy_k2).kneighbors()[1][rows]
    return np.mean([len({*a} & {*b}) / count for a, b in zip(by_cosine, on_map, strict=True)])


def test_near_exemplars_are_near_on_the_map(tmp_path):
    d = dictionary(tmp_path / "d", 300)
    xy = atlas.layout(d)
    assert xy.shape == (300, 2) and xy.dtype == np.float32
    assert np.abs(xy).max() == pytest.approx(1)
    assert kept_neighbours(d.exemplars.numpy(), xy, slice(None)) > 0.5  # 0.03 by chance


def test_regions_beyond_those_placed_first_go_beside_their_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "_PLACED", 150)
    d = dictionary(tmp_path / "d", 300)
    xy = atlas.layout(d)
    rest = np.argsort(-d.regions["arrivals"].to_numpy(), kind="stable")[150:]
    assert kept_neighbours(d.exemplars.numpy(), xy, rest) > 0.25
    assert len(np.unique(xy, axis=0)) == 300


@pytest.mark.parametrize(("k", "width"), [(1, 16), (2, 16), (3, 1), (4, 2), (5, 16), (6, 1), (12, 2), (40, 16)])
def test_few_regions_and_narrow_models(tmp_path, k, width):
    d = dictionary(tmp_path / "d", 40, d=width)
    config = d.config.model_copy(update={"build": d.config.build.model_copy(update={"k": k})})
    store.save(tmp_path / "few", config, ep.Dictionary(d.center, d.exemplars[:k], d.threshold), d.regions[:k])
    few = ep.load(tmp_path / "few")
    for positions in (atlas.layout(few), atlas.sphere(few)):
        assert positions.shape == (k, 2) and np.isfinite(positions).all()


def test_computed_once_and_the_same_anywhere(tmp_path, monkeypatch, cache):
    first = atlas.layout(dictionary(tmp_path / "d", 60))
    with monkeypatch.context() as patch:
        patch.setattr(atlas, "_layout", lambda *_: pytest.fail("computed again"))
        assert (atlas.layout(dictionary(tmp_path / "copy", 60)) == first).all()
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "other"))
    assert (atlas.layout(dictionary(tmp_path / "third", 60)) == first).all()


def test_nothing_is_written_beside_the_dictionary(tmp_path):
    d = dictionary(tmp_path / "d", 20)
    before = sorted((tmp_path / "d").rglob("*"))
    atlas.layout(d)
    assert sorted((tmp_path / "d").rglob("*")) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:150] + bytes([data[150] ^ 1]) + data[151:],
        lambda data: b"not a zip file",
    ],
    ids=["empty", "cut short", "a bit flipped", "something else"],
)
def test_a_damaged_cache_is_computed_again(tmp_path, cache, damage):
    d = dictionary(tmp_path / "d", 60)
    first = atlas.layout(d)
    (entry,) = (cache / "atlas").glob("*.npz")
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    assert (atlas.layout(d) == first).all()
    assert entry.read_bytes() == good


def test_another_dictionary_s_positions_are_not_taken(tmp_path, cache):
    small, large = dictionary(tmp_path / "small", 20), dictionary(tmp_path / "large", 60)
    atlas.layout(small)
    for entry in list((cache / "atlas").iterdir()):
        entry.rename(entry.with_name(entry.name.replace(small.content_id, large.content_id)))
    assert atlas.layout(large).shape == (60, 2)


def test_without_a_cache_that_can_be_written_it_is_computed_each_time(tmp_path, monkeypatch, cache):
    d = dictionary(tmp_path / "d", 20)
    first = atlas.layout(d)
    (tmp_path / "file").touch()
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "file"))
    assert (atlas.layout(d) == first).all()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_what_others_may_write_to_is_not_read(tmp_path, cache):
    d = dictionary(tmp_path / "d", 20)
    atlas.layout(d)
    (entry,) = (cache / "atlas").glob("*.npz")
    entry.chmod(0o666)
    with pytest.raises(DataError, match="everybody may write"):
        atlas.layout(d)


def test_the_sphere_shows_the_first_three_principal_axes(tmp_path):
    d = dictionary(tmp_path / "d", 200, d=3)
    longitude, latitude = atlas.sphere(d).T
    assert np.abs(longitude).max() <= np.pi and np.abs(latitude).max() <= np.pi / 2
    on_sphere = np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)])
    centred = d.exemplars.numpy() - d.exemplars.numpy().mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    # in three dimensions the axes only turn the sphere: angles between regions stay
    assert np.allclose(on_sphere.T @ on_sphere, centred @ centred.T, atol=1e-4)
