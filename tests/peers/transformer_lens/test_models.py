"""TransformerLens 4 bridges and interp-engine models in place of a transformers model: built from and acted on."""

import asyncio

import pytest
import torch

pytest.importorskip("transformer_lens", reason="only `make test-peers` has TransformerLens and interp-engine")

from interp_engine.model import EagerModel
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import exemplar_partitioning as ep
from conftest import tree
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.capture import Extractor

PROMPT = "the old dog walks under"
SITES = ["resid_pre.0", "attn_out_post.1", "mlp_out_post.1", "resid_post.2"]
BUILD = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 4000}
ROUNDING = {"atol": 2e-5, "rtol": 1e-4}  # both compute attention in another order than transformers


def bridge(folder):
    return TransformerBridge.boot_transformers(str(folder))


def engine(folder):
    return EagerModel(str(folder), device="cpu")


def greedy(model, prompt_ids):
    """Up to twelve new token ids, by the peer's own generation."""
    if isinstance(model, EagerModel):

        async def steps():
            return [s.token_id async for s in model.generate_steps(prompt_ids, max_tokens=12, temperature=0.0)]

        return asyncio.run(steps())
    quiet = {"verbose": False} if isinstance(model, TransformerBridge) else {}
    written = model.generate(torch.tensor([prompt_ids]), max_new_tokens=12, do_sample=False, **quiet)
    return written[0, len(prompt_ids) :].tolist()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request, tiny_folder, tmp_path_factory):
    """A model as a user has it on disk, with a tokenizer."""
    if request.param == "llama":
        return tiny_folder
    made = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    torch.manual_seed(0)
    shape = {"n_embd": 24, "n_layer": 3, "n_head": 2, "n_positions": 128}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape, bos_token_id=0, eos_token_id=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def loaded(folder):
    return ep.load_model(str(folder))


@pytest.fixture(scope="module")
def dictionary(folder, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "plain"
    ep.build(str(folder), [text_file], out=out, sites="resid_post.1", percentiles=[10], **BUILD)
    return ep.load(out)


@pytest.fixture
def prompt_ids(loaded):
    return [0, *loaded.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("peer", [bridge, engine])
def test_it_is_the_same_model_with_the_same_activations(folder, loaded, peer, prompt_ids):
    held = peer(folder)
    assert ep.load_model(held).info == loaded.info
    window = [torch.tensor(prompt_ids).numpy()]
    expected = Extractor(loaded.model, SITES).extract(window)
    for site, x_nd in Extractor(held, SITES).extract(window).items():
        torch.testing.assert_close(x_nd, expected[site], **ROUNDING)


def test_what_the_bridge_caches_is_what_is_captured(folder, prompt_ids):
    held = bridge(folder)
    _, cache = held.run_with_cache(torch.tensor([prompt_ids]))
    for site, x_nd in Extractor(held, SITES).extract([torch.tensor(prompt_ids).numpy()]).items():
        torch.testing.assert_close(x_nd, cache[site.transformer_lens][0].float(), **ROUNDING)


def test_what_the_engine_captures_is_what_is_captured(folder, prompt_ids):
    held = engine(folder)
    captured = asyncio.run(held.capture(prompt_ids, SITES))
    by_name = {str(address): x_nd for address, x_nd in captured.items()}
    for site, x_nd in Extractor(held, SITES).extract([torch.tensor(prompt_ids).numpy()]).items():
        torch.testing.assert_close(x_nd, by_name[str(site)].float(), **ROUNDING)


def test_an_engine_builds_the_same_dictionary_byte_for_byte(folder, text_file, tmp_path):
    options = {"sites": "resid_post.1", "percentiles": [10], **BUILD}
    for name, model in (("engine", engine(folder)), ("plain", ep.load_model(str(folder)))):
        ep.build(model, [text_file], out=tmp_path / name, **options)
    assert tree(tmp_path / "engine") == tree(tmp_path / "plain")


def test_a_bridge_builds_a_dictionary_of_the_same_model(folder, text_file, dictionary, tmp_path):
    ep.build(bridge(folder), [text_file], out=tmp_path / "out", sites="resid_post.1", percentiles=[10], **BUILD)
    built = ep.load(tmp_path / "out")
    assert built.config.model == dictionary.config.model
    assert built.config.text.digest == dictionary.config.text.digest
    torch.testing.assert_close(built.center, dictionary.center, **ROUNDING)
    assert abs(built.threshold - dictionary.threshold) < 1e-5


@pytest.mark.parametrize("peer", [bridge, engine])
@pytest.mark.parametrize("act", [lambda m, d: ep.steer(m, d, 1, alpha=4), lambda m, d: ep.ablate(m, d, [0, 1, 2])])
def test_what_the_peer_writes_is_acted_on(folder, loaded, dictionary, prompt_ids, peer, act):
    held = peer(folder)
    plain = greedy(loaded.model, prompt_ids)
    assert greedy(held, prompt_ids) == plain
    with act(loaded, dictionary):
        expected = greedy(loaded.model, prompt_ids)
    with act(held, dictionary):
        assert greedy(held, prompt_ids) == expected
    assert expected != plain
    assert greedy(held, prompt_ids) == plain


def test_the_bridges_own_forward_gives_the_logits_of_the_intervention(folder, loaded, dictionary, prompt_ids):
    held, ids_bs = bridge(folder), torch.tensor([prompt_ids])
    with torch.inference_mode(), ep.steer(loaded, dictionary, 2, alpha=2), ep.steer(held, dictionary, 2, alpha=2):
        torch.testing.assert_close(held(ids_bs), loaded.model(input_ids=ids_bs).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("tokens", ["prompt", "generated"])
def test_a_bridge_tells_prompt_from_generated_tokens(folder, loaded, dictionary, prompt_ids, tokens, as_text):
    held = bridge(folder)
    with ep.steer(loaded, dictionary, 1, alpha=4, tokens=tokens):
        expected = greedy(loaded.model, prompt_ids)
    with ep.steer(held, dictionary, 1, alpha=4, tokens=tokens):
        options = {"max_new_tokens": 12, "do_sample": False, "verbose": False, "return_type": "tokens"}
        written = held.generate(PROMPT if as_text else torch.tensor([prompt_ids]), **options)
    assert written[0].tolist() == prompt_ids + expected


def test_an_engines_own_loop_cannot_tell_them_apart_and_that_is_said(folder, dictionary):
    with (
        pytest.raises(EPError, match="tokens='all'"),
        ep.steer(engine(folder), dictionary, 1, alpha=1, tokens="prompt"),
    ):
        pass


def test_processed_weights_are_another_model(folder, dictionary):
    held = bridge(folder)
    held.enable_compatibility_mode()
    with pytest.raises(EPError, match="any_model=True"):
        ep.steer(held, dictionary, 1, alpha=1)


def test_weights_are_not_baked_into_a_bridge(folder, dictionary):
    with pytest.raises(EPError, match="TransformerBridge"):
        ep.bake(bridge(folder), dictionary, 1)
