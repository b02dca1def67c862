"""Admission: what is assumed of a model is tested when it is loaded, and every wrong kind is refused or said."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from conftest import tiny_llama
from exemplar_partitioning.demo.models import packaged_model
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.models.admission import check_context, check_length, same_probe
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.identity import current_identity
from exemplar_partitioning.models.lens import lens
from exemplar_partitioning.models.load import load_model, outline
from exemplar_partitioning.models.sites import resolve_sites
from tiny_models import FAMILIES, VOCAB, tiny

TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


class Tokens:
    """The least that is asked of a tokenizer."""

    all_special_ids = (0, 1, 2)
    bos_token_id, eos_token_id = 1, 2

    def __len__(self):
        return VOCAB

    def get_vocab(self):
        return {str(i): i for i in range(VOCAB)}


def shaken(model: nn.Module) -> nn.Module:
    """Weights large enough that everything matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def given(model):
    return load_model(model, tokenizer=Tokens())


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny_llama(tmp_path / "tiny")


def rewritten(folder: Path, change) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_models_are_admitted_with_their_lens(family, dtype):
    admission = given(tiny(family).to(dtype)).info.admission
    assert (admission.lens, admission.head, admission.remote_code) == (None, True, False)
    assert len(admission.probe) == 16 and np.std(admission.probe) > 0.1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: {"_orig_mod." + k: v for k, v in t.items()}, "model.embed_tokens.weight"),
        (lambda t: {"module." + k: v for k, v in t.items()}, "module.lm_head.weight"),
        (lambda t: {k: v for k, v in t.items() if ".layers.2." not in k}, "9 missing .model.layers.2.input"),
        (lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"}, "1 missing .model.norm.weight"),
        (lambda t: {**t, **{k.replace("layers.2", "layers.3"): v.clone() for k, v in t.items()}}, "model.layers.3"),
        (lambda t: {**t, "model.norm.weight": torch.ones(7)}, r"1 of another shape .model\.norm\.weight"),
        (lambda t: {**t, "lm_head.weight": torch.ones(7, 24)}, r"1 of another shape .lm_head\.weight"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(folder, change, named):
    with pytest.raises(DataError, match=named):
        load_model(rewritten(folder, change))


def test_a_head_alone_may_be_missing_and_then_nothing_is_drawn_at_random(folder):
    complete = load_model(folder)
    rewritten(folder, lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"})
    torch.manual_seed(1)
    first = load_model(folder)
    torch.manual_seed(2)
    assert load_model(folder).info == first.info
    assert not first.info.admission.head
    with pytest.raises(EPError, match="no logit lens: LlamaModel has no language-model head"):
        next(lens(first, torch.zeros(1, 24)))
    with pytest.raises(EPError, match=r"cannot write.*with its head"):
        first.require_head("write")
    ids = np.arange(5, 15)
    rows = [
        next(iter(Extractor(m.model, resolve_sites("resid_post.1", m.architecture)).extract([ids]).values()))
        for m in (complete, first)
    ]
    assert torch.equal(*rows)


def test_constants_that_earlier_versions_saved_are_no_weights(tmp_path):
    folder = tiny_llama(tmp_path / "old")
    expected = load_model(folder).info
    constants = {"attn.masked_bias": torch.tensor(-1e9), "self_attn.rotary_emb.inv_freq": torch.ones(4)}
    rewritten(
        folder, lambda t: t | {f"model.layers.{i}.{k}": v.clone() for i in range(3) for k, v in constants.items()}
    )
    assert load_model(folder).info == expected


def test_classifiers_have_no_lens():
    config = transformers.LlamaConfig(**TEXT)
    for kind in (transformers.LlamaForSequenceClassification, transformers.LlamaForTokenClassification):
        admission = given(shaken(kind(config))).info.admission
        assert not admission.head and "no language-model head" in admission.lens


def test_what_sees_later_tokens_is_refused():
    bert = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    with pytest.raises(EPError, match=r"BertLMHeadModel does not attend causally.*is_decoder=True"):
        given(shaken(transformers.BertLMHeadModel(bert)))
    decoder = transformers.BertConfig(**{**bert.to_dict(), "is_decoder": True})
    assert given(shaken(transformers.BertLMHeadModel(decoder))).info.admission.head
    with pytest.raises(EPError, match="does not attend causally"):
        given(shaken(transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, is_causal=False))))


def test_a_look_at_the_next_token_alone_is_seen():
    model = tiny("llama")
    model.model.layers[1].register_forward_hook(lambda m, a, out: out + 0.01 * out.roll(-1, dims=1))
    with pytest.raises(EPError, match=r"does not attend causally.*resid_post\.1"):
        given(model)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.1), (torch.bfloat16, 1.0)])
