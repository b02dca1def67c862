"""AxBench: a model class that chooses a region for every concept, as a module to put beside its others."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save as serialise

from ..folder.dictionary import StoredDictionary
from .export import copy_template

HOW = """cp {path}/* axbench/axbench/models/
# in axbench/axbench/__init__.py
from .models.ep_axbench import ExemplarPartition"""


def write(dictionary: StoredDictionary, folder: Path) -> None:
    """ep_axbench.py and ep_dictionary.safetensors."""
    copy_template("ep_axbench.py", folder)
    tensors = {
        "center": dictionary.center.contiguous(),
        "exemplars": dictionary.exemplars.contiguous(),
        "typical_norm": torch.tensor(dictionary.typical_norm),
    }
    (folder / "ep_dictionary.safetensors").write_bytes(serialise(tensors))
