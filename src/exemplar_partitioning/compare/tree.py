"""Dictionaries of one stream at several percentiles as a tree: parents, children, splits, and paths across regions.

A region's parent is the region of the next coarser dictionary that its exemplar lies in, as any activation would (the
nearest exemplar); its children are the finer ones whose parent it is. Relatives farther away are parents of parents
and children of children: each region has one ancestor on every coarser level. Nothing forces the levels to nest: how
far they do is told beside chance.

Shapes: levels run from coarse to fine; k_i regions on level i.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..folder.html import facts
from ..models.identity import same_model
from .neighbours import nearest_others
from .progress import Tell, ignore

NEIGHBOURS = 3  # of the graph that paths run on


@dataclass(frozen=True, eq=False)
class Tree:
    """Levels from coarse to fine.

    Attributes:
        parent: for each level but the first, the parent of each region on the level before.
        identity: for each level but the last, the region of the next level with the same exemplar, -1 if there is none.
    """

    levels: list[StoredDictionary]
    parent: list[Int64[np.ndarray, " k"]]
    identity: list[Int64[np.ndarray, " k"]]

    def __repr__(self) -> str:
        return f"Tree({', '.join(f'{level.k:,}' for level in self.levels)} regions)"

    def _repr_html_(self) -> str:
        kept = [f"; {int((identity >= 0).sum()):,} exemplars return in the next" for identity in self.identity]
        names = [f"percentile {level.config.calibration.percentile:g}" for level in self.levels]
        said = [f"{level.k:,} regions, theta {level.threshold:.3f}" for level in self.levels]
        return facts(repr(self), dict(zip(names, map("".join, zip(said, [*kept, ""], strict=True)), strict=True)))

    def children(self, level: int, region: int) -> list[int]:
        """Regions of the next level whose parent this is; none on the last level.

        Args:
            level: of the region; 0 is the coarsest.
            region: its id.

        Returns:
            Ids on the next level.

        Raises:
            EPError: no such region.
        """
        self.levels[level].check_region(region)
        return np.flatnonzero(self.parent[level] == region).tolist() if level < len(self.parent) else []

    def ancestors(self, level: int, region: int) -> list[int]:
        """Parent, its parent and so on, up to the coarsest level.

        Args:
            level: of the region; 0 is the coarsest.
            region: its id.

        Returns:
            An id a level, nearest first.

        Raises:
            EPError: no such region.
        """
        self.levels[level].check_region(region)
        ancestors = []
        for parents in reversed(self.parent[:level]):
            region = int(parents[region])
            ancestors.append(region)
        return ancestors

    def relatives(self, level: int, region: int, other: int) -> list[int]:
        """The ancestor of a region on a coarser level, or its descendants on a finer one.

        Args:
            level: of the region; 0 is the coarsest.
            region: its id.
            other: the level to look on.

        Returns:
            Ids on that level.

        Raises:
            EPError: no such region.
        """
        if other < level:
            return [self.ancestors(level, region)[level - 1 - other]]
        self.levels[level].check_region(region)
        ids = np.arange(self.levels[other].k)
        for parents in reversed(self.parent[level:other]):
            ids = parents[ids]
        return np.flatnonzero(ids == region).tolist()

    def level(self, percentile: float) -> int:
        """The level of a percentile; EPError, naming those there are, if there is none.

        Args:
            percentile: of one of the dictionaries.

        Returns:
            Its level; 0 is the coarsest.

        Raises:
            EPError: there is none.
        """
        percentiles = [d.config.calibration.percentile for d in self.levels]
        if percentile not in percentiles:
            raise EPError(
                f"no level at percentile {percentile:g}; there are {', '.join(f'{p:g}' for p in percentiles)}"
            )
        return percentiles.index(percentile)

    @cached_property
    def graphs(self) -> list[csr_array]:
        """For each level, the graph of its regions' nearest neighbours."""
        return [neighbour_graph(d.exemplars.numpy()) for d in self.levels]

    def summary(self) -> list[dict[str, Any]]:
        """A row per level: how its regions divide on the next, and whether two steps up agree with one.

        split: share of regions with two or more children.  childless: with none.  same_exemplar: share whose exemplar
        the next level has too.  nested: share of regions whose parent's parent is the region, two levels up, that
        their own exemplar lies in; nested_chance: the same with parents' parents drawn at their frequency.
        """
        rows = []
        for i, d in enumerate(self.levels):
            row: dict[str, Any] = {
                "percentile": d.config.calibration.percentile,
                "threshold": d.threshold,
                "k": d.k,
                **dict.fromkeys(("split", "childless", "same_exemplar", "nested", "nested_chance")),
            }
            if i < len(self.parent):
                count = np.bincount(self.parent[i], minlength=d.k)
                row["split"], row["childless"] = float((count > 1).mean()), float((count == 0).mean())
                row["same_exemplar"] = float((self.identity[i] >= 0).mean())
            if i >= 2:
                above, two_up = self.parent[i - 2], self.levels[i - 2]
                direct = two_up.assign_directions(d.exemplars.numpy())[0]
                steps = above[self.parent[i - 1]]
                shares = [np.bincount(ids, minlength=two_up.k) / d.k for ids in (direct, steps)]
                row["nested"], row["nested_chance"] = float((direct == steps).mean()), float(shares[0] @ shares[1])
            rows.append(row)
        return rows


