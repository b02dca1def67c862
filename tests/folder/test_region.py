"""A region as an object, and all of them as a table, say what the files hold; nothing of the text is markup."""

import html.parser

import pytest

import exemplar_partitioning as ep
from annotated import EMPTY, HOSTILE, annotated
from exemplar_partitioning.folder.interest import ordered
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.folder.region import table


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("build"), k=120)[0]


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)


def test_a_region_is_what_the_files_say(dictionary):
    region = dictionary[33]
    assert region.index == 33 and region.exemplar == dictionary.region(33)
    assert region.evidence.items() >= dictionary.annotation.region(33).items()
    assert region.members == region.evidence["members"] and f"{region.members:,} members" in repr(region)
    assert region.label == Labels.read(dictionary).best(33)
    assert (region.direction == dictionary.exemplars[33].numpy()).all()
    cosines = [cosine for _, cosine in region.neighbours()]
    assert cosines == sorted(cosines, reverse=True) and 33 not in [other.index for other, _ in region.neighbours()]
    assert [r.index for r in dictionary] == list(range(dictionary.k))
    with pytest.raises(ep.EPError, match="does not exist"):
        dictionary[dictionary.k]


def test_a_notebook_shows_every_region_and_runs_none(dictionary):
    for region in [*range(len(HOSTILE)), EMPTY, 40]:
        page = dictionary[region]._repr_html_()
        tags = Tags()
        tags.feed(page)
        assert tags.seen <= {"div", "b", "bdi", "mark", "span", "ul", "li", "code"}
        assert "<script" not in page and "\u202e" not in page


def test_without_annotation_there_is_the_exemplar(tmp_path):
    (d,) = annotated(tmp_path, k=60, percentiles=(2,), annotate=False)
    assert d[3].evidence is None and d[3].members is None and "members" not in repr(d[3])
    assert "nearest regions" in d[3]._repr_html_()
    assert table(d).column_names[-1] == "online_count"


def test_the_table_has_every_region_the_most_interesting_first(dictionary):
    rows = table(dictionary).to_pylist()
    assert [row["region"] for row in rows] == ordered(dictionary).tolist()
    labels = Labels.read(dictionary).every()
    for row in rows:
        assert row["label"] == labels[row["region"]].text
        assert row["members"] == dictionary.annotation.region(row["region"])["members"]


def test_reprs_are_short(dictionary):
    tree = ep.tree([dictionary, dictionary])
    for thing in (dictionary, dictionary.annotation, tree, ep.match(dictionary, dictionary), dictionary[3]):
        assert len(repr(thing)) < 600


def test_kinds_and_percentiles_that_are_none_are_named(dictionary):
    with pytest.raises(ep.EPError, match="expected nearest, farthest or random"):
        dictionary.annotation.examples(3, "nearst")
    build = dictionary.path.parents[1]
    assert ep.load(build, percentile="2").path == dictionary.path
    with pytest.raises(ep.EPError, match="expected a number"):
        ep.load(build, percentile="fine")
