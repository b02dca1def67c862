"""Windows: nothing lost, nothing crossed, every token knows its place, the seed alone decides the order."""

import logging
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exemplar_partitioning.demo.corpus import documents_of
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.text.readers import Document
from exemplar_partitioning.text.windowing import Windowing
from exemplar_partitioning.text.windows import Window, pieces, special_mask, windows
from tiny_tokenizer import SENTENCES, SPECIAL, make_tokenizer

TOKENIZER = make_tokenizer()
BOS = TOKENIZER.bos_token_id
SPECIAL_IDS = frozenset(TOKENIZER.all_special_ids)

texts = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        st.lists(st.sampled_from([*SENTENCES, " </s> ", "<pad>", "\0", "\u202e", "\U0001f600"]), max_size=6).map(
            " ".join
        ),
    ),
    max_size=12,
)


def cut(texts: list[str], config: Windowing) -> list[Window]:
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    return list(windows(documents, TOKENIZER, config, bos_id=BOS, special_ids=SPECIAL_IDS))


def key(window: Window) -> tuple[str, int, bytes, int]:
    return window.document, window.start, window.ids.tobytes(), window.prefix


def tokens_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False, verbose=False)["input_ids"]


@settings(max_examples=60, deadline=None)
@given(
    texts=texts,
    context=st.integers(1, 20),
    bos=st.booleans(),
    buffer=st.integers(0, 30),
    seed=st.integers(0, 9),
)
def test_windows_of_a_document_are_its_tokens_in_order(texts, context, bos, buffer, seed):
    config = Windowing(context_size=context, prepend_bos=bos, shuffle_buffer=buffer, seed=seed)
    found = cut(texts, config)
    for i, text in enumerate(texts):
        tokens = np.array(tokens_of(text), np.int32)
        covered = np.zeros(len(tokens), bool)
        mine = sorted((w for w in found if w.document == f"d{i}"), key=lambda w: w.start)
        for before, after in pairwise(mine):
            assert before.start + context <= after.start
        for window in mine:
            assert window.ids.dtype == np.int32
            assert window.prefix == bos
            assert np.all(window.ids[: window.prefix] == BOS)
            own = window.ids[window.prefix :]
            assert window.start % context == 0 and 1 <= len(own) <= context
            np.testing.assert_array_equal(own, tokens[window.start : window.start + len(own)])
            assert len(own) == context or window.start + len(own) == len(tokens)
            np.testing.assert_array_equal(window.positions[window.prefix :], window.start + np.arange(len(own)))
            assert np.all(window.positions[: window.prefix] == -1)
            covered[window.start : window.start + len(own)] = True
        # Only windows of nothing but special tokens are left out.
        assert np.all(special_mask(tokens[~covered], SPECIAL_IDS))


@settings(max_examples=40, deadline=None)
@given(texts=texts, buffer=st.integers(2, 30), seed=st.integers(0, 5))
def test_the_shuffle_is_a_permutation_that_depends_on_the_seed_only(texts, buffer, seed):
    ordered = cut(texts, Windowing(context_size=3, shuffle_buffer=0))
    config = Windowing(context_size=3, shuffle_buffer=buffer, seed=seed)
    shuffled = cut(texts, config)
    assert sorted(map(key, shuffled)) == sorted(map(key, ordered))
    np.random.default_rng().random()
    assert list(map(key, cut(texts, config))) == list(map(key, shuffled))


def test_the_shuffle_mixes_and_its_order_is_fixed_for_all_time():
    words = ["The dog"] * 12
    order = [w.document for w in cut(words, Windowing(shuffle_buffer=5, seed=1))]
    assert order == [f"d{i}" for i in (2, 4, 0, 6, 1, 5, 8, 10, 11, 7, 9, 3)]
    assert order != [w.document for w in cut(words, Windowing(shuffle_buffer=5, seed=2))]
    assert [w.document for w in cut(words, Windowing(shuffle_buffer=1))] == [f"d{i}" for i in range(12)]


@settings(max_examples=25, deadline=None)
@given(texts=texts, characters=st.integers(1, 200), count=st.integers(1, 5))
def test_batching_changes_nothing(texts, characters, count):
    config = Windowing(context_size=5, shuffle_buffer=0)
    expected = list(map(key, cut(texts, config)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exemplar_partitioning.text.windows.BATCH_CHARACTERS", characters)
        patch.setattr("exemplar_partitioning.text.windows.BATCH_TEXTS", count)
        assert list(map(key, cut(texts, config))) == expected


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("ab \n\t\u05d0"), max_size=200), limit=st.integers(1, 50))
def test_pieces_join_to_the_text_and_are_bounded(text, limit):
    cut_up = list(pieces(text, limit))
    assert "".join(cut_up) == text
    assert all(0 < len(piece) <= limit for piece in cut_up) or text == ""


