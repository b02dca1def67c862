"""The web server: pages and JSON on the loopback interface, for this machine's user alone."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import DataError, EPError, ResourceError
from ...folder import bookmarks
from . import comparing, layers, lists, members, tokens, views
from .answers import Json, library, number, order, view
from .asked import answered, field, live, of_text, whole
from .background import Background, StillComputing
from .library import Library, NotFound
from .live import LIMIT, Live
from .overlaps import Overlaps
from .steering import Steering
from .turns import CalledOff

HOST = "127.0.0.1"
STATIC = Path(__file__).parent / "static"
_GONE = 499  # nobody reads it
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_BODY = 1 << 20  # bytes of a request, at most

# Only what this server serves. plotly fills a style element that is empty at first, hence the hash of nothing;
# its WebGL part compiles functions from text.
_POLICY = (
    "default-src 'none'; script-src 'self'{eval}; "
    "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def app(library: Library, live: Live | None = None, overlaps: Sequence[Overlaps] = ()) -> Starlette:
    """The application over some dictionaries; a model reads and writes text, `ep match` made the overlaps."""
    index, charts = _page, partial(_page, unsafe=" 'unsafe-eval'")
    starlette = Starlette(
        routes=[
            Route("/api/dictionaries", _dictionaries),
            Route("/api/dictionaries/{key}", _overview),
            Route("/api/dictionaries/{key}/regions", _regions),
            Route("/api/dictionaries/{key}/regions/{region:int}", _region),
            Route("/api/dictionaries/{key}/regions/{region:int}/relatives", _relatives),
            Route("/api/dictionaries/{key}/regions/{region:int}/label", _label, methods=["POST"]),
            Route("/api/dictionaries/{key}/regions/{region:int}/card", _card),
            Route("/api/dictionaries/{key}/bookmarks", _bookmarks),
            Route("/api/dictionaries/{key}/bookmarks", _bookmark, methods=["POST"]),
            Route("/api/dictionaries/{key}/map", _map),
            Route("/api/dictionaries/{key}/read", of_text(Live.read), methods=["POST"]),
            Route("/api/dictionaries/{key}/decompose", of_text(Live.decompose), methods=["POST"]),
            Route("/api/dictionaries/{key}/attribute", of_text(Live.attribute), methods=["POST"]),
            Route("/api/dictionaries/{key}/steer", _steer, methods=["POST"]),
            *comparing.ROUTES,
            *tokens.ROUTES,
            *layers.ROUTES,
            *members.ROUTES,
            Route("/", index),
            Route("/d/{key}", index),
            Route("/d/{key}/regions", index),
            Route("/d/{key}/regions/{region:int}", index),
            Route("/d/{key}/map", charts),
            Route("/d/{key}/tree", index),
            Route("/d/{key}/live", index),
            Route("/d/{key}/layers", index),
            Route("/d/{key}/token", index),
            Route("/d/{key}/stack", index),
            Route("/d/{key}/steer", index),
            Route("/compare", index),
            Route("/static/plotly.min.js", _plotly),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={EPError: _error, StillComputing: _later, ClientDisconnect: _left, 404: _nowhere},
    )
    state = starlette.state
    state.library, state.live, state.overlaps, state.background = library, live, overlaps, Background()
    starlette.add_middleware(Guard)
    return starlette


class Guard:
    """Turns away what other web sites could send here, and tells browsers to fetch from here alone.

    A Host that is not loopback means that a foreign name was pointed at this machine (DNS rebinding); a
    foreign Origin, or a browser's Sec-Fetch-Site, that another site's page posts here.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        problem = _problem(scope["method"], Headers(scope=scope))
        if problem:
            status, message = problem
            return await Json({"error": message}, status_code=status)(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = dict(message["headers"])
                sent.setdefault(b"cache-control", b"no-cache")
                sent.setdefault(b"content-security-policy", _POLICY.format(eval="").encode())
                sent |= {b"x-content-type-options": b"nosniff", b"referrer-policy": b"no-referrer"}
                sent |= {b"cross-origin-resource-policy": b"same-origin"}
                message["headers"] = list(sent.items())
            await send(message)

        return await self.app(scope, receive, with_headers)


def _problem(method: str, headers: Headers) -> tuple[int, str] | None:
    """Status and message for a request that is turned away."""
    host = headers.get("host", "").lower()
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name not in _LOOPBACK:
        return 403, f"requests for {host[:80]!r} are not answered: open http://{HOST} with the port that was printed"
    if method in ("GET", "HEAD"):
        return None
    other = headers.get("sec-fetch-site", "none").lower() not in ("same-origin", "none")
    if other or headers.get("origin", f"http://{host}").lower() != f"http://{host}":
        return 403, "a page of another site may not change anything here"
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return 415, "send JSON, with content-type application/json"
    if not headers.get("content-length", "").isdecimal() or int(headers["content-length"]) > _BODY:
        return 413, f"send a content-length of at most {_BODY:,} bytes"
    return None


def _page(request: Request, *, status: int = 200, unsafe: str = "") -> Response:
    policy = {"content-security-policy": _POLICY.format(eval=unsafe)}
    return FileResponse(STATIC / "index.html", status_code=status, headers=policy)


def _plotly(request: Request) -> Response:
    spec = find_spec("plotly")
    assert spec and spec.origin
    return FileResponse(Path(spec.origin).parent / "package_data" / "plotly.min.js", media_type="text/javascript")


def _error(request: Request, error: Exception) -> Response:
    kinds = ((NotFound, 404), (CalledOff, 409), (DataError, 500), (ResourceError, 503), (EPError, 400))
    status = next(status for kind, status in kinds if isinstance(error, kind))
    return Json({"error": str(error)}, status_code=status)


def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=_GONE)


