"""Any place in a model: what is captured and changed there is what plain hooks of torch get, whatever the family."""

import numpy as np
import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM, MixtralConfig, MixtralForCausalLM, OPTConfig, OPTForCausalLM

from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.architecture import Architecture
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.hooks import applied, at
from exemplar_partitioning.models.sites import named_site, resolve_sites
from tiny_models import random_windows, tiny

OPT = OPTConfig(
    vocab_size=97, hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=24
)
FALCON = FalconConfig(vocab_size=97, hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
MIXTRAL = MixtralConfig(
    vocab_size=97,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_local_experts=3,
)


def drawn(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


MODELS = {family: tiny(family) for family in ("llama", "gemma3", "qwen2", "gpt2", "gpt_neox")}
MODELS |= {"opt": drawn(OPTForCausalLM(OPT)), "falcon": drawn(FalconForCausalLM(FALCON))}
MODELS |= {"mixtral": drawn(MixtralForCausalLM(MIXTRAL))}

# Where the oracle hooks: the module, whether what goes in or comes out, and its name here, in three spellings.
PLACES = [
    ("llama", "model.layers.1.mlp.down_proj", "in", "mlp_act.1", "blocks.1.mlp.hook_post"),
    ("llama", "model.layers.1.self_attn.o_proj", "in", "z.1", "blocks.1.hook_z"),
    ("llama", "model.layers.1.self_attn.q_proj", "out", "q.1", "blocks.1.attn.hook_q"),
    ("llama", "model.layers.1.self_attn.v_proj", "out", "v.1", "value.1"),
    ("llama", "model.layers.1.mlp.gate_proj", "out", "model.layers.1.mlp.gate_proj@out", None),
    ("llama", "model.layers.1.input_layernorm", "out", "model.layers.1.input_layernorm@out", None),
    ("llama", "model.embed_tokens", "out", "embeddings", "hook_embed"),
    ("llama", "model.norm", "out", "final_norm", "unembed.hook_in"),
    ("llama", "lm_head", "out", "lm_head@out", None),
    ("gemma3", "model.layers.1.mlp", "out", "model.layers.1.mlp@out", None),
    ("gemma3", "model.layers.1.mlp.down_proj", "in", "mlp_act.1", "blocks.1.hook_post"),
    ("gpt2", "transformer.h.1.mlp.c_proj", "in", "mlp_act.1", "mlp_post.1"),
    ("gpt2", "transformer.h.1.attn.c_proj", "in", "z.1", "blocks.1.attn.hook_z"),
    ("gpt2", "transformer.h.1.attn.c_attn", "out", "transformer.h.1.attn.c_attn@out", None),
    ("gpt_neox", "gpt_neox.layers.1.attention.dense", "in", "z.1", None),
    ("gpt_neox", "gpt_neox.final_layer_norm", "out", "final_norm", None),
    ("opt", "model.decoder.layers.1.fc2", "in", "mlp_act.1", None),
    ("falcon", "transformer.h.1.mlp.dense_4h_to_h", "in", "mlp_act.1", None),
    ("mixtral", "model.layers.1.mlp.gate", "out", "router_logits.1", None),
]


def oracle(model, path, side, windows):
    """Window after window alone, by a plain hook."""
    got = []

    def before(_module, args):
        got.append(args[0])

    def after(_module, _args, output):
        got.append(output[0] if isinstance(output, tuple) else output)

    module = model.get_submodule(path)
    handle = module.register_forward_pre_hook(before) if side == "in" else module.register_forward_hook(after)
    with torch.no_grad():
        for window in windows:
            model(torch.from_numpy(window)[None])
    handle.remove()
    return torch.cat([x.reshape(len(window), -1) for x, window in zip(got, windows, strict=True)])


@pytest.mark.parametrize(("family", "path", "side", "name", "also"), PLACES, ids=lambda value: str(value)[:40])
def test_what_is_captured_is_what_a_plain_hook_gets(family, path, side, name, also):
    model, windows = MODELS[family], random_windows(7, seed=3)
    architecture = Architecture.of(model)
    for spelling in filter(None, (name, also, f"{path}:{side}", f"{path}@{side}put")):
        (site,) = resolve_sites(spelling, architecture)
        assert str(site) == name
        assert named_site(str(site)) == site
    assert site.module_path(architecture) == f"{path}:{side}"
    assert not set(str(site)) & set(':/\\*?"<>| ')  # a folder on any system
    expected = oracle(model, path, side, windows)
    extractor = Extractor(model, [site, *resolve_sites("resid_post.0", architecture)], batch_size=3)
    assert extractor.widths[site] == expected.shape[1]
    got = extractor.extract(windows)[site]
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("family", "path", "side", "name", "also"), PLACES, ids=lambda value: str(value)[:40])
def test_a_change_there_changes_what_follows_as_a_plain_hook_does(family, path, side, name, also):
    model, ids = MODELS[family], torch.arange(3, 12)[None]
    (width,) = Extractor(model, resolve_sites(name, Architecture.of(model))).widths.values()
    step = torch.linspace(-1, 1, width)

    def shift(x):
        return x + step.view(x.shape[-1] if x.shape[-1] == width else (-1, x.shape[-1]))

    module = model.get_submodule(path)
    if side == "in":
        handle = module.register_forward_pre_hook(lambda _module, args: (shift(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(lambda _module, _args, output: shift(output))
    with torch.no_grad():
        if name.startswith("router_logits"):
            handle.remove()
            with applied(model, lambda x: x + step, name), pytest.raises(EPError, match="can be read, not changed"):
                model(ids)
            return
        expected, plain = model(ids).logits, None
        handle.remove()
        with applied(model, lambda x: x + step, name):
            changed = model(ids).logits
        plain = model(ids).logits
    torch.testing.assert_close(changed, expected)
    if name != "q.1":  # little weight on what queries ask with random weights
        assert not torch.allclose(plain, expected, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "qwen2"])
def test_the_stream_between_attention_and_mlp_is_read_and_written(family):
    model, windows = MODELS[family], random_windows(5)
    architecture = Architecture.of(model)
    names = ["resid_pre.2", "attn_out_post.2", "resid_mid.2", "mlp_out_post.2", "resid_post.2"]
    before, attention, middle, mlp, after = (
        Extractor(model, resolve_sites(names, architecture)).extract(windows).values()
    )
    torch.testing.assert_close(middle, before + attention)
    torch.testing.assert_close(after, middle + mlp, rtol=1e-4, atol=1e-4)
    norm = {"llama": "post_attention_layernorm", "qwen2": "post_attention_layernorm", "gpt2": "ln_2"}
    norm["gemma3"] = "pre_feedforward_layernorm"
    expected = oracle(model, f"{architecture.path}.2.{norm[family]}", "in", windows)
    torch.testing.assert_close(middle, expected, rtol=1e-3, atol=1e-4)
    kept = []
    ids, x_d = torch.arange(3, 9)[None], torch.linspace(-2, 2, 24)
    with (
        torch.no_grad(),
        at(model, "resid_mid.2", lambda x: x_d.expand_as(x)),
        at(model, "resid_post.2", kept.append),
        at(model, "mlp_out_post.2", kept.append),
    ):
        model(ids)
    torch.testing.assert_close(kept[1] - kept[0], x_d.expand_as(kept[0]), rtol=1e-4, atol=1e-4)


def test_a_family_of_globs():
    architecture = Architecture.of(MODELS["llama"])
    assert [str(s) for s in resolve_sites("mlp_act.[0-1],z.3", architecture)] == ["mlp_act.0", "mlp_act.1", "z.3"]
    assert len(resolve_sites("model.layers.*.mlp.up_proj:out", architecture)) == 4
    assert resolve_sites("model.layers.*.mlp.down_proj:in", architecture) == resolve_sites("mlp_act.*", architecture)
    assert [str(s) for s in resolve_sites("final_norm, embeddings, q.0", architecture)] == [
        "embeddings",
        "q.0",
        "final_norm",
    ]


@pytest.mark.parametrize(
    ("family", "name", "says"),
    [
        ("llama", "model.layers.1.mlp.down_prj:in", r"no module.*nearest is model.layers.1.mlp.down_proj\."),
        ("llama", "model.layers.1.mlp.down_proj.weight:out", "no module"),
        ("llama", "model.layers.9.mlp.down_proj:in", "no block 9"),
        ("llama", "model.layers:out", "never reached"),
        ("llama", "model.rotary_emb:out", "tuple of 2 tensors"),
        ("llama", "model.embed_tokens:in", "one activation a token"),
        ("llama", "ln_final.hook_normalized", "write 'final_norm'"),
        ("llama", "router_logits.1", "no place called router_logits.*gate_proj:out"),
        ("gpt2", "q.1", "no place called q.*c_attn:out"),
        ("gpt2", "transformer.wpe:out", "one activation a token"),
        ("gemma3", "model.layers.1.self_attn.q_norm:in", "one activation a token"),  # heads before positions
        ("gpt_neox", "resid_mid.1", "side by side"),
        ("mixtral", "mlp_act.1", "no place called mlp_act"),
        ("mixtral", "model.layers.1.mlp.experts.act_fn:out", "one activation a token|times"),
    ],
)
def test_what_is_no_place_is_refused_with_the_way_on(family, name, says):
    model = MODELS[family]
    with pytest.raises(EPError, match=says):
        Extractor(model, resolve_sites(name, Architecture.of(model)))


def test_a_module_that_runs_twice_in_a_pass_is_refused():
    model = tiny("llama")
    model.model.layers[3].mlp = model.model.layers[1].mlp
    with pytest.raises(EPError, match="passed 2 times"):
        Extractor(model, resolve_sites("model.layers.1.mlp.up_proj:out", Architecture.of(model)))


def test_windows_of_any_length_share_a_batch():
    model, windows = MODELS["mixtral"], [np.arange(3), np.arange(20), np.arange(1)]
    (site,) = resolve_sites("router_logits.1", Architecture.of(model))
    together = Extractor(model, [site]).extract(windows)[site]
    alone = torch.cat([Extractor(model, [site]).extract([window])[site] for window in windows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
