"""What notebooks show: figures of a dictionary, and objects in a few words and as HTML."""

import re

import pytest
from IPython.core.formatters import DisplayFormatter

import exemplar_partitioning as ep
from annotated import annotated


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("plots"), percentiles=(2, 8))


@pytest.mark.parametrize("name", ["sizes", "growth", "distances", "sphere", "map"])
def test_figures_are_drawn(pair, name, tmp_path):
    figure = getattr(pair[0].plot, name)()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000 and figure.axes
    shown, _ = DisplayFormatter().format(figure)
    assert shown["image/svg+xml"].lstrip().startswith("<?xml")


def test_the_map_shows_every_region(pair):
    for d in pair:
        assert len(d.plot.map().axes[0].collections[0].get_offsets()) == d.k


def test_without_annotation_the_map_is_grey(tmp_path):
    bare = annotated(tmp_path, k=30, percentiles=(2,), annotate=False)[0]
    assert len(bare.plot.map().axes) == 1 and len(bare.plot.sizes().axes) == 1


def test_objects_are_short_and_shown_as_html(pair):
    """Escaped, closed, and with the numbers of their text."""
    fine, coarse = pair
    objects = [ep.match(coarse, fine), ep.tree([coarse, fine]), fine.annotation, fine[7], ep.drift(fine, fine)]
    for each in objects:
        page = each._repr_html_()
        assert len(repr(each)) < 200 and "\n" not in repr(each)
        assert "<script" not in page and "<img" not in page
        for tag in ("table", "tr", "td", "b", "bdi"):
            assert len(re.findall(f"<{tag}[ >]", page)) == page.count(f"</{tag}>"), (each, tag)
    assert f"{coarse.k:,} regions, theta {coarse.threshold:.3f}" in objects[1]._repr_html_()