def test_batch_mates_that_enter_are_seen(dtype, share):
    model = tiny("llama").to(dtype)
    model.model.layers[1].register_forward_hook(lambda m, a, out: out + share * out.mean(dim=0, keepdim=True))
    with pytest.raises(EPError, match=r"depend on what else is in the batch|does not attend causally"):
        given(model)


def test_a_module_around_a_model_is_told_what_to_give():
    class Around(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner, self.config = model, model.config

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

    with pytest.raises(EPError, match=r"this Around is a module around a model.*give the transformers model inside"):
        given(Around(tiny("llama")))
    with pytest.raises(EPError, match=r"expected a causal language model of transformers .*got DataParallel"):
        given(nn.DataParallel(tiny("llama")))


def test_more_than_the_last_block_entering_the_logits_turns_the_lens_off():
    model = tiny("llama")
    first = []
    model.model.layers[0].register_forward_hook(lambda m, a, out: first.append(out))
    model.lm_head.register_forward_pre_hook(lambda m, args: (args[0] + first[-1],))
    loaded = given(model)
    assert "more than that output enters them" in loaded.info.admission.lens and loaded.info.admission.head


def test_a_model_in_training_is_left_in_training():
    model = tiny("llama").train()
    model.model.layers[1].eval()
    given(model)
    assert model.training and not model.model.layers[1].training and model.model.layers[2].training


def longrope(**rope):
    config = transformers.Phi3Config(
        **{**TEXT, "original_max_position_embeddings": 32},
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "factor": 2.0,
            "short_factor": [1.0] * 4,
            "long_factor": [1.0, 2.0, 8.0, 30.0],
            "original_max_position_embeddings": 32,
        },
    )
    return shaken(transformers.Phi3ForCausalLM(config))


def test_two_regimes_never_share_a_batch():
    model = longrope()
    loaded = given(model)
    assert loaded.architecture.regime_length == 32
    sites = resolve_sites("resid_post.1", loaded.architecture)
    rng = np.random.default_rng(0)
    windows = [rng.integers(3, VOCAB, n) for n in (20, 60, 32, 33)]
    together = Extractor(model, sites).extract(windows)[sites[0]]
    alone = torch.cat([Extractor(model, sites).extract([window])[sites[0]] for window in windows])
    assert float((together - alone).norm() / alone.norm()) < 1e-5
    check_context(loaded, 63)
    # Mixed, they would have moved: the split is what keeps them apart.
    unsplit = Extractor(model, sites)
    unsplit.architecture = replace(unsplit.architecture, regime_length=None)
    assert float((unsplit.extract(windows)[sites[0]][:20] - alone[:20]).norm() / alone[:20].norm()) > 0.05


