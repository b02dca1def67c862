"""Search finds what the evidence says, whole words first; interest is what its definition says, region by region."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exemplar_partitioning as ep
from annotated import EMPTY, HOSTILE, VOCABULARY, annotated
from exemplar_partitioning.folder.interest import ENOUGH, ordered, shown
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.folder.text_search import ranked, search


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def dictionary(cache, tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("build"), k=150)[0]


def texts(d, region):
    """Everything that is indexed of a region, one text."""
    row, exemplar = d.annotation.region(region), d.region(region)
    lists = [row["top_tokens"], row["lens_top"], row["mean_lens_top"]]
    parts = ["".join(example["tokens"]) for example in d.annotation.examples(region)]
    tokens = [token["token"] for tokens in lists for token in tokens]
    return "\n".join([exemplar["context"] + exemplar["token"], *tokens, *parts])


def test_a_word_is_found_exactly_where_it_stands(dictionary):
    for word in ("bacor", "denfil", "the", "lumlum"):
        found = ranked(dictionary, word)
        by_word = [region for region, (how, _) in found.items() if how == "word"]
        expected = {i for i in range(dictionary.k) if re.search(rf"\b{word}\b", texts(dictionary, i))}
        assert set(by_word) == expected
        assert list(found)[: len(by_word)] == by_word  # whole words first


def test_what_is_at_the_token_comes_before_what_is_around_it(dictionary):
    found = [hit.region for hit in dictionary.search("bacor", top=150) if hit.how == "word"]

    def names(row):
        return any(token["token"] == " bacor" for token in row["top_tokens"])

    frequent = [at for at, region in enumerate(found) if names(dictionary.annotation.region(region))]
    others = [at for at, region in enumerate(found) if not names(dictionary.annotation.region(region))]
    assert frequent and others and np.mean(frequent) < np.mean(others)


def test_stems_and_parts_come_behind(tmp_path, cache):
    (d,) = annotated(tmp_path, k=60, percentiles=(2,))
    Labels.read(d).set(7, "Politics of the day")
    found = ranked(d, "politics")
    assert next(iter(found)) == 7 and found[7][0] == "label"
    part = ranked(d, "aco")  # inside `bacor`, never a word
    assert part and {how for how, _ in part.values()} == {"part"}
    stem = ranked(d, "bacors")
    assert stem and {how for how, _ in stem.values()} == {"stem"}
    Labels.read(d).set(7, "")
    assert 7 not in ranked(d, "politics")


@settings(max_examples=40, deadline=None)
@given(query=st.text(min_size=1, max_size=12))
def test_no_query_breaks_the_index(dictionary, query):
    if re.search(r"\w", query):
        assert all(0 <= region < dictionary.k for region in ranked(dictionary, query))
    else:
        with pytest.raises(ep.EPError, match="no word"):
            search(dictionary, query)


def test_hostile_text_is_found_as_any_other(dictionary):
    assert set(ranked(dictionary, "hacked")) >= {HOSTILE.index(text) for text in HOSTILE if "hacked" in text}


def test_a_damaged_index_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))
    (d,) = annotated(tmp_path / "build", k=60, percentiles=(2,))
    before = ranked(d, "bacor")
    (index,) = (tmp_path / "cache" / "search").glob("*.sqlite")
    for damage in (b"", index.read_bytes()[:2000], b"no database at all"):
        index.write_bytes(damage)
        assert ranked(d, "bacor") == before


def test_without_annotation_exemplars_are_searched(tmp_path, cache):
    (d,) = annotated(tmp_path, k=60, percentiles=(2,), annotate=False)
    word = d.region(20)["token"].strip()
    assert 20 in ranked(d, word)
    assert {hit.region: hit.text for hit in d.search(word, 60)}[20].endswith(f"\u00ab{d.region(20)['token']}\u00bb")


def test_interest_is_what_it_is_defined_as(dictionary):
    a = dictionary.annotation
    lifts = [
        [(t["token"], np.log(max(1, t["lift"]))) for t in a.region(i)["mean_lens_top"]] for i in range(dictionary.k)
    ]
    some = sum(a.region(i)["members"] > 0 for i in range(dictionary.k))
    average = Counter()
    for lift in lifts:
        for token, log in lift:
            average[token] += log
    for i in range(dictionary.k):
        row, members = a.interest.row(i), a.region(i)["members"]
        if not members:
            assert i == EMPTY or members == 0
            assert np.isnan(row["identity"]) and np.isnan(row["score"])
            continue
        forms = Counter()
        for token in a.region(i)["top_tokens"]:
            forms[token["token"].strip().lower()] += token["count"]
        (first, most), rest = forms.most_common(1)[0], members - sum(forms.values())
        words = sum(n for form, n in forms.items() if re.fullmatch(r"[^\W\d_]{3,}", form) and form != first)
        ties = [form for form, n in forms.items() if n == most]
        assert row["identity"] == pytest.approx(min(1, most / members))
        assert row["documents"] == len({e["document"] for e in a.examples(i)})
        beyond = [log - average[token] / some for token, log in lifts[i]]
        whole = sum(log for _, log in lifts[i])
        if whole:
            assert row["contrast"] == pytest.approx(sum(max(0, b) for b in beyond) / whole)
        kept = sorted((np.exp(b) for b in beyond if b >= np.log(2)), reverse=True)
        assert [t["beyond"] for t in a.interest.beyond(i)] == pytest.approx(kept)
        assert a.interest.promoted[i] == [t["token"] for t in a.interest.beyond(i)]
        if len(ties) == 1 and whole:
            variety = min(1, max(0, (words + 0.25 * rest) / members))
            size = min(1, np.log1p(members) / np.log1p(ENOUGH))
            assert row["score"] == pytest.approx(variety * min(1, row["documents"] / 8) * size * row["contrast"])


def test_order_and_filters(dictionary):
    interest, order = dictionary.annotation.interest, ordered(dictionary)
    assert sorted(order) == list(range(dictionary.k))
    scores = np.nan_to_num(interest.score[order], nan=-1)
    assert (np.diff(scores) <= 0).all()
    members = dictionary.annotation.regions["members"].to_numpy()
    assert shown(dictionary, keep="members>=30") == [i for i in order if members[i] >= 30]
    assert set(shown(dictionary, keep="several,members >= 2")) == {
        i for i in range(dictionary.k) if members[i] >= 2 and interest.identity[i] < 0.9
    }
    for bad in ("members>30", "sevral", "members>=x"):
        with pytest.raises(ep.EPError, match="no filter"):
            shown(dictionary, keep=bad)
    with pytest.raises(ep.EPError, match="sorted by"):
        ordered(dictionary, "beauty")


def test_vocabulary_is_what_these_tests_think():
    assert " bacor" in VOCABULARY and not any(token.strip() == "aco" for token in VOCABULARY)
