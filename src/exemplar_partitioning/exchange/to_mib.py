"""MIB (causal variable localisation): a featurizer of all projections with its error term."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save as serialise

from ..folder.dictionary import StoredDictionary
from .export import copy_template

HOW = 'from ep_featurizer import featurizer  # the module is in {path}\nf = featurizer("{path}")'


def write(dictionary: StoredDictionary, folder: Path) -> None:
    """ep_featurizer.py and dictionary.safetensors."""
    copy_template("ep_featurizer.py", folder)
    tensors = {"center": dictionary.center.contiguous(), "exemplars": dictionary.exemplars.contiguous()}
    (folder / "dictionary.safetensors").write_bytes(serialise(tensors))
