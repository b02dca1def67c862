"""Causal language models: loading, naming places in the residual stream, capturing activations there.

Light to import: transformers is imported when a model is loaded, not before.
"""

from .architecture import Architecture
from .capture import Extractor
from .load import LoadedModel, ModelInfo, bos_id, load_model, special_token_ids
from .packaged import PACKAGED_MODELS, PackagedModel, packaged_model
from .sites import Point, Site, resolve_sites

__all__ = [
    "PACKAGED_MODELS",
    "Architecture",
    "Extractor",
    "LoadedModel",
    "ModelInfo",
    "PackagedModel",
    "Point",
    "Site",
    "bos_id",
    "load_model",
    "packaged_model",
    "resolve_sites",
    "special_token_ids",
]
