"""The verdict on steered text: what it counts, and that the search for the strongest alpha finds where text breaks."""

import math
from contextlib import contextmanager
from inspect import signature
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import exemplar_partitioning as ep
from exemplar_partitioning.act import fluency as judging
from exemplar_partitioning.act.fluency import ALPHA, GRID, Fluency, fluency, random_direction, strongest
from exemplar_partitioning.cli.steer import steer as command
from exemplar_partitioning.exchange.vectors import save_vector


@pytest.fixture(scope="module")
def built(acting):
    loaded, out = acting
    return loaded, ep.load(out, site="resid_post.1", percentile=10)


def test_perplexity_is_what_the_model_says_word_by_word(built):
    loaded, _ = built
    prompt, ids = [1, 5, 9, 12], [3, 3, 7, 20, 11]
    nll = 0.0
    for i, token in enumerate(ids):
        with torch.inference_mode():
            logits_v = loaded.model(torch.tensor([prompt + ids[:i]])).logits[0, -1]
        nll -= float(logits_v.log_softmax(0)[token])
    measured = fluency(loaded, [(prompt, ids), (prompt, [])])
    assert measured.perplexity == pytest.approx(math.exp(nll / len(ids)), rel=1e-4)
    assert math.isnan(fluency(loaded, [(prompt, [])]).perplexity)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=30))
def test_repetition_counts_triples_seen_before(ids):
    triples = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    again = sum(triple in triples[:i] for i, triple in enumerate(triples))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "_nll", lambda *_: len(ids) * math.log(4))
        measured = fluency(SimpleNamespace(require_head=lambda _: None), [([0], ids)])
    assert measured.repetition == pytest.approx(again / len(triples))
    assert measured.perplexity == pytest.approx(4)


def test_verdicts():
    before = Fluency(3, 0.0)
    assert Fluency(8, 0.1).verdict(before) == "reads"
    assert Fluency(2, 0.5).verdict(before) == "loops"
    assert Fluency(10, 0.0).verdict(before) == "breaks"
    assert Fluency(math.nan, 0.0).verdict(before) == "breaks"
    assert Fluency(10, 0.0).verdict(before, Fluency(12, 0)) == "breaks, as a random step of this length does"
    assert Fluency(10, 0.0).verdict(before, Fluency(4, 0)) == "breaks"


@pytest.mark.parametrize("limit", [0.01, 0.1, 0.22, 0.5, 9])
def test_the_strongest_alpha_is_the_last_that_reads(built, limit, monkeypatch):
    """With a model that breaks exactly beyond a limit."""
    loaded, open_at = built[0], [0.0]

    @contextmanager
    def acting(alpha):
        open_at[0] = alpha
        yield
        open_at[0] = 0.0

    seen = []
    written = judging.generate

    def generate(*args, **kwargs):
        seen.append(open_at[0])
        return written(*args, **kwargs)

    monkeypatch.setattr(judging, "generate", generate)
    monkeypatch.setattr(judging, "fluency", lambda *_: Fluency(3.0 if seen[-1] <= limit else 30.0, 0.0))
    expected = max((alpha for alpha in GRID if alpha <= limit), default=GRID[0])
    assert strongest(loaded, acting, ["a king sees"]) == expected
    assert len(seen) == 4


def test_alpha_auto_steers_by_what_the_search_finds(built):
    loaded, d = built
    ids = torch.tensor([[d.config.text.bos_id, 5, 9]])

    def logits(alpha):
        with torch.inference_mode(), ep.steer(loaded, d, 1, alpha=alpha):
            return loaded.model(ids).logits

    assert any(torch.equal(logits("auto"), logits(alpha)) for alpha in GRID)
    with pytest.raises(ep.EPError, match="tokenizer"):
        ep.steer(loaded.model, d, 1, alpha="auto")
    with pytest.raises(ep.EPError, match="'auto'"):
        ep.steer(loaded, d, 1, alpha=math.inf)


def test_the_command_and_python_take_the_same_default():
    shown = signature(command).parameters["alpha"].annotation.__metadata__[0].show_default
    assert float(shown.split(",")[0]) == ALPHA == ep.steer.__kwdefaults__["alpha"]


def test_a_step_as_a_file(built, tmp_path):
    from gguf import GGUFReader
    from safetensors.torch import load_file

    _, d = built
    step_d = 0.25 * d.typical_norm * random_direction(d.d_model)
    save_vector(tmp_path / "step.safetensors", d, step_d)
    assert torch.equal(load_file(tmp_path / "step.safetensors")["direction"], step_d)
    save_vector(tmp_path / "step.gguf", d, step_d, "regions 1")
    reader = GGUFReader(tmp_path / "step.gguf")
    (tensor,) = reader.tensors
    assert tensor.name == "direction.1" and torch.equal(torch.from_numpy(tensor.data.copy()), step_d)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.layer_count").contents() == 1
    for path in ("step.gguf", "step.bin"):
        with pytest.raises(ep.EPError, match="new file"):
            save_vector(tmp_path / path, d, step_d)
