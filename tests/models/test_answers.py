"""Answers that a model gives while it is built on: kept, the same when they are read again, whole after a kill."""

import pytest

import exemplar_partitioning as ep
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.models.answers import answered, answers
from exemplar_partitioning.text.documents import read_documents
from text.test_chat import PLAIN
from tiny_tokenizer import SENTENCES

PROMPTS = [f"{SENTENCES[i % len(SENTENCES)]} {i}" for i in range(37)]
TALK = {"messages": [{"role": "user", "content": "dog"}, {"role": "assistant", "content": "old answer"}]}


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    loaded = ep.load_model(str(tiny_folder))
    loaded.tokenizer.chat_template = PLAIN
    return loaded


def given(loaded, file, keep=True):
    return list(answered(read_documents([*PROMPTS, TALK]), loaded, 5, file=file, keep=keep))


def test_documents_end_with_what_the_model_says(loaded, tmp_path):
    documents = given(loaded, tmp_path / "a.jsonl")
    assert [document.id for document in documents] == [str(i) for i in range(38)]
    wrote = ep.generate(loaded, PROMPTS[:16], max_new_tokens=5, chat=True, batch_size=16)
    assert [document.turns[-1]["content"] for document in documents[:16]] == [each.text for each in wrote]
    assert [turn["content"] for turn in documents[-1].turns[:-1]] == ["dog"]
    assert list(answers(tmp_path / "a.jsonl")) == documents


@pytest.mark.parametrize("cut", [1, 100, 5_000, 10**6])
def test_a_file_that_was_cut_off_ends_in_the_same_bytes(loaded, tmp_path, cut):
    file = tmp_path / "a.jsonl"
    given(loaded, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: max(0, len(whole) - cut)])
    given(loaded, file)
    assert file.read_bytes() == whole


def test_builds_keep_answers_and_annotate_on_them(loaded, tmp_path):
    out = tmp_path / "out"
    options = {"sites": "resid_post.1", "percentiles": (20,), "chat": True, "roles": ("assistant",), "generate": 4}
    ep.build(loaded, PROMPTS, out=out, context_size=64, **options)
    d = ep.load(out)
    assert d.config.text.generate == 4 and len((out / "answers.jsonl").read_text().splitlines()) == 37
    (annotated,) = ep.annotate(out, model=loaded)
    assert annotated.annotation.record.n_activations == d.config.build.n_activations
    assert annotated.annotation.record.text.digest == d.config.text.digest
    (out / "answers.jsonl").write_text("{}\n[")
    with pytest.raises(DataError, match=r"answers\.jsonl is damaged"):
        ep.annotate(out, model=loaded, replace=True)


def test_what_cannot_be_answered_is_told(loaded):
    skipped = []
    long = "dog " * (loaded.architecture.max_length or 1000)
    list(answered(read_documents([long]), loaded, 5, on_skip=lambda id, why: skipped.append(why)))
    assert skipped == ["leaves no room for an answer"]
    with pytest.raises(EPError, match="answers are generated in a chat template"):
        ep.build(loaded, PROMPTS, out="never", generate=4)
