"""A tiny model with a real tokenizer, saved as a user would have it, and some text for it."""

import io
import os
import signal
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from exemplar_partitioning.cli import main

# One thread: on a busy machine, threads that wait for each other make small matrices a hundred times slower.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands, kernels and workers that tests start
# In the background of a shell it is ignored, and so it would be in the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

WORDS = ["the", "a", "old", "grey", "dog", "fox", "king", "river", "stone", "walks", "sings", "sees", "knows", "under"]


def sentences(count: int, seed: int) -> list[str]:
    """Documents of random words: short and long ones, so that windows have all lengths."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=int(n))) + "." for n in rng.integers(3, 60, size=count)]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folder of a random Llama of 3 layers, d_model 24, with a byte-level BPE tokenizer."""
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


def tiny_llama(folder):
    """Write such a model into a new folder; returns that."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(sentences(200, seed=9), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=128
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=144,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def roomy_folder(tiny_folder, tmp_path_factory):
    """The same weights with 256 positions: room for windows of the default size and a BOS."""
    import json
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("roomy") / tiny_folder.name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """A file of 600 documents, one JSON object a line."""
    import json

    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(600, seed=1)))
    return path


# Files that take longest. They begin, so that no core waits for one of them at the end.
LONGEST = ("test_ray.py", "test_pages.py", "test_notebooks.py", "test_build.py", "test_cli.py", "test_probes.py")


@pytest.hookimpl(optionalhook=True)  # environments of peers lack xdist
def pytest_xdist_auto_num_workers(config):
    """One more than there are cores: some tests wait for a browser, a server or a cluster."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def tree(folder):
    """Every file below a folder with its bytes, but for the log that holds times and the options that hold its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("build.json", "run.yaml")
    }


@pytest.fixture
def ep_main(monkeypatch, capsys):
    """The command as `ep` runs it, into a pipe: (exit code, standard output, standard error)."""

    def run(*arguments, columns=100, typed=""):
        monkeypatch.setattr(sys, "argv", ["ep", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        monkeypatch.setenv("COLUMNS", str(columns))
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        return code or 0, *capsys.readouterr()

    return run
