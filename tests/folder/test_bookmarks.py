"""Lists of regions in a dictionary's folder: kept in order, by name, for this dictionary alone."""

import json

import pytest

from annotated import annotated
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.folder import bookmarks


@pytest.fixture
def d(tmp_path):
    return annotated(tmp_path / "build", k=30, percentiles=(2,), annotate=False)[0]


def test_regions_are_put_in_and_taken_out(d):
    before = d.content_id
    for region in (7, 3, 7):
        bookmarks.put(d, " to\nread ", region)
    assert bookmarks.put(d, "politics", 1) == {"politics": [1], "to read": [3, 7]} == bookmarks.read(d)
    assert bookmarks.put(d, "politics", 1, kept=False) == {"to read": [3, 7]}
    assert bookmarks.put(d, "nothing", 1, kept=False) == {"to read": [3, 7]} and d.content_id == before


@pytest.mark.parametrize("name, region, said", [("", 1, "1 to 60"), ("x" * 61, 1, "has 61"), ("a", 30, "0 to 29")])
def test_what_cannot_be_kept(d, name, region, said):
    with pytest.raises(EPError, match=said):
        bookmarks.put(d, name, region)
    assert bookmarks.read(d) == {}


@pytest.mark.parametrize(
    "change", [{"dictionary": "0" * 64}, {"lists": {"a": [30]}}, {"lists": {"a": ["x"]}}, {"more": 1}]
)
def test_a_file_that_does_not_fit_is_refused_and_kept(d, change):
    bookmarks.put(d, "a", 1)
    path = d.path / bookmarks.FILE
    value = json.loads(path.read_text()) | change
    del value["sha256"]
    path.write_text(json.dumps(value))
    for attempt in (lambda: bookmarks.read(d), lambda: bookmarks.put(d, "a", 2)):
        with pytest.raises(DataError, match=r"bookmarks\.json"):
            attempt()
    assert json.loads(path.read_text()) == value
