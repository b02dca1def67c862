"""Every causal language model class of the installed transformers, as a tiny random model."""

from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

VOCAB, WIDTH, BLOCKS = 96, 32, 4

# What is set where a configuration has it, whatever the family calls it.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "n_inner": 64,
    "ffn_dim": 64,
    "decoder_layers": BLOCKS,
    "decoder_ffn_dim": 64,
    "decoder_attention_heads": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_shared_experts": 1,
    "n_group": 1,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 8,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 8,
    "state_size": 8,
    "mamba_d_state": 8,
    "linear_num_heads": 4,
    "linear_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "sliding_window": 64,
    "rotary_dim": 4,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 64,
    "encoder_hash_byte_group_vocab": VOCAB,
}
_EVEN_IF_NONE = ("head_dim", "num_key_value_heads", "n_routed_experts", "num_experts_per_tok", "n_shared_experts")
_QWEN4_EXP = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 64,
    "indexer_compress_ratio": 2,
    "hc_lowrank": 4,
}
# What a family needs besides, by the type of its configuration.
_BESIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3], "mamba_n_heads": 4, "mamba_d_head": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 4, "mamba_d_head": 16},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "gemma4": {"num_kv_shared_layers": 0},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "bailing_hybrid": {"layer_group_size": 2},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "gemma4_assistant": {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * BLOCKS,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "d_model": WIDTH,
        "n_heads": 4,
        "n_layers": BLOCKS,
        "max_seq_len": 128,
    },
    "qwen4_exp": _QWEN4_EXP,
    "qwen4_exp_text": _QWEN4_EXP,
    "zamba": {"layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 2, "attention_head_dim": 16},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 4},
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 16],
        "attention_head_size": 8,
        "attn_layers": ["local", "lsh"] * 2,
    },
    "xlnet": {"d_head": 8},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
}


# Families that are not tried: what a tiny one would need.
UNTRIED = {
    "gemma3n": "it needs the package timm to be built at all",
    "gemma4_assistant": "it drafts for another model, whose keys, values and embeddings it is given",
    "gemma4_unified_assistant": "it drafts for another model, whose keys, values and embeddings it is given",
}


def classes() -> dict[str, tuple[Any, Any]]:
    """Configuration and model class of every family, by the type of the configuration."""
    return {config.model_type: (config, model) for config, model in MODEL_FOR_CAUSAL_LM_MAPPING.items()}


def small(model_type: str) -> PreTrainedModel:
    """A model of that family in float32, in eval mode; weights large enough that every block matters."""
    config_class, model_class = classes()[model_type]
    config_class = model_class.config_class or config_class
    torch.manual_seed(0)
    model = model_class(_config(config_class, _BESIDES.get(model_type, {}))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _config(config_class: Any, besides: dict[str, Any]) -> Any:
    default = config_class()
    text = default.get_text_config(decoder=True)
    sizes = {
        name: type(part)(**_sizes(part) | (besides if part is text else {}))
        for name in config_class.sub_configs
        if isinstance(part := getattr(default, name, None), PretrainedConfig)
    }
    if text is default or not sizes:  # the second: of an encoder and decoder in one
        sizes |= _sizes(default) | besides
    return config_class(**sizes)


def _sizes(default: Any) -> dict[str, Any]:
    fields, sizes = default.to_dict(), {}
    for name, value in _SIZES.items():
        field = default.attribute_map.get(name, name)
        known = fields.get(field) is not None or (field in fields and name in _EVEN_IF_NONE)
        if known and not isinstance(getattr(type(default), field, None), property):
            sizes[name] = value
    return sizes | ({"num_key_value_heads": 4, "head_dim": 8} if "kv_lora_rank" in sizes else {})
