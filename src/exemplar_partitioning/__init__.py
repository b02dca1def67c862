"""Exemplar Partitioning: feature dictionaries for language-model activations, without training.

    import exemplar_partitioning as ep

    ep.build("smollm2-135m-instruct", out="dictionaries/smollm2")
    d = ep.load("dictionaries/smollm2", percentile=2)
    ids, distances = d.assign(activations)

The public names are those of `__init__.pyi`, each imported when first used, so importing the package costs next to
nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
