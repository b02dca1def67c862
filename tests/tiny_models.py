"""Tiny causal language models with random weights, one per family of blocks the extractor must understand."""

import numpy as np
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCAB = 97
N_LAYERS = 4
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _llama():
    return LlamaForCausalLM(LlamaConfig(**_COMMON, num_key_value_heads=1))


def _qwen2():
    return Qwen2ForCausalLM(Qwen2Config(**_COMMON, num_key_value_heads=1))


def _gemma3():
    # A sliding window shorter than the test's windows, and both kinds of attention.
    config = Gemma3TextConfig(
        **_COMMON,
        num_key_value_heads=1,
        head_dim=12,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    )
    return Gemma3ForCausalLM(config)


def _gpt2():
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=24, n_layer=N_LAYERS, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config)


def _gpt_neox():
    return GPTNeoXForCausalLM(GPTNeoXConfig(**_COMMON))


FAMILIES = {"llama": _llama, "gemma3": _gemma3, "qwen2": _qwen2, "gpt2": _gpt2, "gpt_neox": _gpt_neox}


def tiny(family: str, seed: int = 0) -> torch.nn.Module:
    """A model of that family in float32, in eval mode; weights large enough that every block matters."""
    torch.manual_seed(seed)
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def random_windows(count: int, seed: int = 0, longest: int = 20) -> list[np.ndarray]:
    """Windows of random ids and of unequal lengths from 1 to `longest`."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, size=int(n)) for n in rng.integers(1, longest + 1, size=count)]
