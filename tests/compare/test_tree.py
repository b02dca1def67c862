"""The resolution tree: parents by the nearest exemplar, paths against brute force, and `ep tree`."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exemplar_partitioning as ep
from annotated import annotated
from cli.test_cli import run
from exemplar_partitioning.compare.tree import neighbour_graph, path, paths
from exemplar_partitioning.errors import EPError


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("tree"), k=120, percentiles=(2, 4, 8), annotate=False)


def test_family(levels):
    found = ep.tree(levels)
    assert [d.config.calibration.percentile for d in found.levels] == [8, 4, 2]
    for level, parent in enumerate(found.parent):
        coarse, fine = found.levels[level], found.levels[level + 1]
        cosine = fine.exemplars.numpy() @ coarse.exemplars.numpy().T
        assert (parent == cosine.argmax(axis=1)).all()
        everyone = [found.children(level, region) for region in range(coarse.k)]
        assert sorted(itertools.chain(*everyone)) == list(range(fine.k))
        assert (
            found.identity[level] == np.arange(coarse.k)
        ).all()  # coarser levels hold the first of the same exemplars
    child = found.children(0, 0)[0]
    assert found.ancestors(1, child) == [0] and found.ancestors(0, 3) == [] and found.children(2, 0) == []
    assert found.ancestors(2, found.children(1, child)[0]) == [child, 0]
    rows = found.summary()
    assert rows[0]["same_exemplar"] == 1 and rows[2]["nested"] > rows[2]["nested_chance"]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_paths_are_shortest(k, seed):
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(k, 3)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    cosine = e @ e.T - 9 * np.eye(k)
    edge = np.zeros((k, k), bool)
    for i in range(k):
        edge[i, np.argsort(-cosine[i])[: min(3, k - 1)]] = True
    edge |= edge.T
    reach = np.where(edge, 1.0, np.inf)
    np.fill_diagonal(reach, 0)
    for via in range(k):
        reach = np.minimum(reach, reach[:, [via]] + reach[[via], :])
    start, end = rng.integers(0, k, 2)
    found = path(neighbour_graph(e), int(start), int(end))
    if np.isinf(reach[start, end]):
        assert found == []
    else:
        assert len(found) - 1 == reach[start, end] and (found[0], found[-1]) == (start, end)
        assert all(edge[i, j] for i, j in itertools.pairwise(found))


def test_paths_keep_their_ends_where_exemplars_are_kept(levels):
    found = ep.tree(levels)
    every = paths(found, 0, 2, 7)
    assert len(every) == 3 and all(not steps or (steps[0], steps[-1]) == (2, 7) for steps in every)


def test_what_does_not_fit_is_named(levels, tmp_path):
    other = annotated(tmp_path, k=60, percentiles=(2,), seed=5, annotate=False)
    with pytest.raises(EPError, match="at least two"):
        ep.tree(levels[:1])
    with pytest.raises(EPError, match="different centres"):
        ep.tree([levels[0], other[0]])
    with pytest.raises(EPError, match="region 500 does not exist"):
        ep.tree(levels).children(0, 500)
    with pytest.raises(EPError, match="there are 8, 4, 2"):
        ep.tree(levels).level(3)


def test_command(levels):
    build = levels[0].path.parents[1]
    shown = run("tree", build)
    assert shown.returncode == 0, shown.stderr
    assert "nested" in shown.stdout and "0.7800" in shown.stdout
    family = json.loads(run("tree", build, "--region", "3", "--percentile", "4", "--json").stdout)
    assert [node["percentile"] for node in family["ancestors"]] == [8] and family["region"] == 3
    assert family["children"] and all(node["percentile"] == 2 for node in family["children"])
    text = run("tree", build, "--region", "1")
    assert text.returncode == 0 and "percentile 8 region 1" in text.stdout and "\x1b" not in text.stdout
    way = json.loads(run("tree", build, "--region", "2", "--to", "7", "--json").stdout)
    assert len(way) == 3 and way[0][0]["region"] == 2
    assert "path" in (shown := run("tree", build, "--region", "2", "--to", "7")).stdout or "steps" in shown.stdout
    assert run("tree", build, "--to", "7").returncode == 2
