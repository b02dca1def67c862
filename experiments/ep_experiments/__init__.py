"""Experiments: claims about regions put to the test on real models, each with its controls. Nothing imports them."""
