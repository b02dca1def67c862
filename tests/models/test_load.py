"""Loading: by path, name and object; who the model is; and every way it can be the wrong thing."""

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from exemplar_partitioning.errors import DataError, EPError, ResourceError
from exemplar_partitioning.models.identity import special_token_ids, tokenizer_hash, weights_hash
from exemplar_partitioning.models.load import bos_id, load_model, multiplies_rightly, pick_device
from tiny_models import VOCAB, tiny


def word_tokenizer(**specials: str) -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(VOCAB - 4))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny("llama").save_pretrained(tmp_path / "tiny")
    word_tokenizer(**SPECIALS).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def run_python(code: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_folder_loads_ready_to_run_and_tells_who_it_is(folder):
    loaded = load_model(str(folder), device="cpu")
    info = loaded.info
    assert (info.id, info.revision, info.architecture) == (folder.name, None, "LlamaForCausalLM")
    assert (info.d_model, info.n_layers, info.dtype, info.vocab_size) == (24, 4, "float32", VOCAB)
    assert info.license is None
    assert not loaded.model.training
    assert loaded.tokenizer("w1 w2", add_special_tokens=False).input_ids == [5, 6]
    assert bos_id(loaded) == 1
    again = load_model(folder, device="cpu")
    assert again.info == info


def test_loading_is_silent_and_leaves_the_settings_of_transformers(folder, capfd):
    transformers_logging.enable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled()
    assert transformers_logging.get_verbosity() == verbosity


def test_fingerprint_is_the_hash_it_says_it_is():
    model = tiny("llama")
    digest = hashlib.sha256()
    parameters = dict(model.named_parameters())
    for name in sorted(parameters):
        tensor = parameters[name].detach()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode() + tensor.numpy().tobytes())
    assert weights_hash(model) == digest.hexdigest()


def test_fingerprint_sees_any_weight_and_the_dtype_but_not_the_copy():
    model = tiny("gemma3")
    original = weights_hash(model)
    assert weights_hash(tiny("gemma3")) == original
    weight = model.model.layers[3].mlp.up_proj.weight
    with torch.no_grad():
        weight[-1, -1] = torch.nextafter(weight[-1, -1], torch.tensor(10.0))
    assert weights_hash(model) != original
    assert len({weights_hash(tiny("llama").to(t)) for t in (torch.float32, torch.bfloat16, torch.float16)}) == 3


def test_tokenizer_hash_sees_what_decides_ids_and_nothing_else():
    original = tokenizer_hash(word_tokenizer(**SPECIALS))
    used = word_tokenizer(**SPECIALS)
    used(["w1", "w1 w2"], padding=True, truncation=True, max_length=8)  # leaves its mark on the backend
    assert tokenizer_hash(used) == original
    assert tokenizer_hash(word_tokenizer(**{**SPECIALS, "bos_token": "w7"})) != original
    other = word_tokenizer(**SPECIALS)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert tokenizer_hash(other) != original


def test_an_object_is_used_as_it_is():
    model, tokenizer = tiny("qwen2").to(torch.bfloat16), word_tokenizer(**SPECIALS)
    loaded = load_model(model, tokenizer=tokenizer)
    assert loaded.model is model
    assert loaded.tokenizer is tokenizer
    assert loaded.info.dtype == "bfloat16"
    with pytest.raises(EPError, match="used as it is"):
        load_model(model, tokenizer=tokenizer, dtype="float32")


def test_an_object_without_a_tokenizer_is_refused(folder):
    with pytest.raises(EPError, match="no tokenizer was given"):
        load_model(tiny("llama"))
    elsewhere = tiny("llama")
    elsewhere.name_or_path = str(folder.parent)
    with pytest.raises(EPError, match="Pass tokenizer="):
        load_model(elsewhere)
    model = load_model(folder, device="cpu").model
    assert load_model(model).tokenizer.bos_token_id == 1  # found by its name_or_path


def test_dtypes(folder):
    assert load_model(folder, dtype="bfloat16", device="cpu").info.dtype == "bfloat16"
    load_model(folder, device="cpu").model.to(torch.bfloat16).save_pretrained(folder)
    assert load_model(folder, device="cpu").info.dtype == "float32"  # auto, on a CPU
    with pytest.raises(EPError, match="unknown dtype 'int7'"):
        load_model(folder, dtype="int7")


