"""Fields that mark tokens, in every form: spans, and 0 and 1 a token, character, word or turn."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exemplar_partitioning.errors import EPError
from exemplar_partitioning.text.documents import read_documents
from exemplar_partitioning.text.marks import marked
from exemplar_partitioning.text.windowing import Windowing
from exemplar_partitioning.text.windows import windows
from text.test_chat import GENERATION, PLAIN, tokenizer_of
from tiny_tokenizer import SENTENCES, make_tokenizer

TOKENIZER = make_tokenizer()


def offsets_of(text):
    return TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]


def counting(rows, field="mark", tokenizer=TOKENIZER, **options):
    """The tokens that count of each document, as texts."""
    windowing = Windowing(positions=f"mask:{field}", prepend_bos=False, shuffle_buffer=0, **options)
    documents = read_documents(rows, mask=windowing.mask)
    special = frozenset(tokenizer.all_special_ids)
    cut = windows(documents, tokenizer, windowing, bos_id=-1, special_ids=special)
    return [tokenizer.convert_ids_to_tokens(window.ids[window.counts]) for window in cut]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=4).map(" ".join), st.data())
def test_every_form_marks_the_tokens_of_its_characters(text, data):
    offsets = offsets_of(text)
    a = data.draw(st.integers(0, len(text)))
    b = data.draw(st.integers(a, len(text)))
    characters = [int(a <= i < b) for i in range(len(text))]
    expected = [any(characters[start:stop]) for start, stop in offsets]
    assume(len(text) != len(offsets))
    forms = [[[a, b]], [{"start": a, "end": b}], json.dumps([[a, b]]), characters, "".join(map(str, characters))]
    for form in [*forms, [int(mark) for mark in expected], [bool(mark) for mark in expected]]:
        assert marked(form, text, offsets, "here").tolist() == expected
    words, at = [], 0
    for word in text.split():
        words.append((text.index(word, at), text.index(word, at) + len(word)))
        at = words[-1][1]
    assume(len(words) not in (len(text), len(offsets)))
    flags = data.draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words)))
    by_word = [any(flag and s < b and t > a for flag, (a, b) in zip(flags, words, strict=True)) for s, t in offsets]
    assert marked([int(flag) for flag in flags], text, offsets, "here").tolist() == by_word


def test_turns_of_a_conversation_are_marked_in_the_row_or_themselves():
    turns = [{"role": "user", "content": SENTENCES[0]}, {"role": "assistant", "content": SENTENCES[1]},
             {"role": "user", "content": SENTENCES[0]}, {"role": "assistant", "content": SENTENCES[2]}]  # fmt: skip
    flagged = [turn | {"mark": number == 3} for number, turn in enumerate(turns)]
    for template in (PLAIN, GENERATION):
        tokenizer = tokenizer_of(template)
        in_row = counting([{"messages": turns, "mark": [0, 0, 0, 1]}], tokenizer=tokenizer, chat=True)
        assert in_row == counting([{"messages": flagged}], tokenizer=tokenizer, chat=True) and len(in_row[0])
        assert "".join(in_row[0]) == "".join(tokenizer.tokenize(SENTENCES[2].strip()))
        span = [turn | {"mark": [[0, 3]] if number == 1 else []} for number, turn in enumerate(turns)]
        assert len(counting([{"messages": span}], tokenizer=tokenizer, chat=True)[0]) < len(in_row[0])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "The dog.", "mark": [0, 1, 1, 0]}, "4 marks for"),
        ({"text": "The dog.", "mark": [[2, 99]]}, r"no span \[start, stop\] of a text of 8"),
        ({"text": "The dog.", "mark": [[3, 1]]}, "no span"),
        ({"text": "The dog.", "mark": {"a": 1}}, "is dict, expected spans"),
        ({"text": "The dog.", "mark": "yes"}, "is no list"),
        ({"text": "The dog.", "other": 1}, "no 'mark' among its fields"),
        ({"text": "The dog.", "mark": []}, "marks no token of any document"),
        ({"text": "The dog.", "mark": None}, "marks no token of any document"),
    ],
)
def test_marks_that_fit_nothing_are_named(row, said):
    with pytest.raises(EPError, match=said):
        counting([row])


def test_a_conversation_without_the_field_is_named():
    with pytest.raises(EPError, match="neither the row nor any of its turns"):
        counting([{"prompt": "a", "response": "b"}], tokenizer=tokenizer_of(PLAIN), chat=True)


def test_columns_of_tables_carry_the_field(tmp_path):
    (tmp_path / "a.csv").write_text('text,mark\nThe dog.,"[[4, 7]]"\n')
    (document,) = read_documents(tmp_path / "a.csv", mask="mark")
    assert document.mask == "[[4, 7]]"
