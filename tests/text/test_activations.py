"""Activations of labelled texts: those of each text read alone, the same from the cache, damage told."""

import shutil

import numpy as np
import pytest
import torch

import exemplar_partitioning as ep
from conftest import sentences
from ep_experiments.activations import text_activations
from exemplar_partitioning.errors import DataError, EPError

SITES = ["resid_post.0", "resid_post.2"]


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return ep.load_model(tiny_folder)


def by_hand(loaded, text, layer, context_size):
    """Ids and activations of one text, from the model's own hidden states, without batches or hooks."""
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"][:context_size]
    with torch.inference_mode():
        hidden = loaded.model(torch.tensor([[loaded.tokenizer.bos_token_id, *ids]]), output_hidden_states=True)
    kept = [i for i, token in enumerate(ids) if token not in loaded.tokenizer.all_special_ids]
    return np.array(ids)[kept], hidden.hidden_states[layer + 1][0, 1:][kept].numpy()


def test_rows_are_the_tokens_of_each_text_alone(loaded, tmp_path):
    texts = [*sentences(40, seed=3), "", "the</s> fox", "a"]
    found = text_activations(loaded, SITES, texts, cache=tmp_path, context_size=12)
    assert set(found) == set(SITES)
    acts = found["resid_post.0"]
    assert len(acts) == len(texts) and acts.start_t[-1] == len(acts.x_nd)
    assert acts.start_t[41] == acts.start_t[40]  # the empty text has no rows
    assert np.array_equal(acts.text_n, np.repeat(np.arange(len(texts)), np.diff(acts.start_t)))
    for i, text in enumerate(texts):
        if not text:
            continue
        rows = slice(acts.start_t[i], acts.start_t[i + 1])
        ids, x_nd = by_hand(loaded, text, 0, 12)
        assert np.array_equal(acts.token_n[rows], ids)
        assert np.abs(acts.x_nd[rows] - x_nd).max() < 1e-5
    assert loaded.tokenizer.eos_token_id not in acts.token_n


def test_last_rows_are_the_last_of_all_rows(loaded):
    texts = [*sentences(10, seed=4), "", "the</s>"]
    whole = text_activations(loaded, SITES, texts, cache=None)["resid_post.2"]
    last = text_activations(loaded, SITES, texts, cache=None, positions="last")["resid_post.2"]
    some = np.diff(whole.start_t) > 0
    assert np.array_equal(last.x_nd, whole.x_nd[whole.start_t[1:][some] - 1])
    assert np.array_equal(np.diff(last.start_t), some.astype(int))


def test_the_cache_gives_what_the_model_gave(loaded, tmp_path):
    texts = sentences(30, seed=5)
    told = []

    def tell(*progress):
        told.append(progress)

    plain = text_activations(loaded, SITES, texts, cache=None)
    first = text_activations(loaded, SITES[:1], texts, cache=tmp_path, report=tell)
    assert told and isinstance(first["resid_post.0"].x_nd, np.memmap)
    text_activations(loaded, SITES, texts, cache=tmp_path, report=tell)  # the other site joins it
    read = len(told)
    again = text_activations(loaded, SITES, texts, cache=tmp_path, report=tell)
    assert len(told) == read  # the model was not asked again
    for site in SITES:
        assert np.array_equal(again[site].x_nd, plain[site].x_nd)
    text_activations(loaded, SITES, texts[:-1], cache=tmp_path, report=tell)
    text_activations(loaded, SITES, texts, cache=tmp_path, context_size=5, report=tell)
    assert len(told) == read + 2  # other texts, another context: other entries
    bfloat = text_activations(ep.load_model(loaded.model.name_or_path, dtype="bfloat16"), SITES, texts, cache=tmp_path)
    assert bfloat["resid_post.2"].x_nd.dtype == np.float32
    assert not np.array_equal(bfloat["resid_post.2"].x_nd, plain["resid_post.2"].x_nd)


def test_an_interrupted_pass_leaves_no_entry(loaded, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        text_activations(loaded, SITES, sentences(5, seed=6), cache=tmp_path, report=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(loaded, tmp_path):
    texts = sentences(5, seed=6)
    with pytest.raises(EPError, match="at least one text"):
        text_activations(loaded, SITES, [], cache=None)
    with pytest.raises(EPError, match="context_size is 0"):
        text_activations(loaded, SITES, texts, cache=None, context_size=0)
    with pytest.raises(EPError, match="resid_post"):
        text_activations(loaded, ["resid_post.9"], texts, cache=None)
    text_activations(loaded, SITES, texts, cache=tmp_path)
    (folder,) = tmp_path.glob("resid_post.0-*")
    (folder / "x.npy").write_bytes(b"not an array")
    with pytest.raises(DataError, match="remove that folder"):
        text_activations(loaded, SITES, texts, cache=tmp_path)
    shutil.rmtree(folder)
    assert len(text_activations(loaded, SITES, texts, cache=tmp_path)["resid_post.0"]) == 5