def test_special_tokens_are_known_by_id():
    tokenizer = word_tokenizer(**SPECIALS)
    assert special_token_ids(tokenizer) == {0, 1, 2, 3}
    tokenizer.add_special_tokens({"additional_special_tokens": ["<role>"]})
    tokenizer.add_tokens(["plain"])
    assert special_token_ids(tokenizer) == {0, 1, 2, 3, tokenizer.convert_tokens_to_ids("<role>")}


def test_windows_start_with_bos_else_with_eos():
    model = tiny("llama")
    assert bos_id(load_model(model, tokenizer=word_tokenizer(bos_token="w3"))) == 7
    assert bos_id(load_model(model, tokenizer=word_tokenizer())) == 1  # from the configuration
    model.config.bos_token_id = None
    assert bos_id(load_model(model, tokenizer=word_tokenizer(eos_token="w4"))) == 8
    model.config.eos_token_id = [2, 5]
    assert bos_id(load_model(model, tokenizer=word_tokenizer())) == 2
    model.config.eos_token_id = None
    with pytest.raises(EPError, match="neither a BOS nor an EOS"):
        bos_id(load_model(model, tokenizer=word_tokenizer()))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "missing.gguf", "a b", "too/many/parts"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(EPError, match=r"there is no model at.*smollm2-135m-instruct"):
        load_model(name)


def test_damaged_and_foreign_files(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty cannot be loaded"):
        load_model(tmp_path / "empty")
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"not a model" * 100)
    with pytest.raises(DataError, match=r"junk\.gguf cannot be read as a GGUF"):
        load_model(junk)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="tiny cannot be loaded as a causal language model"):
        load_model(folder)


def test_a_revision_is_for_the_hub(folder):
    with pytest.raises(EPError, match="only makes sense for a hub id"):
        load_model(str(folder), revision="main")
    with pytest.raises(EPError, match="only makes sense for a hub id"):
        load_model("smollm2-135m-instruct", revision="main")


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(EPError, match="unknown device 'abacus'"):
        pick_device("abacus")
    with pytest.raises(ResourceError, match="CUDA devices here"):
        pick_device(f"cuda:{torch.cuda.device_count()}")
    if not torch.backends.mps.is_available():
        with pytest.raises(ResourceError, match="no MPS here"):
            pick_device("mps")
    assert multiplies_rightly(torch.device("cpu"))


def test_a_hub_id_out_of_reach_names_what_needs_no_hub(tmp_path):
    said = run_python(
        "import exemplar_partitioning as m\n"
        "from exemplar_partitioning.errors import ResourceError\n"
        "try: m.load_model('someone/some-model', revision='v1')\n"
        "except ResourceError as error: print(error)",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path),
    )
    for part in ("someone/some-model", "revision 'v1'", "smollm2-135m-instruct", "gemma-3-270m", ".gguf"):
        assert part in said


def test_importing_is_light():
    loaded = run_python("import sys, exemplar_partitioning.models; print(*sys.modules)").split()
    assert not {"torch", "transformers", "gguf", "huggingface_hub", "filelock"} & set(loaded)


def test_an_adapter_is_a_folder_of_peft(tiny_folder, tmp_path):
    import importlib.util

    with pytest.raises(EPError, match=r"there is no adapter in .*adapter_config.json"):
        load_model(str(tiny_folder), adapter=tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": null, "peft_type": "LORA"}')
    with pytest.raises(EPError, match="does not say of which model"):
        load_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LO')
    with pytest.raises(DataError, match=r"damaged or half written.*as PEFT's"):
        load_model(str(tiny_folder), adapter=tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere", "peft_type": "LORA"}')
    if importlib.util.find_spec("peft") is None:
        with pytest.raises(EPError, match="pip install peft"):
            load_model(str(tiny_folder), adapter=tmp_path)


def test_a_folder_of_a_state_dict_says_how_to_convert_it(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(2)}}, tmp_path / "last.ckpt")
    for model in (tmp_path, tmp_path / "last.ckpt"):
        with pytest.raises(EPError, match=r"holds weights alone.*save_pretrained"):
            load_model(str(model))


def test_a_tokenizer_may_lie_elsewhere(tiny_folder):
    own = load_model(str(tiny_folder))
    other = load_model(str(tiny_folder), tokenizer=str(tiny_folder))
    assert other.info.tokenizer_hash == own.info.tokenizer_hash
