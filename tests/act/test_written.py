"""What a model writes is read as it is written, whatever runs it: the regions are those of reading it all at once."""

from functools import wraps

import numpy as np
import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM

import exemplar_partitioning as ep
from act.test_touched_tokens import model_of
from exemplar_partitioning.act.edits import add
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.generate import encode, generate
from exemplar_partitioning.models.hooks import applied
from exemplar_partitioning.models.sites import Site
from exemplar_partitioning.reading import written
from sweep.check import letters
from tiny_models import tiny

SITE = Site(1, "resid_post")
TEXTS = ["".join(map(chr, np.random.default_rng(seed).integers(33, 123, 40))) for seed in range(60)]
UNEQUAL = ["a king", "stone", "the old grey river"]


def with_adapter():
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    return peft.get_peft_model(model_of("llama"), config).eval()


@pytest.mark.parametrize("kind", ["llama", "mamba", "jamba", "wrapped llama", "peft"])
def test_as_if_read_at_once(kind, tmp_path):
    loaded = ep.load_model(with_adapter() if kind == "peft" else model_of(kind), tokenizer=letters())
    options = {"calibration_batch": 200, "calibration_sample": 400, "context_size": 32, "max_tokens": 1500}
    ep.build(loaded, TEXTS, out=tmp_path / "out", sites=str(SITE), percentiles=[10], **options)
    dictionary = ep.load(tmp_path / "out", site=str(SITE), percentile=10)
    tokens = written(loaded, dictionary, "a king", max_new_tokens=6)
    prompt = encode(loaded, "a king")
    ids = [token.token_id for token in tokens]
    assert len(ids) == 6 and ids == generate(loaded, ["a king"], max_new_tokens=6)[0].ids
    rows = Extractor(loaded.model, [SITE]).extract([np.array(prompt + ids)])[SITE][len(prompt) :]
    region_n, distance_n = dictionary.assign(rows)
    assert len(set(distance_n.tolist())) > 1
    ordinary = [i for i, token in enumerate(ids) if token > 2]
    assert [tokens[i].region for i in ordinary] == region_n[ordinary].tolist()
    assert [tokens[i].distance for i in ordinary] == pytest.approx(distance_n[ordinary].tolist(), abs=1e-4)


def rwkv(layers: int = 4):
    """A model that pays no heed to the attention mask: padding on the left is read as text."""
    torch.manual_seed(0)
    model = RwkvForCausalLM(
        RwkvConfig(vocab_size=97, hidden_size=24, num_hidden_layers=layers, attention_hidden_size=24)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.generation_config.eos_token_id = None
    return model


class TestUnequalPrompts:
    @pytest.mark.parametrize("kind", ["rwkv", "mamba", "llama"])
    def test_each_is_continued_as_if_alone(self, kind):
        model = rwkv() if kind == "rwkv" else model_of(kind)
        loaded = ep.load_model(model, tokenizer=letters())
        alone = [generate(loaded, [prompt], max_new_tokens=6)[0].ids for prompt in UNEQUAL]
        assert all(alone[:2])
        passes = []
        handle = model.register_forward_hook(lambda *_: passes.append(1))
        batched = [generate(loaded, UNEQUAL, max_new_tokens=6) for _ in range(2)]
        handle.remove()
        assert [[g.ids for g in together] for together in batched] == [alone, alone]
        with applied(model, add(4 * torch.randn(24)), "resid_post.1"):
            steered = [g.ids for g in generate(loaded, UNEQUAL, max_new_tokens=6)]
            assert steered == [generate(loaded, [prompt], max_new_tokens=6)[0].ids for prompt in UNEQUAL]
        assert steered != alone
        assert (len(passes) > 30) == (kind == "rwkv")  # only there one at a time

    def test_positions_that_padding_moves_are_seen(self):
        model = tiny("gpt2")
        prepare = model.prepare_inputs_for_generation
        model.prepare_inputs_for_generation = wraps(prepare)(lambda *a, **k: prepare(*a, **k) | {"position_ids": None})
        loaded = ep.load_model(model, tokenizer=letters())
        alone = [generate(loaded, [prompt], max_new_tokens=6)[0].ids for prompt in UNEQUAL]
        assert [g.ids for g in generate(loaded, UNEQUAL, max_new_tokens=6)] == alone

    def test_a_batch_that_the_model_itself_mixes_is_refused_when_steered(self):
        model, ids = rwkv(), torch.arange(10, 20).view(2, 5)
        with pytest.raises(EPError, match=r"of 2 x 1 tokens .* 2 x 2 activations"):  # noqa: SIM117
            with applied(model, add(torch.ones(24)), "resid_post.1"):
                model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, pad_token_id=0)


def test_weights_that_the_first_pass_rescales_have_their_last_fingerprint():
    from exemplar_partitioning.models.identity import current_identity

    model = rwkv(7)
    loaded = ep.load_model(model, tokenizer=letters())
    model(input_ids=torch.arange(5, 9)[None])
    assert (loaded.info.weights, loaded.info.fingerprint) == (
        current_identity(model).weights,
        current_identity(model).fingerprint,
    )
