"""Causal language models: loading, naming places in the residual stream, capturing and changing activations there.

Light to import: transformers is imported when a model is loaded, not before.
"""
