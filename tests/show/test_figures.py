"""Figures draw what the dictionary says, the same bytes every time, and leave matplotlib as it was."""

import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from annotated import HOSTILE, annotated
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.show import figures


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("figures"), k=120, percentiles=(2, 4, 8))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("bare"), k=60, percentiles=(2,), annotate=False)


def names(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_sizes_are_members_by_rank(build):
    axes = figures.sizes(build).axes[0]
    assert axes.get_ylabel() == "members"
    for d, line in zip(build, axes.lines, strict=True):
        members = np.sort(d.annotation.regions["members"].to_numpy())[::-1]
        assert line.get_ydata().tolist() == members[members > 0].tolist()
        assert f"{d.threshold:.3f}" in line.get_label()


def test_sizes_are_online_counts_unless_all_are_annotated(build, bare):
    axes = figures.sizes([*build, *bare]).axes[0]
    assert axes.get_ylabel() == "online counts"
    assert axes.lines[-1].get_ydata().sum() == bare[0].regions["arrivals"].to_numpy().sum()


def test_saturation_follows_the_stream(build):
    lines = figures.saturation(build).axes[0].lines
    assert lines[0].get_xydata().tolist() == [list(step) for step in build[0].config.build.growth]
    assert [line.get_marker() for line in lines].count("s") == 3  # all are saturated


def test_distances_are_shares_with_the_threshold_marked(build):
    members, between = figures.distances(build[0]).axes
    for axes in (members, between):
        shares, edges, _ = axes.patches[0].get_data()
        assert shares.sum() == pytest.approx(1) and len(edges) == len(shares) + 1
        assert axes.lines[0].get_xdata()[0] == build[0].threshold
    histogram = build[0].annotation.histogram.sum(axis=0)
    assert np.allclose(members.patches[0].get_data()[0], histogram / histogram.sum())
    shares, edges, _ = between.patches[0].get_data()
    e = build[0].exemplars.numpy()
    nearest = (1 - e @ e.T + 9 * np.eye(len(e))).min(axis=1)
    assert shares @ (edges[:-1] + edges[1:]) / 2 == pytest.approx(nearest.mean(), abs=0.01)
    assert shares[edges[1:] < build[0].threshold + 1e-9].sum() == pytest.approx((nearest < build[0].threshold).mean())


def test_distances_need_members(bare):
    with pytest.raises(EPError, match="ep annotate"):
        figures.distances(bare[0])


def test_the_sphere_names_the_biggest(build):
    d = build[0]
    figure = figures.sphere(d)
    members = d.annotation.regions["members"].to_numpy()
    circles = figure.axes[0].collections[0]
    assert len(circles.get_offsets()) == d.k
    assert circles.get_sizes().max() == circles.get_sizes()[0]  # the small ones are drawn later, on top
    token = d.annotation.region(int(members.argmax()))["top_tokens"][0]["token"].strip()
    assert any(token in name for name in names(figure))
    assert 15 <= len(names(figure)) <= 25


def test_names_do_not_lie_on_each_other(build):
    figure = figures.sphere(build[0])
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize(
    "text", [*filter(str.strip, HOSTILE), "$\\frac{1}{", "\u4e2d\u6587", "\U0001f469\u200d\U0001f52c"]
)
def test_hostile_labels_are_drawn_as_they_are(tmp_path, text):
    d = annotated(tmp_path, k=30, percentiles=(2,))[0]
    biggest = int(d.annotation.regions["members"].to_numpy().argmax())
    Labels.read(d).set(biggest, text[:199] + "!")
    figure = figures.sphere(d)
    (name,) = [name for name in names(figure) if name.endswith(("!", "\u2026")) and "\u201c" not in name[:1]]
    assert len(name) <= 22 and name.isprintable()
    assert b"<svg" in figures.to_bytes(figure, "svg")  # warnings about glyphs would be errors


def test_no_more_than_one_region_is_fine(tmp_path):
    d = annotated(tmp_path, k=6, percentiles=(2,))[0]
    for figure in (figures.sizes([d]), figures.saturation([d]), figures.distances(d), figures.sphere(d)):
        assert figures.to_bytes(figure, "png")[:4] == b"\x89PNG"


@pytest.mark.parametrize("kind", figures.FORMATS)
def test_the_same_bytes_whatever_matplotlib_is_set_to(build, kind):
    def drawn():
        return [figures.to_bytes(figure, kind) for figure in (figures.sizes(build), figures.sphere(build[0]))]

    first = drawn()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": None}):
        before = dict(matplotlib.rcParams)
        assert drawn() == first
        assert dict(matplotlib.rcParams) == before


def test_figures_have_the_width_asked_for(build, tmp_path):
    for width in (figures.SINGLE, figures.DOUBLE):
        for figure in (figures.sizes(build, width), figures.sphere(build[0], width)):
            (tmp_path / "figure.png").write_bytes(figures.to_bytes(figure, "png"))
            assert imread(tmp_path / "figure.png").shape[1] == pytest.approx(300 * width, abs=1)


def test_errors_say_what_to_do(build, monkeypatch):
    with pytest.raises(EPError, match="svg, png, pdf"):
        figures.to_bytes(figures.sizes(build), "gif")
    with pytest.raises(EPError, match="at least one"):
        figures.sizes([])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EPError, match=re.escape("pip install 'exemplar-partitioning[figures]'")):
        figures.sizes(build)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "exemplar_partitioning", "figures", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_writes_all_of_them(build, tmp_path):
    root = build[0].path.parents[1]
    done = command(root, "--out", tmp_path / "new" / "figures", "--format", "pdf")
    assert done.returncode == 0, done.stderr
    each = {f"{name}-resid_post.1-p{p}.pdf" for name in ("sphere", "distances") for p in (2, 4, 8)}
    assert {path.name for path in (tmp_path / "new" / "figures").iterdir()} == each | {"sizes.pdf", "saturation.pdf"}
    assert done.stdout.split() == [str(path) for path in map(type(tmp_path), done.stdout.split()) if path.is_file()]


def test_the_command_without_annotation_says_what_is_missing(bare, tmp_path):
    done = command(bare[0].path, "--out", tmp_path / "figures")
    assert done.returncode == 0 and "ep annotate" in done.stderr
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "sizes.svg", "saturation.svg", "sphere-resid_post.1-p2.svg",
    }  # fmt: skip


def test_the_command_refuses_a_percentile_that_is_not_there(build, tmp_path):
    done = command(build[0].path.parents[1], "--percentile", "3", "--out", tmp_path / "figures")
    assert done.returncode == 2 and "resid_post.1/p4" in done.stderr
    assert not (tmp_path / "figures").exists()
