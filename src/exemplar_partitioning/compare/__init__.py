"""Comparing dictionaries: in one space, across layers, models and checkpoints, across runs and resolutions."""
