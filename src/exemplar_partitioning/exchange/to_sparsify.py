"""EleutherAI's sparsify, and delphi, which reads its folders: a TopK coder with k = 1."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save as serialise

from ..files import to_json
from ..folder.dictionary import StoredDictionary

HOW = 'from sparsify import SparseCoder\nsae = SparseCoder.load_from_disk("{path}")'


def write(dictionary: StoredDictionary, folder: Path) -> None:
    """cfg.json and sae.safetensors."""
    config = {
        "activation": "topk",
        "d_in": dictionary.d_model,
        "expansion_factor": 32,  # of no effect beside num_latents
        "k": 1,
        "multi_topk": False,
        "normalize_decoder": True,
        "num_latents": dictionary.k,
        "skip_connection": False,
        "transcode": False,
    }
    tensors = {
        "encoder.weight": dictionary.exemplars.contiguous(),
        "encoder.bias": torch.zeros(dictionary.k),
        "W_dec": dictionary.exemplars.clone(),
        "b_dec": dictionary.center.contiguous(),
    }
    (folder / "cfg.json").write_bytes(to_json(config))
    (folder / "sae.safetensors").write_bytes(serialise(tensors))