def tree(dictionaries: list[StoredDictionary], *, tell: Tell = ignore) -> Tree:
    """The tree of dictionaries of one site and stream.

    Args:
        dictionaries: two or more percentiles, in any order.
        tell: called after each level with the share of them that is done; what it raises ends the work.

    Returns:
        Levels from coarse to fine, and each region's parent.

    Raises:
        EPError: fewer than two, or another model, site or centre.
    """
    if len(dictionaries) < 2:
        raise EPError(f"a tree takes dictionaries of at least two percentiles; got {len(dictionaries)}")
    levels = sorted(dictionaries, key=lambda d: -d.threshold)
    first = levels[0]
    for other in levels[1:]:
        first_config, config = first.config, other.config
        if not same_model(first_config.model, config.model) or first_config.site.name != config.site.name:
            raise EPError(f"{first.path} and {other.path} are of different models or sites; a tree is of one stream")
        if not torch.equal(first.center, other.center):
            raise EPError(f"{first.path} and {other.path} have different centres; a tree is of one stream")
    steps = list(pairwise(levels))
    identity = [_same_exemplar(coarse, fine) for coarse, fine in steps]
    parents = []
    for at, ((coarse, fine), same_k) in enumerate(zip(steps, identity, strict=True)):
        parents.append(_parents(coarse, fine, same_k))
        tell((at + 1) / len(steps))
    return Tree(levels, parents, identity)


def _parents(
    coarse: StoredDictionary, fine: StoredDictionary, identity_k: Int64[np.ndarray, " k"]
) -> Int64[np.ndarray, " l"]:
    """The region that each finer exemplar lies in: that of its own, if the coarser dictionary has it too."""
    parent_l = np.full(fine.k, -1)
    kept = np.flatnonzero(identity_k >= 0)
    parent_l[identity_k[kept]] = kept
    new = np.flatnonzero(parent_l < 0)
    parent_l[new] = coarse.assign_directions(fine.exemplars.numpy()[new])[0]
    return parent_l


def neighbour_graph(exemplars_kd: Float32[np.ndarray, "k d"]) -> csr_array:
    """The graph that paths run on, [k, k]: an edge from each region to its three nearest."""
    k, near_km = len(exemplars_kd), nearest_others(exemplars_kd, NEIGHBOURS)[0]
    ones = np.ones(near_km.size)
    return csr_array((ones, (np.repeat(np.arange(k), near_km.shape[1]), near_km.ravel())), shape=(k, k))


def path(graph: csr_array, start: int, end: int) -> list[int]:
    """Regions on a shortest path from one to another in a neighbour graph; [] if there is none.

    Edges hold either way, and all count as one step.
    """
    _, before = breadth_first_order(graph, start, directed=False)
    steps = [end]
    while steps[-1] != start:
        if before[steps[-1]] < 0:
            return []
        steps.append(int(before[steps[-1]]))
    return steps[::-1]


def paths(tree: Tree, level: int, start: int, end: int) -> list[list[int]]:
    """The path between two regions of a level on every level, ends being the same exemplars or the nearest."""
    here = tree.levels[level]
    here.check_region(start)
    here.check_region(end)
    ends_2d = here.exemplars.numpy()[[start, end]]
    ends = [other.assign_directions(ends_2d)[0].tolist() for other in tree.levels]
    return [path(graph, a, b) for graph, (a, b) in zip(tree.graphs, ends, strict=True)]


def _same_exemplar(coarse: StoredDictionary, fine: StoredDictionary) -> Int64[np.ndarray, " k"]:
    by_id = {content: region for region, content in enumerate(fine.regions["content_id"].to_pylist())}
    return np.array([by_id.get(content, -1) for content in coarse.regions["content_id"].to_pylist()], np.int64)
