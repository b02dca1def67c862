"""What is asked of a model: text in a request, and an answer that ends when its page is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ...errors import EPError
from .answers import Json, view
from .library import View
from .live import Live
from .turns import Job


async def field(request: Request, name: str) -> str:
    """A text in the JSON of a request. Raises EPError where there is none."""
    try:
        value = (await request.json())[name]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EPError(f'send a JSON object such as {{"{name}": "..."}}') from error
    if not isinstance(value, str):
        raise EPError(f"{name} must be a text; got {type(value).__name__}")
    return whole(name, value)


def whole(name: str, text: str) -> str:
    """The text, if no character of it is half; EPError otherwise."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EPError(f"{name} holds half a character at {error.start}: half of a surrogate pair") from error
    return text


def live(request: Request) -> Live:
    """The model that reads and writes. Raises EPError where none is loaded."""
    if request.app.state.live is None:
        raise EPError("no model is loaded: start `ep explore` with --live")
    return request.app.state.live


def of_text(work: Callable[[Live, View, str, Job], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
    """What answers with what the model makes of a text of the moment."""

    async def endpoint(request: Request) -> Response:
        text, model = await field(request, "text"), live(request)
        return await answered(request, lambda job: work(model, view(request), text, job))

    return endpoint


async def answered(request: Request, work: Callable[[Job], dict[str, Any]]) -> Response:
    """What the model says; nothing, as soon as its page is gone."""
    page = request.headers.get("x-page", "")[:80]
    job = Job(f"{page} {request.url.path}" if page else "")

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.call_off()

    watching = asyncio.create_task(watch())
    try:
        return Json(await run_in_threadpool(work, job))
    finally:
        watching.cancel()
