"""Set algebra: laws of nets, the stated angular bound, and `ep combine`."""

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import exemplar_partitioning as ep
from annotated import annotated
from cli.test_cli import run
from exemplar_partitioning.compare.algebra import coverage
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder.dictionary import save
from exemplar_partitioning.folder.invariants import content_ids
from exemplar_partitioning.folder.origin import read_origin


@st.composite
def nets(draw):
    """Two dictionaries of one centre and threshold, and the streams they were built from."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d, theta = draw(st.integers(2, 6)), draw(st.sampled_from([0.05, 0.2, 0.5, 1.0]))
    center = torch.from_numpy(rng.normal(size=d).astype(np.float32))
    streams, made = [], []
    for _ in range(2):
        x = rng.normal(size=(draw(st.integers(1, 40)), d)).astype(np.float32)
        if streams and draw(st.booleans()):
            x[: len(x) // 2] = streams[0][rng.integers(0, len(streams[0]), len(x) // 2)]
        clustering = LeaderClustering(center, theta)
        clustering.add(torch.from_numpy(x))
        streams.append(x)
        made.append(Dictionary(center, clustering.exemplars.clone(), theta))
    return made[0], made[1], streams


def rows(dictionary):
    return {tuple(row) for row in dictionary.exemplars.numpy()}


@settings(max_examples=60, deadline=None)
@given(nets())
def test_laws(given):
    a, b, streams = given
    both, left = ep.intersection(a, b), ep.difference(a, b)
    assert rows(both) | rows(left) == rows(a) and not rows(both) & rows(left)
    assert rows(ep.union(a, b)) == rows(a) | rows(ep.difference(b, a))
    assert rows(ep.union(a, a)) == rows(ep.intersection(a, a)) == rows(a) and not ep.difference(a, a).k
    assert rows(ep.union(ep.union(a, b), b)) == rows(ep.union(a, b))
    # slow oracle: b has a region iff some exemplar lies within theta
    cosine = a.exemplars.double().numpy() @ b.exemplars.double().numpy().T
    clear = np.abs(1 - cosine.max(axis=1) - a.threshold) > 1e-6
    has = np.array([tuple(e) in rows(both) for e in a.exemplars.numpy()])
    assert ((1 - cosine.max(axis=1) <= a.threshold) == has)[clear].all()
    whole = ep.union(a, b)
    mutual = whole.exemplars.double() @ whole.exemplars.double().T
    mutual.fill_diagonal_(-1)
    assert float(mutual.max()) < 1 - a.threshold + 1e-6  # a net (L3)
    for x in streams:
        distance = whole.assign(x)[1]
        angle = np.arccos(np.clip(1 - distance[np.isfinite(distance)], -1, 1))
        assert (angle <= min(2 * math.acos(1 - a.threshold), math.pi) + 1e-4).all()
    assert coverage(whole, streams[0]) == 1


def stored(like, path, center, threshold, x):
    """A dictionary folder built from activations around a centre."""
    clustering = LeaderClustering(torch.from_numpy(center), threshold)
    clustering.add(torch.from_numpy(x))
    k = clustering.k
    config = like.config.model_copy(
        update={
            "build": like.config.build.model_copy(update={"k": k}),
            "calibration": like.config.calibration.model_copy(
                update={"threshold": threshold, "center_norm": float(np.linalg.norm(center.astype(np.float64)))}
            ),
        }
    )
    norm = np.linalg.norm(x[clustering.births].astype(np.float64), axis=1).astype(np.float32)
    table = like.regions.slice(0, k)
    table = table.set_column(table.schema.get_field_index("raw_norm"), table.schema.field("raw_norm"), [norm])
    ids = [content_ids(clustering.exemplars.numpy())]
    table = table.set_column(table.schema.get_field_index("content_id"), table.schema.field("content_id"), ids)
    save(path, config, Dictionary(torch.from_numpy(center), clustering.exemplars, threshold), table.combine_chunks())
    return ep.load(path)


@pytest.mark.parametrize("seed", range(6))
def test_merging_builds_that_were_calibrated_apart(tmp_path, seed):
    """Both streams lie within the stated angle, and every new exemplar is an activation of b's."""
    like = annotated(tmp_path / "like", k=400, d=6, percentiles=(2,), annotate=False)[0]
    rng = np.random.default_rng(seed)
    center = rng.normal(size=6).astype(np.float32)
    x, y = (center + 10 * rng.normal(size=(150, 6)).astype(np.float32) for _ in range(2))
    moved = center + np.float32(0.1) * rng.normal(size=6).astype(np.float32)
    a, b = stored(like, tmp_path / "a", center, 0.2, x), stored(like, tmp_path / "b", moved, 0.25, y)
    merged = ep.merge(a, b)
    d = merged.dictionary
    assert torch.equal(d.exemplars[: a.k], a.exemplars) and d.k == a.k + len(merged.rows_b)
    mutual = d.exemplars.double() @ d.exemplars.double().T
    mutual.fill_diagonal_(-1)
    assert float(mutual.max()) < 1 - a.threshold + 1e-6
    far = np.linalg.norm(y - moved, axis=1) >= merged.radius
    assert far.any() and merged.angle < math.pi
    assert np.arccos(1 - d.assign(y[far])[1]).max() <= merged.angle
    assert coverage(d, x) == 1
    # a new exemplar points at an activation of b's stream, as seen from a's centre
    u = (y - center) / np.linalg.norm(y - center, axis=1, keepdims=True)
    assert (d.exemplars[a.k :].numpy() @ u.T).max(axis=1) == pytest.approx(1, abs=1e-4)


