"""One place in block after block of a build: how many regions it has, which persist, and one of them followed.

Shapes: k regions of a dictionary, d = d_model.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...compare.nulls import DRAWS
from ...compare.row import Row, Step, row
from ...errors import EPError
from ...folder.schema import Config
from .answers import Json, library, view
from .library import Entry, Library, View
from .views import brief, size_is

_STEP, _PRODUCTS = 0.2, 1e10  # seconds from block to block, and multiplications a second, about, of one core


@dataclass(frozen=True, eq=False)
class Layers:
    """The dictionaries of a place, in every block and at every percentile, and which of them is asked about."""

    library: Library
    seen: View
    beside: list[tuple[Entry, Config]]

    @classmethod
    def of(cls, request: Request) -> Layers:
        seen, shown = view(request), library(request)
        place = _place(seen.dictionary.config)
        return cls(shown, seen, [each for each in shown.beside(seen) if _place(each[1]) == place])

    @property
    def percentile(self) -> float:
        return self.seen.dictionary.config.calibration.percentile

    @property
    def place(self) -> str:
        return _place(self.seen.dictionary.config)

    @cached_property
    def row(self) -> list[tuple[Entry, Config]]:
        """Those of the percentile that is asked about, by block."""
        return [each for each in self.beside if each[1].calibration.percentile == self.percentile]

    @cached_property
    def blocks(self) -> list[View]:
        """The same, opened."""
        return [self.library.open(entry.key) for entry, _ in self.row]

    @property
    def why_not(self) -> str | None:
        """Why regions cannot be followed from block to block; None where they can."""
        if self.seen.dictionary.config.site.width is not None:
            return f"{self.place} of one block and of the next have no coordinates in common."
        if len(self.row) < 2:
            return f"There is one block of {self.place} at this percentile; build several with --site."
        return None

    @property
    def key(self) -> tuple[str, ...]:
        """Names the computation."""
        return ("layers", *(entry.key for entry, _ in self.row))

    @cached_property
    def seconds(self) -> float:
        """How long persistence takes, about."""
        pairs = itertools.pairwise(config for _, config in self.row)
        return sum(_STEP + 2 * (1 + DRAWS) * a.build.k * b.build.k * a.width / _PRODUCTS for a, b in pairs)


def _place(config: Config) -> str:
    """A site without its block, such as resid_post."""
    return config.site.name.rpartition(".")[0]


def overview(layers: Layers) -> dict[str, Any]:
    """Regions of the place at every block and percentile, and what following them would take."""
    sites: dict[str, list[dict[str, Any]]] = {}
    for entry, config in layers.beside:
        sites.setdefault(config.site.name, []).append(
            {"key": entry.key, "percentile": config.calibration.percentile, "k": config.build.k}
            | {"threshold": config.calibration.threshold, "stopped": config.build.stopped}
        )
    folder, here = layers.seen.entry.build_folder, Path.cwd()
    named = folder.relative_to(here) if here in folder.parents else folder
    return {
        "place": layers.place,
        "percentile": layers.percentile,
        "sites": [{"site": site, "dictionaries": rows} for site, rows in sites.items()],
        "why_not": layers.why_not,
        "seconds": layers.seconds,
        "command": f"ep match {named} --neighbours --site '{layers.place}.*' "
        f"--percentile {layers.percentile:g} --out persistence",
    }


def persistence(layers: Layers, followed: Row) -> dict[str, Any]:
    """From each block to the next, what persists, beside its null."""
    rows = [
        row | {"key": block.key, "site": block.dictionary.config.site.name}
        for row, block in zip(followed.rows(), layers.blocks, strict=True)
    ]
    summary = followed.summary()
    return {name: summary[name] for name in ("null", "false_alarms")} | {"rows": rows}


def follow(layers: Layers, region: int, followed: Row | None) -> dict[str, Any]:
    """A region's nearest in the blocks after its own, from each to the next, and in those before it."""
    blocks, at = layers.blocks, layers.blocks.index(layers.seen)
    steps: list[Step | None] = [None] * (len(blocks) - 1) if followed is None else [*followed.steps]
    line = [_stop(layers.seen, layers.seen.check_region(region), None, None)]
    for i in range(at, len(blocks) - 1):
        line.append(_next(blocks[i], line[-1]["region"], blocks[i + 1], steps[i], forwards=True))
    for i in range(at, 0, -1):
        line.insert(0, _next(blocks[i], line[0]["region"], blocks[i - 1], steps[i - 1], forwards=False))
    return {"at": at, "line": line, "size_is": size_is(layers.seen)}


def _next(view: View, region: int, beside: View, step: Step | None, *, forwards: bool) -> dict[str, Any]:
    (nearest,), (distance,) = beside.dictionary.assign_directions(view.exemplars_kd[[region]])
    cutoff = None if step is None else step.null.cutoffs(step.false_alarms)[0 if forwards else 1]
    return _stop(beside, int(nearest), 1 - float(distance), cutoff)


def _stop(view: View, region: int, cosine: float | None, cutoff: float | None) -> dict[str, Any]:
    persists = None if cutoff is None or cosine is None else cosine > cutoff
    place = {"key": view.key, "site": view.dictionary.config.site.name}
    return place | {"cosine": cosine, "cutoff": cutoff, "persists": persists} | brief(view, [region])[0]


def _overview(request: Request) -> Response:
    return Json(overview(Layers.of(request)))


def _followable(request: Request) -> Layers:
    layers = Layers.of(request)
    if layers.why_not is not None:
        raise EPError(layers.why_not)
    return layers


def _persistence(request: Request) -> Response:
    layers = _followable(request)
    compute = partial(row, [block.dictionary for block in layers.blocks])
    return Json(persistence(layers, request.app.state.background.get(layers.key, lambda _: compute())))


def _follow(request: Request) -> Response:
    layers = _followable(request)
    known = request.app.state.background.peek(layers.key)
    return Json(follow(layers, request.path_params["region"], known))


ROUTES = [
    Route("/api/dictionaries/{key}/layers", _overview),
    Route("/api/dictionaries/{key}/layers/persistence", _persistence),
    Route("/api/dictionaries/{key}/regions/{region:int}/layers", _follow),
]
