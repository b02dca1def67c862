"""Pages of the explorer, and a report, full of text that means harm: in tokens, contexts, labels, lists and addresses.

In a real browser. Nothing of it may run, be fetched, become an element, or end in an error of the page.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from annotated import HOSTILE, annotated
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder import bookmarks
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.show.report import render
from explorer_browser import chromium, go, window
from explorer_site import served

from .pool import SAME, WRONG

_HARM = "window.hacked = 1"
TEXTS = (
    *(text for text in HOSTILE if text.strip()),
    f"</script><script>{_HARM}</script>",
    f"</title></textarea></style><svg onload='{_HARM}'>",
    f"javascript:{_HARM}//",
    f"\"><iframe srcdoc='<script>parent.{_HARM}</script>'>",
    f"<a href=x onfocus='{_HARM}' autofocus>",
    f"]]><!-- --!><img src=x onerror={_HARM}>",
    f"${{{_HARM}}} {{{{constructor.constructor('{_HARM}')()}}}}",
    "__proto__",
    "\u2028\u2029\ufeff\u200b\u2066",
    "\U0001f3f4" + "\U000e0067" * 40,
    "e" + "\u0301" * 300,
    "\uff1cscript\uff1e\u212a\u0130",
    "<plaintext>",
    "%3Cscript%3E%00",
    "../../../../etc/passwd\r\nSet-Cookie: a=b",
)
_PAGES = (
    "/d/{key}/regions/{region}",
    "/d/{key}/regions?q={text}",
    "/d/{key}/regions?list={text}",
    "/d/{key}/map",
    "/compare?a={key}&b={other}&q={text}",
    "/?x={text}#{text}",
)


def looked_at(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    """Every page with each of so many texts; then a report with all of them."""
    fine, _ = annotated(folder / "build", k=60)
    texts = TEXTS[:count]
    for region, text in enumerate(texts):
        for keep in (Labels(fine).set, lambda region, name: bookmarks.put(fine, name, region)):
            with suppress(EPError):  # no name at all
                keep(region, text)
    with served(folder / "build") as site, chromium() as browser:
        for region, text in enumerate(texts):
            quoted = urllib.parse.quote(text, safe="")
            for page in _PAGES:
                address = page.format(key="resid_post.1-p2", other="resid_post.1-p8", region=region, text=quoted)
                yield _outcome(browser, site, address, f"{page} with {text[:40]!r}")
        members = fine.annotation.regions["members"].to_pylist()
        (folder / "report.html").write_text(render(fine, [i for i, _ in enumerate(texts) if members[i]]))
        yield _outcome(browser, "file://", (folder / "report.html").as_uri(), "the report")


def _outcome(browser: Any, site: str, address: str, what: str) -> tuple[str, str]:
    try:
        with window(browser, site) as page:
            page.set_default_timeout(90_000)
            page.goto(address) if address.startswith("file:") else go(page, address)
            page.wait_for_timeout(50)
            made = page.locator("iframe, img[src=x], svg[onload], a[autofocus], plaintext").count()
            assert not made, f"{made} elements made of it"
            assert page.evaluate("document.cookie") == "", "a cookie"
    except Exception as error:  # whatever the browser says of it
        return WRONG, f"{what}: {type(error).__name__}: {str(error)[:300]}"
    return SAME, what
