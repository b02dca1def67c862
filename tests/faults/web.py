"""Requests to the explorer that no page sends: whatever comes, an answer below 500 and nothing from outside."""

from __future__ import annotations

import http.client
import json
import shutil
import urllib.parse
from collections import Counter
from pathlib import Path
from random import Random

import psutil

from annotated import annotated
from explorer_site import served

SECRET = "kept from everybody"
_GROWTH = 512 << 20  # bytes that the server may grow by under all requests together
_PLACES = (
    "/api/dictionaries",
    "/api/dictionaries/{key}",
    "/api/dictionaries/{key}/regions",
    "/api/dictionaries/{key}/regions/{region}",
    "/api/dictionaries/{key}/regions/{region}/relatives",
    "/api/dictionaries/{key}/regions/{region}/label",
    "/api/dictionaries/{key}/map",
    "/api/dictionaries/{key}/read",
    "/api/dictionaries/{key}/steer",
    "/api/compare",
    "/api/tree",
    "/d/{key}/regions/{region}",
    "/static/{key}",
    "/{key}",
)
_WORDS = (
    "..",
    "../..",
    "%2e%2e",
    "..%2f..%2f",
    "%00",
    "\\..\\",
    "//",
    "%ff%fe",
    "%F0%9F%98%80",
    "-1",
    "99999999999999999999",
    "1e9",
    "%E2%80%AE",
    "'\"<script>",
    "resid_post.1-p2",
    "resid_post.1-p8",
    "a" * 4000,
    "%0d%0aX-Evil:1",
    ";",
    "null",
    "\u0661",
)
_NAMES = ("q", "in", "sort", "desc", "offset", "limit", "a", "b", "basis", "null", "kind", "region", "depth", "")
_SORTS = ("size", "label", "members", "arrivals", "id", "coherence", "best", "f1", "nan")
_METHODS = ("GET",) * 6 + ("POST",) * 6 + ("HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW")
_BODIES = (b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'"text"', b'{"text": NaN}', b'{"text": 1e999}', b"\0" * 99)
_FIELDS = ("text", "region", "prompt", "alpha", "mode", "tokens", "seed", "along", "kind", "regions", "site")
_VALUES = (None, True, -1, 10**400, 1.5, "", "x" * 5000, "\ud800", "\0", [], [[]], {}, {"a": 1}, "\u202e", 3, "steer")


def attack(requests: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """How many requests were answered, refused, or cut off as no HTTP; and those that were answered wrongly."""
    annotated(folder / "build", k=60, percentiles=(2, 8))
    (folder / "secret.txt").write_text(SECRET)
    rng, counts, wrong = Random(seed), Counter[str](), list[str]()
    with served(folder / "build") as address:
        port = urllib.parse.urlsplit(address).port
        assert port
        here = psutil.Process()
        before = here.memory_info().rss
        for case in range(requests):
            method, path, body, headers = _request(rng, folder, port)
            try:
                status, text = _send(port, method, path, body, headers)
            except (http.client.HTTPException, OSError):
                counts["cut off"] += 1
                continue
            counts["answered" if status < 400 else "refused clearly"] += 1
            bad = status >= 500 and status != 503
            if bad or SECRET in text or "Traceback" in text or "root:x:" in text:
                wrong.append(f"{case}: {status} for {method} {path[:120]!r} {body[:60]!r} {headers}: {text[:120]}")
        if here.memory_info().rss - before > _GROWTH:
            wrong.append(f"memory grew by {(here.memory_info().rss - before) >> 20} MB")
        assert _send(port, "GET", "/api/dictionaries", b"", {"Host": "localhost"})[0] == 200, "the server is gone"
    inside = {path.name for path in folder.iterdir()}
    if inside != {"build", "secret.txt"}:
        wrong.append(f"files outside: {inside}")
    shutil.rmtree(folder / "build")
    return counts, wrong


def _request(rng: Random, folder: Path, port: int) -> tuple[str, str, bytes, dict[str, str]]:
    def word(good: str) -> str:
        bad = (*_WORDS, urllib.parse.quote(str(folder / "secret.txt"), safe=""), "../" * 8 + "etc/passwd")
        return good if rng.random() < 0.8 else rng.choice(bad)

    path = rng.choice(_PLACES).format(key=word("resid_post.1-p2"), region=word(str(rng.randrange(70))))
    if rng.random() < 0.5:
        asked = []
        for _ in range(rng.randint(1, 4)):
            value = rng.choice((*_WORDS, *_SORTS, "0", "1", "100", "any", "tokens", "exemplar"))
            asked.append(f"{rng.choice(_NAMES)}={value}")
        path += "?" + "&".join(asked)
    if rng.random() < 0.05:
        path += "?q=" + "x" * rng.choice((60_000, 200_000))
    body, headers = b"", {"Host": f"127.0.0.1:{port}"}
    method = rng.choice(_METHODS)
    if method not in ("GET", "HEAD"):
        headers["Content-Type"] = rng.choice(("application/json",) * 5 + ("text/plain", "", "application/json; x=\xff"))
        value = {rng.choice(_FIELDS): rng.choice(_VALUES) for _ in range(rng.randint(0, 5))}
        body = rng.choice(_BODIES) if rng.random() < 0.4 else json.dumps(value).encode()
        if rng.random() < 0.1:
            headers["Content-Length"] = rng.choice(("-1", "abc", "0", "2000000", "9" * 30, "1e3", "\u0663"))
    if rng.random() < 0.1:
        headers["Host"] = rng.choice(("evil.example", "", "127.0.0.1.evil", "localhost:x", "[::1", "a" * 3000))
    if rng.random() < 0.1:
        headers["Origin"] = rng.choice(("null", "http://evil", "", "\xff"))
    return method, path, body, headers


def _send(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """Sent as it is: no library sets the path or the headers right."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Content-Length": str(len(body))} | headers if body else headers
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close"]
    try:
        connection.connect()
        connection.sock.sendall("\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body)
        answer = http.client.HTTPResponse(connection.sock, method=method)
        answer.begin()
        return answer.status, answer.read(2_000_000).decode(errors="replace")
    finally:
        connection.close()
