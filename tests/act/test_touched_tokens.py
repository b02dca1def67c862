"""Prompt, generated and padding tokens are told apart whatever runs the model, and an edit that never fired is said."""

import pytest
import torch
from torch import nn
from transformers import JambaConfig, JambaForCausalLM, MambaConfig, MambaForCausalLM

from exemplar_partitioning.act.edits import add
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.architecture import Architecture
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.hooks import applied
from exemplar_partitioning.models.sites import Site
from tiny_models import random_windows, tiny

_COMMON = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 4}
_STATE_SPACE = {
    "mamba": lambda: MambaForCausalLM(MambaConfig(**_COMMON, state_size=8)),
    "jamba": lambda: JambaForCausalLM(
        JambaConfig(
            **_COMMON,
            intermediate_size=48,
            num_attention_heads=2,
            num_key_value_heads=1,
            attn_layer_period=2,
            attn_layer_offset=1,
            num_experts=2,
            num_experts_per_tok=1,
            mamba_d_state=8,
            mamba_dt_rank=4,
        )
    ),
}
PROMPT = torch.arange(10, 20)[None]
PADDED = torch.stack([PROMPT[0], torch.cat([torch.zeros(4, dtype=torch.long), PROMPT[0, :6]])])


class Wrapper(nn.Module):
    """As PEFT's: `generate` is handed to a module inside, which runs without this one's own forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner, self.config = model, model.config

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def prepare_inputs_for_generation(self, *args, **kwargs):
        return self.inner.prepare_inputs_for_generation(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.inner.generate(*args, **kwargs)

    def forward(self, **kwargs):
        return self.inner(**kwargs)


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = _STATE_SPACE[kind]().eval() if kind in _STATE_SPACE else tiny(kind.removeprefix("wrapped "))
    model.generation_config.eos_token_id = None
    return Wrapper(model) if kind.startswith("wrapped") else model


def counts(model, ids_bs: torch.Tensor | None = PROMPT, **options) -> tuple[int, ...]:
    """Activations that an edit was given, for all, prompt and generated tokens."""
    found = []
    if ids_bs is not None:
        options |= {"input_ids": ids_bs, "attention_mask": (ids_bs != 0).long()}
    for tokens in ("all", "prompt", "generated"):
        rows: list[int] = []
        with applied(model, lambda x_nd, rows=rows: rows.append(len(x_nd)) or x_nd, "resid_post.1", tokens=tokens):
            model.generate(**options, max_new_tokens=5, do_sample=False, pad_token_id=0)
        found.append(sum(rows))
    return tuple(found)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "mamba", "jamba", "wrapped llama"])
class TestCounts:
    def test_one_prompt(self, kind):
        assert counts(model_of(kind)) == (14, 10, 4)

    def test_padding_on_the_left(self, kind):
        assert counts(model_of(kind), PADDED) == (24, 16, 8)

    def test_without_a_cache_all_is_read_again(self, kind):
        assert counts(model_of(kind), use_cache=False) == (60, 50, 10)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_beams": 3}, (42, 30, 12)),
        ({"num_beams": 4, "num_return_sequences": 2}, (56, 40, 16)),
        ({"cache_implementation": "static"}, (14, 10, 4)),
        ({"prefill_chunk_size": 4}, (14, 10, 4)),
    ],
)
def test_ways_of_generating(options, expected):
    assert counts(model_of("llama"), **options) == expected


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"prefill_chunk_size": 4}])
def test_ways_of_generating_with_padding(options):
    assert counts(model_of("llama"), PADDED, **options) == (24, 16, 8)


@pytest.mark.parametrize("drafts", ["prompt lookup", "assistant"])
def test_drafts_that_are_read_count_as_generated(drafts):
    options = {"prompt_lookup_num_tokens": 3} if drafts == "prompt lookup" else {"assistant_model": tiny("llama", 1)}
    everything, prompt, generated = counts(model_of("llama"), **options)
    assert prompt == 10 and generated >= 4 and everything == prompt + generated


def test_drafts_by_the_models_first_blocks_know_the_prompt():
    """Each draft is a `generate` of its own that begins with all that was written so far."""
    everything, prompt, generated = counts(model_of("llama"), assistant_early_exit=2)
    assert everything == prompt + generated
    assert 20 <= prompt <= 21  # read by the model and by the drafts; their cache is cut back by one
    assert generated >= 8


def test_passes_on_the_side_are_refused():
    """Guidance reads the last token of the prompt, and all that is written, without the rest of the prompt."""
    model = model_of("llama")
    with pytest.raises(EPError, match="cannot be told apart"):
        counts(model, guidance_scale=1.5)
    touched = []
    with applied(model, lambda x_nd: touched.append(len(x_nd)) or x_nd, "resid_post.1"):
        model.generate(PROMPT, guidance_scale=1.5, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0)
    assert sum(touched) == 14 + 5


def test_a_prompt_of_embeddings():
    model = model_of("llama")
    embedded = model.get_input_embeddings()(PROMPT).detach()
    assert counts(model, None, inputs_embeds=embedded, attention_mask=torch.ones_like(PROMPT)) == (14, 10, 4)


def test_going_on_from_a_cache_of_the_prompt():
    model = model_of("llama")

    def options():
        cache = model(input_ids=PROMPT[:, :6]).past_key_values
        return {"past_key_values": cache, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}

    for tokens, expected in (("all", 8), ("prompt", 4), ("generated", 4)):
        rows, given = [], options()
        with applied(model, lambda x, rows=rows: rows.append(len(x)) or x, "resid_post.1", tokens=tokens):
            model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **given)
        assert sum(rows) == expected


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_a_loop_of_ones_own_is_refused_where_nothing_can_be_told(kind):
    model, name = model_of(kind), "cache_params" if kind == "mamba" else "past_key_values"
    edit = staticmethod(add(torch.ones(24)))
    with torch.no_grad(), pytest.raises(EPError, match="cannot be told apart"):  # noqa: SIM117
        with applied(model, edit, "resid_post.1", tokens="generated"):
            cache = model(input_ids=PROMPT, use_cache=True)[name]
            model(input_ids=PROMPT[:, :1], **{name: cache}, use_cache=True)


def test_the_mask_may_be_given_by_position():
    model, rows = model_of("llama"), []
    with applied(model, lambda x_nd: rows.append(len(x_nd)) or x_nd, "resid_post.1"):
        model(PADDED, (PADDED != 0).long())
    assert rows == [16]


class TestFired:
    edit = staticmethod(add(torch.ones(24)))

    def test_no_forward_pass_is_an_error(self):
        with pytest.raises(EPError, match=r"nothing was changed at resid_post\.1 .* no forward pass"):  # noqa: SIM117
            with applied(tiny("llama"), self.edit, "resid_post.1"):
                pass

    def test_a_copy_that_runs_is_no_forward_pass_of_this_model(self):
        model = tiny("llama")
        with pytest.raises(EPError, match="Run this very object"), applied(model, self.edit, "resid_post.1"):
            tiny("llama")(input_ids=PROMPT)

    def test_a_block_passed_over_is_named(self):
        model = tiny("llama")
        blocks = Architecture.of(model).blocks
        with pytest.raises(EPError, match=r"at resid_post\.1 of"), applied(model, self.edit, "resid_post.*"):
            model.model.layers[1] = nn.Identity()  # the block is no longer part of what runs
            model.model.layers[1].forward = lambda hidden, **_: hidden
            model(input_ids=PROMPT)
        assert not any(block._forward_hooks for block in blocks)

    def test_a_pass_that_ends_early_is_none(self):
        model = tiny("llama")
        with applied(model, self.edit, "resid_post.*"):
            Extractor(model, [Site(1, "resid_post")]).extract(random_windows(2))

    def test_what_else_was_raised_is_what_is_seen(self):
        with pytest.raises(ZeroDivisionError), applied(tiny("llama"), self.edit, "resid_post.1"):
            1 / 0  # noqa: B018


class TestCompiled:
    @pytest.mark.parametrize("warm", [False, True])
    @pytest.mark.parametrize("how", ["forward", "module", "wrapped", "inside"])
    def test_steered_and_read_as_if_eager_and_nothing_stays(self, how, warm):
        torch._dynamo.reset()
        plain, model = tiny("llama"), tiny("llama")
        outer = model
        if how == "forward":
            model.forward = torch.compile(model.forward, backend="eager")
        elif how == "module":
            model.compile(backend="eager")
        else:
            outer = torch.compile(model, backend="eager")
        given = model if how == "inside" else outer
        edit, windows = add(3 * torch.ones(24)), random_windows(3)
        with torch.no_grad():
            if warm:
                outer(PROMPT)
            with applied(plain, edit, "resid_post.1"):
                expected = plain(PROMPT).logits
            with applied(given, edit, "resid_post.1"):
                assert torch.equal(outer(PROMPT).logits, expected)
            torch.testing.assert_close(outer(PROMPT).logits, plain(PROMPT).logits)
        ((got,), (rows,)) = (Extractor(m, ["resid_post.2"]).extract(windows).values() for m in (given, plain))
        assert torch.equal(got, rows)
        torch._dynamo.reset()

    @pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
    def test_writing(self, tokens):
        torch._dynamo.reset()
        plain, model = model_of("llama"), model_of("llama")
        model.forward = torch.compile(model.forward, backend="eager")
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        written = []
        for each in (plain, model):
            with applied(
                each, add(6 * torch.randn(24, generator=torch.Generator().manual_seed(0))), "*.1", tokens=tokens
            ):
                written.append(each.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **options))
        assert torch.equal(*written)


def test_weights_without_numbers_are_said():
    with torch.device("meta"):
        model = tiny("llama")
    with pytest.raises(EPError, match="meta device"):
        Extractor(model, [Site(1, "resid_post")]).extract(random_windows(1))