def _later(request: Request, error: Exception) -> Response:
    still = cast(StillComputing, error)
    return Json({"computing": round(still.seconds, 1), "share": round(still.share, 3)}, status_code=202)


def _nowhere(request: Request, error: Exception) -> Response:
    path = request.url.path
    if path.startswith(("/api/", "/static/")):
        return Json({"error": f"there is nothing at {path[:80]}; docs/explorer-api.md tells what there is"}, 404)
    return _page(request, status=404)


def _dictionaries(request: Request) -> Response:
    state = request.app.state
    return Json(
        {
            "live": state.live is not None,
            "longest_text": LIMIT,
            "dictionaries": [views.entry(e) for e in state.library.entries.values()],
        }
    )


def _overview(request: Request) -> Response:
    return Json(views.overview(view(request)))


def _regions(request: Request) -> Response:
    asked = request.query_params
    filters = {"several": asked.get("several") == "1", "members": number(request, "members", 0)}
    return Json(lists.regions(view(request), **order(request, "best"), **filters, kept=asked.get("list", "")))


def _region(request: Request) -> Response:
    return Json(views.region(view(request), request.path_params["region"]))


def _relatives(request: Request) -> Response:
    return Json({"relatives": views.relatives(library(request), view(request), request.path_params["region"])})


async def _label(request: Request) -> Response:
    text = await field(request, "text")

    def change() -> dict[str, Any]:
        seen, region = view(request), request.path_params["region"]
        seen.set_label(seen.check_region(region), text)
        return views.brief(seen, [region])[0]

    return Json(await run_in_threadpool(change))


def _card(request: Request) -> Response:
    seen, region = view(request), request.path_params["region"]
    page = seen.dictionary[seen.check_region(region)].card()
    name = f'attachment; filename="{seen.key}-{region}.html"'
    return Response(page, media_type="text/html; charset=utf-8", headers={"content-disposition": name})


def _bookmarks(request: Request) -> Response:
    return Json({"lists": bookmarks.read(view(request).dictionary)})


async def _bookmark(request: Request) -> Response:
    name = await field(request, "list")
    asked = await request.json()
    region, kept = asked.get("region"), asked.get("kept", True)
    if type(region) is not int or type(kept) is not bool:
        raise EPError('send a JSON object such as {"list": "to read", "region": 42, "kept": true}')
    seen = view(request)
    put = partial(bookmarks.put, seen.dictionary, name, seen.check_region(region), kept)
    return Json({"lists": await run_in_threadpool(put)})


def _map(request: Request) -> Response:
    from ..map import layout

    seen = view(request)
    xy_k2 = request.app.state.background.get(("map", seen.key), lambda _: layout(seen.dictionary))
    return Json(views.chart(seen, xy_k2))


async def _steer(request: Request) -> Response:
    model = live(request)
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        body = None
    asked = Steering.of(body)
    for text in (asked.prompt, *(turn.content for turn in asked.turns)):
        whole("prompt", text)
    return await answered(request, lambda job: model.steer(view(request), asked, job))


def listen(port: int | None, preferred: int) -> socket.socket:
    """A socket on the loopback interface: on this port, else on the preferred one, else on any that is free.

    Raises ResourceError if the port that was asked for is taken.
    """
    for candidate in (preferred, 0) if port is None else (port,):
        try:
            return socket.create_server((HOST, candidate))
        except OSError as error:
            if candidate == port:
                raise ResourceError(
                    f"port {port} cannot be used ({error.strerror}): choose another with --port, or leave it out"
                ) from error
    raise ResourceError("no free port on 127.0.0.1")


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        live: Live | None = cast(Starlette, self.config.app).state.live
        if live is not None:
            live.stop()  # or the end would wait for the text that is being written
        super().handle_exit(sig, frame)


def server(application: Starlette) -> uvicorn.Server:
    """For the application; `run(sockets=[...])` serves until interrupted."""
    return _Server(
        uvicorn.Config(
            application,
            log_level="warning",
            ws="none",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