def test_combined_folders(tmp_path):
    a = annotated(tmp_path / "a", k=60, percentiles=(2,), annotate=False)[0]
    half = tmp_path / "half"
    config = a.config.model_copy(update={"build": a.config.build.model_copy(update={"k": 20})})
    save(half, config, Dictionary(a.center, a.exemplars[:20], a.threshold), a.regions.slice(0, 20))
    b = ep.load(half)
    left = ep.combine("difference", a, b, tmp_path / "left")
    both = ep.combine("intersection", a, b, tmp_path / "both")
    assert left.k + both.k == a.k and both.k >= 20
    assert left.regions["region"].to_pylist() == list(range(left.k))
    assert set(left.regions["document"].to_pylist()) <= set(a.regions["document"].to_pylist())
    again = ep.combine("union", both, left, tmp_path / "again")
    assert both.k <= again.k <= a.k and again.regions["region"].to_pylist() == list(range(again.k))
    origin = read_origin(again)
    assert origin["operation"] == "union" and origin["sources"][0]["content_id"] == both.content_id
    with pytest.raises(EPError, match="holds no region"):
        ep.combine("difference", b, a, tmp_path / "none")
    with pytest.raises(EPError, match="exists already"):
        ep.combine("difference", a, b, tmp_path / "left")
    with pytest.raises(EPError, match="expected union"):
        ep.combine("sum", a, b, tmp_path / "sum")


def test_what_does_not_fit_is_named(tmp_path):
    a, coarse = annotated(tmp_path / "a", k=60, percentiles=(2, 8), annotate=False)
    other = annotated(tmp_path / "b", k=60, percentiles=(2,), seed=1, annotate=False)[0]
    with pytest.raises(EPError, match=r"theta 0\.42 and 0\.78.*merge"):
        ep.union(a, coarse)
    with pytest.raises(EPError, match=r"\|centre\|"):
        ep.difference(a, other)
    shutil.copytree(a.path, tmp_path / "c")
    config = (tmp_path / "c" / "config.json").read_text().replace("f" * 64, "e" * 64)
    (tmp_path / "c" / "config.json").write_text(config)
    (tmp_path / "c" / "config.json.sha256").unlink()
    with pytest.raises(EPError, match=r"weights ffffffffffff and eeeeeeeeeeee.*ep transport"):
        ep.combine("union", a, ep.load(tmp_path / "c"), tmp_path / "out")


def test_command(tmp_path):
    a = annotated(tmp_path / "a", k=60, percentiles=(2,), annotate=False)[0]
    done = run("combine", "union", a.path, a.path, "--out", tmp_path / "u")
    assert done.returncode == 0, done.stderr
    assert "60 regions" in done.stdout and "0 of B" in done.stdout and "cosine distance" in done.stdout
    empty = run("combine", "difference", a.path, a.path, "--out", tmp_path / "d")
    assert empty.returncode == 2 and "holds no region" in empty.stderr
