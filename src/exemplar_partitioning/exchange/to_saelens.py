"""SAELens: a dictionary is a TopK autoencoder with k = 1, or a matching-pursuit one, whose decoder are its directions.

Their `encode` is `Dictionary.encode` with readout "topk" or `Dictionary.decompose` with method "mp". What needs a
division by |x - c| (cosine, binary, theta) has no stock architecture there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from ..core.choices import Basis
from ..files import to_json
from ..folder.annotation import BIN_WIDTH
from ..folder.dictionary import StoredDictionary

HOW = 'from sae_lens import SAE\nsae = SAE.load_from_disk("{path}")'

# The form of the files; a loader takes lower versions, or none, for a form before 6 and rewrites them.
_VERSION = "6.54.12"


def write(
    dictionary: StoredDictionary, folder: Path, *, basis: Basis = "exemplar", pursuit_k: int | None = None
) -> None:
    """cfg.json and sae_weights.safetensors; of an annotated dictionary also sparsity.safetensors.

    With so many steps, a matching pursuit autoencoder; else TopK with k = 1.
    """
    weights, facts = tensors(dictionary, basis), config(dictionary)
    if pursuit_k is not None:
        del weights["W_enc"], weights["b_enc"], facts["k"], facts["rescale_acts_by_decoder_norm"]
        facts |= {
            "architecture": "matching_pursuit",
            "max_iterations": pursuit_k,
            "residual_threshold": 0.0,
            "stop_on_duplicate_support": False,  # a direction may be picked again
        }
    (folder / "cfg.json").write_bytes(to_json(facts))
    (folder / "sae_weights.safetensors").write_bytes(serialise(weights))
    if pursuit_k is None and basis == "exemplar" and dictionary.annotated:
        (folder / "sparsity.safetensors").write_bytes(serialise({"sparsity": log_frequency(dictionary)}))


def tensors(dictionary: StoredDictionary, basis: Basis = "exemplar") -> dict[str, Tensor]:
    """W_enc [d, k], b_enc [k], W_dec [k, d], b_dec [d], float32."""
    e_kd = dictionary.exemplars if basis == "exemplar" else torch.from_numpy(dictionary.mean_directions)
    return {
        "W_enc": e_kd.T.contiguous(),
        "b_enc": torch.zeros(dictionary.k),
        "W_dec": e_kd.contiguous(),
        "b_dec": dictionary.center.contiguous(),
    }


def config(dictionary: StoredDictionary) -> dict[str, Any]:
    """cfg.json; what is ours stands in its metadata under names with `ep_`."""
    record = dictionary.config
    return {
        "architecture": "topk",
        "k": 1,
        "d_in": dictionary.d_model,
        "d_sae": dictionary.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if record.site.name.startswith("z.") else "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {
            "sae_lens_version": _VERSION,
            "sae_lens_training_version": None,
            "model_name": record.model.id,
            "model_class_name": "HookedTransformer",
            "hook_name": record.site.transformer_lens or record.site.name,
            "hf_hook_name": record.site.module_path,
            "hook_head_index": None,
            "prepend_bos": record.text.prepend_bos,
            "context_size": record.text.windowing.context_size + bool(record.text.prepend_bos),
            "dataset_path": record.text.source,
            "exclude_special_tokens": True,
            "neuronpedia_id": None,
            "seqpos_slice": [None],
            "ep_content_id": dictionary.content_id,
            "ep_threshold": dictionary.threshold,
            "ep_percentile": record.calibration.percentile,
            "ep_model_fingerprint": record.model.fingerprint,
            "ep_model_dtype": record.model.dtype,
        },
    }


def log_frequency(dictionary: StoredDictionary) -> Tensor:
    """log10 of how often each region's feature is above 0 [k], with 1e-10 for never: members at a distance below 1."""
    firing_k = torch.from_numpy(dictionary.annotation.histogram[:, : round(1 / BIN_WIDTH)].sum(axis=1)).double()
    return torch.log10(firing_k / max(1, dictionary.annotation.record.n_activations) + 1e-10).float()
