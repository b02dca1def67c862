"""The levels of one site from coarse to fine, as the page of the resolution tree shows them.

Shapes: k_i regions on level i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...compare.tree import Tree, paths
from . import views
from .library import View


@dataclass(frozen=True, eq=False)
class Grown:
    """A tree, its summary as `Tree.summary` gives it, and the dictionaries on show that are its levels."""

    views: list[View]
    tree: Tree
    summary: list[dict[str, Any]]

    def level(self, view: View) -> int:
        """The level that a dictionary is."""
        return [each.key for each in self.views].index(view.key)


def overview(g: Grown, *, offset: int, limit: int) -> dict[str, Any]:
    """How regions divide from level to level, and the regions of the coarsest."""
    rows = [
        row | {"key": view.key, "size_is": views.size_is(view), "largest": int(view.sizes_k.max(initial=0))}
        for row, view in zip(g.summary, g.views, strict=True)
    ]
    return {
        "model": g.views[0].dictionary.config.model.id,
        "site": g.views[0].dictionary.config.site.name,
        "levels": rows,
        **_page(g, 0, np.arange(g.views[0].dictionary.k), offset, limit),
    }


def family(g: Grown, view: View, index: int, *, offset: int, limit: int) -> dict[str, Any]:
    """A region with its ancestors, the coarsest first, and its children, the largest first."""
    level = g.level(view)
    above = g.tree.ancestors(level, view.check_region(index))[::-1]
    children = np.array(g.tree.children(level, index), dtype=np.int64)
    return {
        "region": _nodes(g, level, np.array([index]))[0],
        "ancestors": [_nodes(g, at, np.array([region]))[0] for at, region in enumerate(above)],
        **(_page(g, level + 1, children, offset, limit) if len(children) else {"total": 0, "offset": 0, "regions": []}),
    }


def _page(g: Grown, level: int, regions: np.ndarray, offset: int, limit: int) -> dict[str, Any]:
    by_size = regions[np.argsort(-g.views[level].sizes_k[regions], kind="stable")]
    page = views.shown(by_size, offset, limit)
    return {"total": len(regions), "offset": offset, "regions": _nodes(g, level, page)}


def _nodes(g: Grown, level: int, regions: np.ndarray) -> list[dict[str, Any]]:
    """Regions in a few words, with their level and how they divide; same_exemplar: the parent has it too."""
    rows = views.brief(g.views[level], regions)
    for row in rows:
        region = row["region"]
        row |= {"key": g.views[level].key, "children": 0, "same_exemplar": False}
        if level < len(g.tree.parent):
            row["children"] = int((g.tree.parent[level] == region).sum())
        if level:
            row["same_exemplar"] = int(g.tree.identity[level - 1][g.tree.parent[level - 1][region]]) == region
    return rows


def ways(g: Grown, view: View, start: int, end: int) -> list[dict[str, Any]]:
    """The path between two regions of a level on every level, coarsest first; no regions where there is none.

    ends: cosine of the two regions' exemplars with those that stand for them on the level.
    """
    level = g.level(view)
    ways = paths(g.tree, level, view.check_region(start), view.check_region(end))
    ends_2d = view.exemplars_kd[[start, end]]
    return [_way(other, regions, ends_2d) for other, regions in zip(g.views, ways, strict=True)]


def _way(view: View, regions: list[int], ends_2d: np.ndarray) -> dict[str, Any]:
    e_pd = view.exemplars_kd[regions]
    steps = np.einsum("pd,pd->p", e_pd[:-1], e_pd[1:]).tolist()
    ends = [float(end @ e) for end, e in zip(ends_2d, e_pd[[0, -1]], strict=True)] if regions else None
    rows = views.brief(view, regions)
    return {
        "key": view.key,
        "percentile": view.dictionary.config.calibration.percentile,
        "ends": ends,
        "regions": [row | {"cosine": step} for row, step in zip(rows, [None, *steps], strict=False)],
    }
