"""Comparing dictionaries: in one space, across layers, models and checkpoints, across runs and resolutions."""

from .algebra import Merged, combine, coverage, difference, intersection, merge, union
from .common import CommonTokens, common_tokens, places
from .matching import Matching, match
from .roundtrip import RoundTrip, roundtrip
from .structure import Drift, Structure, drift, structure
from .transport import transport
from .tree import Tree, neighbour_graph, path, paths, tree

__all__ = [
    "CommonTokens",
    "Drift",
    "Matching",
    "Merged",
    "RoundTrip",
    "Structure",
    "Tree",
    "combine",
    "common_tokens",
    "coverage",
    "difference",
    "drift",
    "intersection",
    "match",
    "merge",
    "neighbour_graph",
    "path",
    "paths",
    "places",
    "roundtrip",
    "structure",
    "transport",
    "tree",
    "union",
]
