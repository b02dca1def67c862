"""Comparing dictionaries: in one space, across layers, models and checkpoints, across runs and resolutions."""

from .common import CommonTokens, common_tokens, places
from .matching import Matching, match
from .structure import Drift, Structure, drift, structure
from .transport import transport

__all__ = [
    "CommonTokens",
    "Drift",
    "Matching",
    "Structure",
    "common_tokens",
    "drift",
    "match",
    "places",
    "structure",
    "transport",
]
