"""Comparing dictionaries: in one space, across layers, models and checkpoints, across runs and resolutions."""

from .matching import Matching, match

__all__ = ["Matching", "match"]
