"""Objects that hold a transformers model, as bridges and engines do; real ones: tests/peers/transformer_lens."""

import pytest
import torch

from exemplar_partitioning.act.edits import add
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.architecture import Architecture
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.hooks import applied
from exemplar_partitioning.models.identity import weights_hash
from tiny_models import random_windows, tiny


class Bridge:
    """Generates in a loop of its own, from ids or from text (a character for each id)."""

    def __init__(self, model):
        self.original_model = model

    def generate(self, input, max_new_tokens=6):
        ids_bs = torch.tensor([[ord(c) for c in input]]) if isinstance(input, str) else input
        cache, new_bs = None, ids_bs
        for _ in range(max_new_tokens):
            done = self.original_model(input_ids=new_bs, past_key_values=cache, use_cache=True)
            cache, new_bs = done.past_key_values, done.logits[:, -1:].argmax(dim=-1)
            ids_bs = torch.cat([ids_bs, new_bs], dim=1)
        return ids_bs


class Engine:
    def __init__(self, model):
        self.hf_model = model


class Wrapper(torch.nn.Module):
    """As TransformerLens puts them into a model: the module's own parameters under longer names, and copies."""

    def __init__(self, wrapped):
        super().__init__()
        self.q = torch.nn.Linear(3, 3)
        self.add_module("_original_component", wrapped)

    def forward(self, *args, **kwargs):
        return self._original_component(*args, **kwargs)


@pytest.mark.parametrize("holder", [Bridge, Engine])
def test_what_is_captured_is_the_held_models(holder):
    model, windows = tiny("llama"), random_windows(4)
    expected = Extractor(model, ["resid_post.2"]).extract(windows)
    found = Extractor(holder(model), ["resid_post.2"]).extract(windows)
    assert all(torch.equal(found[site], x_nd) for site, x_nd in expected.items())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_wrappers_do_not_change_whose_weights_these_are(family):
    model = tiny(family)
    plain = weights_hash(model)
    blocks = model.get_submodule(Architecture.of(model).path)
    for i, block in enumerate(blocks):
        blocks[i] = Wrapper(block)
    assert weights_hash(model) == plain
    assert weights_hash(tiny(family, seed=1)) != plain


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
@pytest.mark.parametrize("as_text", [False, True])
def test_the_holders_own_generate_is_watched(tokens, as_text):
    model = tiny("llama")
    held, ids_bs = Bridge(model), torch.tensor([[65, 66, 67, 68]])
    edit = add(3 * torch.randn(24, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        plain = held.generate(ids_bs)
        with applied(model, edit, "resid_post.1", tokens=tokens):
            expected = model.generate(ids_bs, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
        with applied(held, edit, "resid_post.1", tokens=tokens):
            assert torch.equal(held.generate("ABCD" if as_text else ids_bs), expected)
        assert not torch.equal(expected, plain)
        assert torch.equal(held.generate(ids_bs), plain) and "generate" not in vars(held)


def test_what_cannot_be_done_is_said():
    engine = Engine(tiny("llama"))
    with pytest.raises(EPError, match="tokens='all'"):
        applied(engine, add(torch.zeros(24)), "resid_post.1", tokens="prompt").__enter__()
    old = type("HookedTransformer", (), {"run_with_hooks": None})()
    with pytest.raises(EPError, match="boot_transformers"):
        Architecture.of(old)
    remote = type("VLLMModel", (), {"hf_model_id": "org/name"})()
    with pytest.raises(EPError, match="eager backend"):
        Architecture.of(remote)
