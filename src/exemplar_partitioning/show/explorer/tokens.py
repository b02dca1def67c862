"""One token: the regions it is near to and made of; and whole passages in every dictionary of a build."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import EPError
from .answers import Json, library, number, view
from .asked import answered, field, live
from .library import View
from .passages import EXEMPLAR, Passage, of_region, of_text
from .turns import Job
from .views import named

NEAREST = 10  # regions of a token
PARTS = 16  # regions that a token is made of


def token(seen: View, passage: Passage) -> dict[str, Any]:
    """The passage's token: its nearest regions, and those it is made of."""
    d, answer = seen.dictionary, _told(passage) | {"threshold": seen.dictionary.threshold}
    at = passage.at
    if at is None or not passage.known_t[at]:
        return answer | {"nearest": [], "made": None, "regions": {}}
    x_1d = passage.activations[d.config.site.name][at : at + 1]
    distance_k = d.distances(x_1d.numpy())[0]
    nearest = np.argsort(distance_k, kind="stable")[:NEAREST].tolist()
    parts = d.decompose(x_1d, min(PARTS, d.k, d.d_model))
    used_s = parts.regions[0] >= 0
    norm = float((x_1d[0] - d.center).norm())
    made = {
        "regions": parts.regions[0][used_s].tolist(),
        "weights": parts.weights[0][used_s].tolist(),
        "norm": norm,
        "left": float(parts.residual_norm[0]) / norm,
    }
    return answer | {
        "nearest": [{"region": i, "distance": float(distance_k[i])} for i in nearest],
        "made": made,
        "regions": named(seen, [*nearest, *made["regions"]]),
    }


def _where(mate: View) -> dict[str, Any]:
    config = mate.dictionary.config
    where = {"key": mate.key, "site": config.site.name, "percentile": config.calibration.percentile}
    return where | {"threshold": mate.dictionary.threshold}


def stack(mates: Iterable[View], passage: Passage) -> dict[str, Any]:
    """Every token of a passage with its region in each dictionary of the build."""
    rows, regions = [], {}
    for mate in mates if passage.activations else ():
        d = mate.dictionary
        region_t, distance_t = d.assign(passage.activations[d.config.site.name].numpy())
        region_t[~passage.known_t] = -1
        row = {
            "regions": [None if i < 0 else int(i) for i in region_t],
            "distances": [None if i < 0 else round(float(x), 4) for i, x in zip(region_t, distance_t, strict=True)],
        }
        rows.append(_where(mate) | row)
        regions[mate.key] = named(mate, row["regions"])
    return _told(passage) | {"rows": rows, "regions": regions}


def _told(passage: Passage) -> dict[str, Any]:
    """The passage, without its activations."""
    names = ("tokens", "at", "source", "caveat", "why_not")
    return {name: getattr(passage, name) for name in names} | {
        "about": passage.about,
        "known": passage.known_t.tolist(),
    }


def _of_region(request: Request, views: Sequence[View]) -> Passage:
    example = request.query_params.get("example", EXEMPLAR)
    sites = list(dict.fromkeys(each.dictionary.config.site.name for each in views))
    return of_region(request.app.state.live, view(request), request.path_params["region"], example, sites=sites)


def _token_of_region(request: Request) -> Response:
    seen = view(request)
    return Json(token(seen, _of_region(request, [seen])))


def _stack_of_region(request: Request) -> Response:
    mates = list(library(request).mates(view(request)))
    return Json(stack(mates, _of_region(request, mates)))


async def _token_of_text(request: Request) -> Response:
    text, model, at = await field(request, "text"), live(request), number(request, "at", 0)

    def work(job: Job) -> dict[str, Any]:
        passage = of_text(model, [view(request)], text, at, job)
        if not passage.known_t[at]:
            raise EPError(f"token {at} is a special token, which belongs to no region")
        return token(view(request), passage)

    return await answered(request, work)


async def _stack_of_text(request: Request) -> Response:
    text, model = await field(request, "text"), live(request)

    def work(job: Job) -> dict[str, Any]:
        mates = list(library(request).mates(view(request)))
        return stack(mates, of_text(model, mates, text, None, job))

    return await answered(request, work)


ROUTES = [
    Route("/api/dictionaries/{key}/regions/{region:int}/token", _token_of_region),
    Route("/api/dictionaries/{key}/regions/{region:int}/stack", _stack_of_region),
    Route("/api/dictionaries/{key}/token", _token_of_text, methods=["POST"]),
    Route("/api/dictionaries/{key}/stack", _stack_of_text, methods=["POST"]),
]
