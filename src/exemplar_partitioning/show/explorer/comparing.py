"""Questions about several dictionaries at once: two of them matched, or a site's from coarse to fine."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...compare.progress import Tell
from ...errors import EPError
from . import computed, matches, trees, views
from .answers import Json, library, number, order, paging, view
from .library import View
from .overlaps import Overlaps


def _both(request: Request) -> tuple[View, View]:
    asked = request.query_params
    return library(request).open(asked.get("a", "")), library(request).open(asked.get("b", ""))


def _compare(request: Request) -> Response:
    return Json(views.comparison(*_both(request)))


def _matched(request: Request, a: View, b: View) -> matches.Matched:
    def compute(tell: Tell) -> matches.Matched:
        return matches.matched(a, b, _overlaps(request, a, b), tell)

    return request.app.state.background.get(("match", a.key, b.key), compute)


def _overlaps(request: Request, a: View, b: View) -> Overlaps | None:
    ids = a.dictionary.content_id, b.dictionary.content_id
    answers = (overlaps.between(*ids) for overlaps in request.app.state.overlaps)
    return next((each for each in answers if each is not None), None)


def _match(request: Request) -> Response:
    a, b = _both(request)
    return Json(matches.summary(a, b, _matched(request, a, b)))


def _stop(request: Request) -> Response:
    a, b = _both(request)
    return Json({"stopped": request.app.state.background.stop(("match", a.key, b.key))})


def _pairs(request: Request) -> Response:
    a, b = _both(request)
    show = request.query_params.get("show", "all")
    return Json(matches.pairs(a, b, _matched(request, a, b), show=show, **order(request, "cosine")))


def _partners(request: Request) -> Response:
    seen, index = view(request), request.path_params["region"]
    partners = matches.partners(seen, index, list(library(request).others(seen)))
    for partner in partners:
        known = request.app.state.background.peek(("match", seen.key, partner["key"]))
        partner["verdict"] = known and known.verdict(index)
    return Json({"partners": partners})


def _grown(request: Request) -> trees.Grown:
    seen = view(request)
    levels = sorted([seen, *library(request).siblings(seen)], key=lambda v: (-v.dictionary.threshold, v.key))
    compute = partial(computed.grown, [level.dictionary for level in levels])
    return trees.Grown(levels, *request.app.state.background.get(("tree", *(level.key for level in levels)), compute))


def _tree(request: Request) -> Response:
    return Json(trees.overview(_grown(request), **paging(request)))


def _family(request: Request) -> Response:
    return Json(trees.family(_grown(request), view(request), request.path_params["region"], **paging(request)))


def _paths(request: Request) -> Response:
    if "to" not in request.query_params:
        raise EPError("a path leads to another region: add ?to= and its number")
    seen, start, end = view(request), request.path_params["region"], number(request, "to", 0)
    g = _grown(request)
    request.app.state.background.get(("graphs", *(level.key for level in g.views)), lambda _: g.tree.graphs)
    return Json({"levels": trees.ways(g, seen, start, end)})


ROUTES = [
    Route("/api/compare", _compare),
    Route("/api/match", _match),
    Route("/api/match/pairs", _pairs),
    Route("/api/match/stop", _stop, methods=["POST"]),
    Route("/api/dictionaries/{key}/tree", _tree),
    Route("/api/dictionaries/{key}/regions/{region:int}/tree", _family),
    Route("/api/dictionaries/{key}/regions/{region:int}/paths", _paths),
    Route("/api/dictionaries/{key}/regions/{region:int}/partners", _partners),
]