def test_documents_in_pieces_keep_their_tokens_and_positions(monkeypatch):
    text = " ".join(SENTENCES * 30)
    config = Windowing(context_size=7, shuffle_buffer=0)
    expected = cut([text, "The dog", text], config)
    monkeypatch.setattr("exemplar_partitioning.text.windows.PIECE_CHARACTERS", 400)
    assert list(map(key, cut([text, "The dog", text], config))) == list(map(key, expected))


def test_the_same_document_twice_is_two_documents():
    document = Document("d", "The dog")
    found = list(windows([document, document], TOKENIZER, Windowing(), bos_id=BOS, special_ids=SPECIAL_IDS))
    assert len(found) == 2 and found[0].start == found[1].start == 0


@pytest.mark.parametrize("tokenizer", [TOKENIZER, make_tokenizer("</s>", "</s>", "</s>")], ids=["own", "shared"])
def test_special_tokens_are_found_by_id_wherever_they_stand(tokenizer):
    text = "The dog</s> does not</s></s> mind"
    special = frozenset(tokenizer.all_special_ids)
    (window,) = windows(
        [Document("d", text)], tokenizer, Windowing(), bos_id=tokenizer.bos_token_id, special_ids=special
    )
    mask = special_mask(window.ids, special)
    tokens = tokenizer.convert_ids_to_tokens(window.ids.tolist())
    assert mask.tolist() == [token in SPECIAL for token in tokens]
    assert mask.sum() == 4 and mask[0]
    assert special_mask(window.ids.reshape(1, -1), frozenset()).shape == (1, len(window.ids))
    assert not special_mask(window.ids, frozenset()).any()


def test_a_second_bos_is_refused_and_never_made():
    config = Windowing(context_size=4, shuffle_buffer=0)
    with pytest.raises(EPError, match=r"document d1 begins with the BOS token \(id 0\).*--no-bos"):
        cut(["The dog", "<s>The dog"], config)
    (window,) = cut(["<s>The dog"], Windowing(prepend_bos=False))
    assert window.ids[0] == BOS and window.prefix == 0 and window.positions[0] == 0
    # One that falls on the first place of a later window is left the only one there.
    text = "The dog"
    text += " dog" * (4 - len(tokens_of(text)) % 4) + "<s>The fox"
    found = cut([text], config)
    assert sum(tokens_of(text)[start] == BOS for start in range(0, len(tokens_of(text)), 4)) == 1
    assert all(list(w.ids).count(BOS) == 1 for w in found)
    assert sorted(w.prefix for w in found)[0] == 0


def test_windows_without_an_ordinary_token_are_left_out():
    assert cut(["</s><pad>", ""], Windowing()) == []
    kept = cut(["</s><pad></s><pad>dog"], Windowing(context_size=2, shuffle_buffer=0))
    assert kept[0].start == 4 and not any(SPECIAL_IDS & set(w.ids[w.prefix :].tolist()) for w in kept)


def test_a_chat_template_has_its_own_bos():
    assert not Windowing(chat=True).prepend_bos and Windowing().prepend_bos


def test_long_texts_give_no_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="transformers"):
        logging.getLogger("transformers").propagate = True
        assert cut(["The dog " * 2000], Windowing())
    assert not caplog.records


@pytest.mark.parametrize(
    "settings",
    [
        {"context_size": 0},
        {"shuffle_buffer": -1},
        {"seed": -1},
        {"positions": "middle"},
        {"positions": "every:0"},
        {"min_tokens": 1},
    ],
)
def test_settings_that_make_no_windows_are_refused(settings):
    with pytest.raises(EPError, match="|".join(settings)):
        Windowing(**settings)


@pytest.mark.packaged
def test_windows_of_the_packaged_text():
    found = []
    for window in windows(
        documents_of(None), TOKENIZER, Windowing(shuffle_buffer=500), bos_id=BOS, special_ids=SPECIAL_IDS
    ):
        found.append(window)
        if len(found) == 300:
            break
    assert all(1 < len(w.ids) <= 129 and w.ids[0] == BOS for w in found)
    assert len({w.document.split(":")[0] for w in found}) > 20


@settings(max_examples=60, deadline=None)
@given(texts, st.integers(1, 20), st.sampled_from(["first", "last", "every:1", "every:3"]), st.booleans())
def test_positions_that_count(texts, context, positions, bos):
    """Those of the windows of all positions, chosen one by one; windows left with none are left out."""
    config = Windowing(context_size=context, prepend_bos=bos, shuffle_buffer=0)
    expected = []
    for window in cut(texts, config):
        there = [i for i in range(window.prefix, len(window.ids)) if window.ids[i] not in SPECIAL_IDS]
        if positions.startswith("every"):
            there = [i for i in there if window.positions[i] % int(positions[6:]) == 0]
        else:
            there = there[:1] if positions == "first" else there[-1:]
        if there:
            expected.append((*key(window), there))
    found = cut(texts, config.model_copy(update={"positions": positions}))
    assert [(*key(window), np.flatnonzero(window.counts).tolist()) for window in found] == expected
