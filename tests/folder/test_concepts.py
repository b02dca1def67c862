"""Labels by contrast, and the score of any label: the rule on a page, beside chance, without what was held out."""

import math
from collections import Counter

import numpy as np
import pytest

import exemplar_partitioning as ep
from annotated import EMPTY, annotated
from exemplar_partitioning.folder import concepts, contrast
from exemplar_partitioning.folder.concepts import held_out, words_of
from exemplar_partitioning.folder.contrast import Evidence, Passage


@pytest.fixture(scope="module")
def demo():
    return ep.load("demo", percentile=4)


def label(here, others):
    text = contrast.label(here, others)
    assert text is not None
    return text


def evidence(texts):
    """Of a region whose members are the words in capitals."""
    passages = []
    for text in texts:
        words = text.split()
        at = next(i for i, word in enumerate(words) if word.isupper())
        tokens = [words[0].lower(), *(f" {word.lower()}" for word in words[1:])]
        passages.append(Passage.of(tokens, at))
    forms = Counter(passage.own for passage in passages)
    return Evidence(len(passages), forms, Counter(), passages)


def test_a_phrase_that_members_share_and_neighbours_do_not_is_the_label():
    here = evidence([f"{start} the united STATES of america {end}" for start, end in zip("abcd", "efgh", strict=True)])
    there = evidence([f"{start} many STATES were {end}" for start, end in zip("abcd", "efgh", strict=True)])
    assert "united states" in label(here, [there, there])
    assert "united" not in label(there, [here, here])


def test_what_is_near_members_is_told_where_it_differs():
    here = evidence([f"the whale and the {word} SHIP" for word in ("old", "white", "dead", "great")])
    there = evidence([f"a {word} SHIP came in" for word in ("new", "grey", "fast", "small")])
    assert "whale" in label(here, [there]) and "whale" not in label(here, [here])


def test_kinds_of_words_are_named():
    here = evidence(["he RUNNING on", "they SINGING so", "all WALKING up", "we TALKING now"])
    there = evidence(["he RAN on", "they SANG so", "all WALKED up", "we SPOKE now"])
    assert label(here, [there]).startswith("words in \u201c-ing\u201d, such as")
    assert not label(here, [here]).startswith("words in")


def test_words_of_a_label():
    assert words_of("names of presidents") == {"name", "presid"}
    assert words_of("\u201cthe\u201d after \u201cof\u201d near war") == {"the", "of", "war"}
    assert words_of("of the and") == set()


def test_the_score_is_that_of_the_rule(demo):
    """Against the rule written out: share of pairs in which the region's own held-out member has more of the label."""
    kept, annotation = demo.annotation.concepts, demo.annotation
    region, text = 38, "\u201ctonight\u201d / \u201cyear\u201d"
    rows = [annotation.examples(i) for i in range(demo.k)]
    every = [Passage.of(r["tokens"], r["at"]) for i in range(demo.k) for r in _held(rows[i])]
    common = Counter(stem for passage in every for stem in _places(passage))

    def weight(row):
        places = _places(Passage.of(row["tokens"], row["at"]))
        rarity = {word: -math.log(max(0.005, common[word] / len(every))) for word in words_of(text)}
        return sum(rarity[word] * places.get(word, 0) for word in words_of(text))

    own = [weight(row) for row in _held(rows[region])]
    others = kept._table["others"][region].as_py()
    beside = [weight(row) for other in others for row in _held(rows[other])]
    wins = [1.0 if a > b + 1e-12 else 0.5 if abs(a - b) <= 1e-12 else 0.0 for a in own for b in beside]
    assert kept.score(region, text) == pytest.approx(sum(wins) / len(wins))


def _held(rows):
    left_out = held_out(rows)
    return [row for row in rows if row["kind"] == "random" and row["document"] in left_out]


def _places(passage):
    """Quarters by the first six letters of each word: the member's own four, of the four on each side two, else one."""
    places = {}
    for i, word in enumerate(passage.words):
        stem = word.casefold().removesuffix("s")[:6] or word.casefold()
        places[stem] = max(places.get(stem, 0), 4 if i == passage.at else 2 if abs(i - passage.at) <= 4 else 1)
    token = passage.token.strip(" ").casefold() or "\u2423"
    places[token.removesuffix("s")[:6] or token] = 4
    return places


def test_labels_tell_members_from_others_and_exchanged_ones_do_not(demo):
    kept = demo.annotation.concepts
    scores = [score for score in kept.scores if score is not None]
    assert len(scores) > 200 and np.mean(scores) > 0.75
    assert kept.chance == pytest.approx(0.5, abs=0.02) and np.mean(np.array(scores) > kept.bound) > 0.6
    assert kept.score(38, "of the") is None


def test_no_label_is_made_from_what_is_held_out(demo):
    """The same labels, whatever the held-out examples say: their contexts may as well be others'."""
    evidence, held = concepts._evidence(demo.annotation)
    for region in range(0, demo.k, 40):
        rows = demo.annotation.examples(region)
        shown = [Passage.of(row["tokens"], row["at"]) for row in rows if row["document"] not in held_out(rows)]
        assert all(passage in shown for passage in evidence[region].passages)
        assert len(held[region]) == sum(row["kind"] == "random" and row["document"] in held_out(rows) for row in rows)


def test_what_is_kept_is_read_and_half_a_file_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))
    d = annotated(tmp_path / "build", k=60, percentiles=(2,))[0]
    first = concepts.Concepts(d.annotation)
    path = next(file for file in (tmp_path / "cache" / "labels").iterdir() if file.suffix != ".sha256")
    whole = path.read_bytes()
    monkeypatch.setattr(concepts, "_make", lambda annotation: pytest.fail("made twice"))
    assert concepts.Concepts(d.annotation).labels == first.labels and first.labels[EMPTY] is None
    monkeypatch.undo()
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))
    path.write_bytes(whole[: len(whole) // 2])
    assert concepts.Concepts(d.annotation).labels == first.labels and path.read_bytes() == whole
