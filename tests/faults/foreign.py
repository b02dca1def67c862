"""Small files in formats of others: a pickle as published with the paper, a GGUF model."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np


def published(k: int, d: int, protocol: int = 4) -> bytes:
    """A pickle of a dictionary of k regions, as the paper's package writes it."""
    names = ("ep", "ep.discovery", "ep.discovery.dictionary")
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    module = sys.modules[names[-1]]
    classes = {name: type(name, (), {"__module__": module.__name__}) for name in ("Dictionary", "Partition")}
    vars(module).update(classes)

    def instance(name: str, **fields: Any) -> Any:
        made = classes[name]()
        vars(made).update(fields)
        return made

    rng = np.random.default_rng(0)
    e_kd = rng.normal(size=(k, d)).astype(np.float32)
    e_kd /= np.linalg.norm(e_kd, axis=1, keepdims=True)
    regions = [
        instance(
            "Partition",
            member_count=int(i + 2),
            exemplar_direction=e_d,
            member_coherence=np.float64(0.5),
            source_iterations={0, 3},
            constituent_sample_indices=[i, i + 5],
            nearest=[(-0.25, 7, "another text", 2), (-0.0, 1, f"the old dog {i}", 3)],
            farthest=[(0.5, 9, "far away", 1)],
            label=None,
        )
        for i, e_d in enumerate(e_kd)
    ]
    whole = instance(
        "Dictionary",
        center=rng.normal(size=d).astype(np.float32),
        threshold=np.float32(0.5),
        merge_close=False,
        partitions=regions,
        exemplars=np.asfortranarray(e_kd),
    )
    try:
        return pickle.dumps(whole, protocol=protocol)
    finally:
        for name in names:
            del sys.modules[name]


def tiny_gguf(path: Path) -> None:
    """A Llama of one layer with random weights and a vocabulary of bytes."""
    from gguf import GGUFWriter
    from tokenizers import pre_tokenizers

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "<s>", "</s>"]
    d, ff, vocab = 16, 32, len(tokens)
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    for name, value in (("context_length", 64), ("embedding_length", d), ("block_count", 1)):
        getattr(writer, f"add_{name}")(value)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(d // 2)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (vocab - 2) + [3, 3])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(vocab - 2)
    writer.add_eos_token_id(vocab - 1)
    shapes = {
        "token_embd": (vocab, d),
        "output_norm": (d,),
        "output": (vocab, d),
        "blk.0.attn_norm": (d,),
        "blk.0.ffn_norm": (d,),
        "blk.0.attn_q": (d, d),
        "blk.0.attn_k": (d, d),
        "blk.0.attn_v": (d, d),
        "blk.0.attn_output": (d, d),
        "blk.0.ffn_gate": (ff, d),
        "blk.0.ffn_up": (ff, d),
        "blk.0.ffn_down": (d, ff),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
