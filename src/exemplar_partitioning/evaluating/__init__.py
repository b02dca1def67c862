"""How well codes rebuild activations, and what the model makes of the rebuilt ones: docs/evaluation.md."""
