"""Exemplar Partitioning: feature dictionaries for language-model activations, without training.

    import exemplar_partitioning as ep

    ep.build("smollm2-135m-instruct", out="dictionaries/smollm2")
    d = ep.load("dictionaries/smollm2", percentile=2)
    ids, distances = d.assign(activations)

Names are imported when first used, so importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .annotation import Annotation, annotate
    from .builder import BuildResult, build
    from .calibration import Calibration, calibrate
    from .compare import (
        Drift,
        Matching,
        RoundTrip,
        Structure,
        Tree,
        combine,
        difference,
        drift,
        intersection,
        match,
        merge,
        roundtrip,
        structure,
        transport,
        tree,
        union,
    )
    from .dictionary import Dictionary
    from .errors import DataError, EPError, Interrupted, ResourceError
    from .estimator import ExemplarPartition
    from .hub import pull, push
    from .importing import SparseAutoencoder, import_published, load_sae
    from .interventions import Gate, ablate, ablate_everywhere, bake, clamp, project, steer, swap
    from .leader import LeaderClustering
    from .localisation import localise
    from .models.load import load_model
    from .ood import Detector
    from .statistics import MemberStatistics, unseen_mass
    from .store import StoredDictionary, load, save

__all__ = [
    "Annotation",
    "BuildResult",
    "Calibration",
    "DataError",
    "Detector",
    "Dictionary",
    "Drift",
    "EPError",
    "ExemplarPartition",
    "Gate",
    "Interrupted",
    "LeaderClustering",
    "Matching",
    "MemberStatistics",
    "ResourceError",
    "RoundTrip",
    "SparseAutoencoder",
    "StoredDictionary",
    "Structure",
    "Tree",
    "ablate",
    "ablate_everywhere",
    "annotate",
    "bake",
    "build",
    "calibrate",
    "clamp",
    "combine",
    "difference",
    "drift",
    "import_published",
    "intersection",
    "load",
    "load_model",
    "load_sae",
    "localise",
    "match",
    "merge",
    "project",
    "pull",
    "push",
    "roundtrip",
    "save",
    "steer",
    "structure",
    "swap",
    "transport",
    "tree",
    "union",
    "unseen_mass",
]

_HOME = {
    "Annotation": "annotation",
    "BuildResult": "builder",
    "Calibration": "calibration",
    "DataError": "errors",
    "Detector": "ood",
    "Dictionary": "dictionary",
    "Drift": "compare",
    "EPError": "errors",
    "ExemplarPartition": "estimator",
    "Gate": "interventions",
    "Interrupted": "errors",
    "LeaderClustering": "leader",
    "Matching": "compare",
    "MemberStatistics": "statistics",
    "ResourceError": "errors",
    "RoundTrip": "compare",
    "SparseAutoencoder": "importing",
    "StoredDictionary": "store",
    "Structure": "compare",
    "Tree": "compare",
    "ablate": "interventions",
    "ablate_everywhere": "interventions",
    "annotate": "annotation",
    "bake": "interventions",
    "build": "builder",
    "calibrate": "calibration",
    "clamp": "interventions",
    "combine": "compare",
    "difference": "compare",
    "drift": "compare",
    "import_published": "importing",
    "intersection": "compare",
    "load": "store",
    "load_model": "models.load",
    "load_sae": "importing",
    "localise": "localisation",
    "match": "compare",
    "merge": "compare",
    "project": "interventions",
    "pull": "hub",
    "push": "hub",
    "roundtrip": "compare",
    "save": "store",
    "steer": "interventions",
    "structure": "compare",
    "swap": "interventions",
    "transport": "compare",
    "tree": "compare",
    "union": "compare",
    "unseen_mass": "statistics",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
