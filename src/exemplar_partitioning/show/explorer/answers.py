"""What the server's answers share: JSON, and what a question holds."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...errors import EPError
from ...files import known
from .library import Library, View


class Json(Response):
    """A JSON answer; what is not known (NaN) is null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(known(content), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def number(request: Request, name: str, default: int) -> int:
    """A whole number from 0 among the parameters; EPError for anything else."""
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or len(text) > 9:
        raise EPError(f"{name} must be a whole number from 0; got {text[:40]!r}")
    return int(text)


def paging(request: Request) -> dict[str, int]:
    """Which rows of a list: `offset` and `limit`."""
    return {"offset": number(request, "offset", 0), "limit": number(request, "limit", 100)}


def order(request: Request, sort: str) -> dict[str, Any]:
    """What a list is searched for and sorted by; `sort` if the question does not say."""
    asked = request.query_params
    return {
        "query": asked.get("q", ""),
        "within": asked.get("in", "any"),
        "sort": asked.get("sort", sort),
        "descending": asked.get("desc", "1") != "0",
        **paging(request),
    }


def library(request: Request) -> Library:
    """All dictionaries on show."""
    return request.app.state.library


def view(request: Request) -> View:
    """The dictionary that the path names. Raises NotFound, or DataError if it is damaged."""
    return library(request).open(request.path_params["key"])