def test_activations_that_depend_on_the_longest_window_are_refused_at_that_length():
    model = tiny("llama")
    model.model.layers[1].register_forward_hook(lambda m, a, out: out * (1 + out.shape[1] // 40))
    loaded = given(model)
    check_context(loaded, 31)
    with pytest.raises(EPError, match=r"its positions depend on the longest. Choose a context size of at most"):
        check_context(loaded, 63)


def test_a_context_beyond_the_limit_is_refused_before_anything_is_read():
    architecture = outline(tiny("llama"))
    check_length(architecture, 63)
    with pytest.raises(
        EPError, match=r"64 tokens and a BOS is more than LlamaForCausalLM takes, which is 64.*at most 63"
    ):
        check_length(architecture, 64)
    check_length(architecture, 64, bos=False)


def test_the_outline_needs_no_weights(folder):
    whole = load_model(folder)
    (folder / "model.safetensors").unlink()
    sketch = outline(folder)
    assert all(p.is_meta for p in sketch.blocks[0].parameters())
    for name in ("resid_post.*", "attn_out_post.1", "model.layers.2"):
        assert resolve_sites(name, sketch) == resolve_sites(name, whole.architecture)
    with pytest.raises(EPError, match="out of range"):
        resolve_sites("resid_post.3", sketch)


def identity(model) -> str:
    return current_identity(model).fingerprint


def test_identity_is_that_of_the_function(folder):
    loaded = load_model(folder)
    assert load_model(loaded.model, tokenizer=loaded.tokenizer).info.fingerprint == loaded.info.fingerprint
    code = (
        "import sys, torch; torch.set_num_threads(2)\n"
        "from exemplar_partitioning.models.load import load_model\n"
        "info = load_model(sys.argv[1]).info; print(info.fingerprint, *info.admission.probe)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    other, *probe = said.stdout.split()
    assert other == loaded.info.fingerprint
    assert same_probe([float(v) for v in probe], loaded.info.admission.probe, "float32")
    config = json.loads((folder / "config.json").read_text())
    for change in (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rms_norm_eps": 0.1},
        {"hidden_act": "gelu"},
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        edited = load_model(folder).info
        assert edited.weights == loaded.info.weights
        assert edited.fingerprint != loaded.info.fingerprint
        assert not same_probe(edited.admission.probe, loaded.info.admission.probe, "float32")
    (folder / "config.json").write_text(json.dumps({**config, "use_cache": False, "transformers_version": "4.0.0"}))
    assert load_model(folder).info.fingerprint == loaded.info.fingerprint


def test_identity_is_taken_again_when_weights_change_in_any_way():
    model = tiny("llama")
    seen = [current_identity(model)]
    assert current_identity(model) is seen[0]  # not hashed again
    weight = model.model.embed_tokens.weight
    for change in (
        lambda: weight.data[-1].add_(1e-3),  # through .data, which no counter of versions sees
        lambda: weight.detach().copy_(weight.detach().flip(0)),
        lambda: weight.data[:2].copy_(weight.data[:2].flip(0)),  # two neighbours change places
        lambda: setattr(model.config, "rms_norm_eps", 0.1),
        lambda: model.model.register_buffer("extra", torch.ones(3)),
        lambda: model.model.extra.add_(1),
    ):
        change()
        seen.append(current_identity(model))
    assert len({one.fingerprint for one in seen}) == len(seen)
    assert len({one.weights for one in seen}) == 4


class Packed(nn.Module):
    """As layers of GPTQ and AWQ are: weights are buffers."""

    def __init__(self, linear: nn.Linear, bits: int):
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().max() / (2 ** (bits - 1) - 1)
        self.register_buffer("qweight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scales", scale[None].clone())

    def forward(self, x):
        return x @ (self.qweight.to(x.dtype) * self.scales).T


def packed(bits):
    model = tiny("llama")
    for block in model.model.layers:
        block.mlp.up_proj = Packed(block.mlp.up_proj, bits)
    return model


def test_packed_and_quantised_weights_are_part_of_the_identity():
    eight, two = given(packed(8)).info, given(packed(2)).info
    assert eight.weights == two.weights and eight.fingerprint != two.fingerprint


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_dynamically_quantised_weights_are_part_of_the_identity():
    def quantised(seed):
        model = tiny("llama")
        torch.manual_seed(seed)
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.weight.add_(seed * torch.randn(24, 24))
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

    assert identity(quantised(0)) == identity(quantised(0))
    assert identity(quantised(0)) != identity(quantised(1))


@pytest.mark.filterwarnings("ignore")
def test_adapters_are_part_of_the_identity_with_their_scale():
    peft = pytest.importorskip("peft")

    def adapted(alpha=16):
        settings = {"r": 4, "lora_alpha": alpha, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
        torch.manual_seed(1)
        return peft.get_peft_model(tiny("llama"), peft.LoraConfig(**settings, init_lora_weights=False)).eval(), settings

    (model, settings), (strong, _) = adapted(), adapted(64)
    on = given(model).info
    assert given(strong).info.weights == on.weights and given(strong).info.fingerprint != on.fingerprint
    model.disable_adapter_layers()
    off = given(model).info
    model.enable_adapter_layers()
    assert off.fingerprint != on.fingerprint and given(model).info.fingerprint == on.fingerprint
    model.add_adapter("second", peft.LoraConfig(**settings, init_lora_weights=False))
    first = given(model).info
    model.set_adapter("second")
    assert given(model).info.weights == first.weights and given(model).info.fingerprint != first.fingerprint
    learnt = peft.get_peft_model(tiny("llama"), peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    on = given(learnt.eval()).info
    with learnt.disable_adapter():
        assert given(learnt).info.weights == on.weights and given(learnt).info.fingerprint != on.fingerprint


@pytest.mark.filterwarnings("ignore")
def test_tensor_subclasses_of_torchao_are_hashed():
    ao = pytest.importorskip("torchao.quantization")

    def quantised(seed):
        model = tiny("llama", seed)
        ao.quantize_(model, ao.Int8WeightOnlyConfig())
        return model

    assert given(quantised(0)).info.fingerprint == given(quantised(0)).info.fingerprint
    assert given(quantised(0)).info.fingerprint != given(quantised(1)).info.fingerprint


VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGE = {"image_size": 28, "patch_size": 14}


def multimodal(name):
    t = transformers
    text = {**TEXT, "num_hidden_layers": 3}
    if name == "llava":
        return t.LlavaForConditionalGeneration(
            t.LlavaConfig(text_config=t.LlamaConfig(**text), vision_config=t.CLIPVisionConfig(**VISION, **IMAGE))
        )
    if name == "mistral3":
        return t.Mistral3ForConditionalGeneration(
            t.Mistral3Config(
                text_config=t.MistralConfig(**text),
                vision_config=t.PixtralVisionConfig(**VISION, **IMAGE),
                image_token_index=5,
            )
        )
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    return t.Qwen2VLForConditionalGeneration(
        t.Qwen2VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4},
            image_token_id=5,
            video_token_id=6,
            vision_start_token_id=7,
            vision_end_token_id=8,
        )
    )


@pytest.mark.parametrize("name", ["llava", "mistral3", "qwen2_vl"])
def test_a_folder_of_a_model_that_sees_is_its_object(name, folder, tmp_path):
    torch.manual_seed(0)
    model = multimodal(name).eval()
    model.save_pretrained(tmp_path / name)
    for file in folder.glob("tokenizer*"):
        (tmp_path / name / file.name).write_bytes(file.read_bytes())
    loaded = load_model(tmp_path / name)
    assert type(loaded.model) is type(model)
    assert loaded.info.weights == load_model(model, tokenizer=loaded.tokenizer).info.weights
    assert loaded.info.admission.lens is None


def test_code_that_comes_with_a_model_does_not_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    code = (
        "import sys\nfrom exemplar_partitioning.models.load import load_model\n"
        "try: load_model(sys.argv[1])\nexcept ValueError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(folder)], input="y\n" * 9, capture_output=True, text=True, check=True
    )
    assert "--trust-remote-code" in said.stdout
    assert not (tmp_path / "ran").exists()
    with pytest.warns(UserWarning, match="code that comes with this model"), pytest.raises(EPError):
        load_model(folder, trust_remote_code=True)  # it has no class C, but now it was asked
    assert (tmp_path / "ran").exists()


def test_pointers_and_weights_alone_are_told_from_models(folder, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    (folder / "model.safetensors").write_bytes(pointer)
    with pytest.raises(DataError, match=r"model.safetensors is a Git LFS pointer.*git lfs pull"):
        load_model(folder)
    (tmp_path / "m.gguf").write_bytes(pointer)
    with pytest.raises(DataError, match=r"m\.gguf is a Git LFS pointer"):
        load_model(tmp_path / "m.gguf")
    for name in ("model.ckpt", "model.pt", "pytorch_model.bin"):
        torch.save({}, tmp_path / name)
        with pytest.raises(EPError, match=r"weights alone.*save_pretrained"):
            load_model(tmp_path / name)


def test_an_object_of_nnsight_says_what_to_pass():
    kind = type("LanguageModel", (), {"__module__": "nnsight.modeling.language"})
    with pytest.raises(EPError, match=r"of nnsight.*`._model`.*tokenizer=.*no BOS"):
        load_model(kind())


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_an_adapter_is_its_base_with_it(folder, tmp_path):
    peft = pytest.importorskip("peft")
    settings = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    adapted = peft.get_peft_model(base, peft.LoraConfig(**settings)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    loaded, ids = load_model(tmp_path / "adapter"), torch.arange(10, 20)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, adapted(ids).logits)
    assert loaded.info.fingerprint != load_model(folder).info.fingerprint
    assert outline(tmp_path / "adapter").path == loaded.architecture.path
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[min(weights)]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 missing .*lora_A"):
        load_model(tmp_path / "adapter")


@pytest.mark.packaged
def test_a_packaged_model_with_other_weights_is_refused(tmp_path, monkeypatch):
    original = packaged_model("smollm2-135m-instruct")
    copy = tmp_path / "models" / original.name
    copy.mkdir(parents=True)
    for file in original.iterdir():
        (copy / file.name).symlink_to(file)
    data = bytearray((original / "model.safetensors").read_bytes())
    data[-(1 << 20) :] = bytes(1 << 20)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").write_bytes(data)
    monkeypatch.setenv("EP_CACHE", str(tmp_path))
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(DataError, match=r"not those that were published.*Delete the folder"):
            load_model("smollm2-135m-instruct", dtype=dtype)
