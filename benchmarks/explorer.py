"""Explorer: how long server and browser take to show a dictionary of 20,000 regions.

Synthetic annotated dictionaries (those of the tests). *server*, *browser* (d = 576): requests one after another on a
warmed server; pages opened afresh in headless Chromium until their heading and their evidence are there. *computed*
(d = 2,304): tree, map and matching of 20,000 regions and of 10,000 of the same exemplars, asked of a server that has
never computed them, and then of another one; seconds of the processor, both cores together, beside those of the
clock. No textbook: the targets are absolute.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path
from time import perf_counter

from .data import HERE, stated
from .measure import Row, Samples, arguments, kept_rows, timed, write

TURNS = 9
REQUESTS = {"overview": "", "region": "/regions/7", "list": "/regions?limit=100", "search": "/regions?q=riv&limit=100"}
PAGES = {"overview": ("", "main table"), "region": ("/regions/7", "main li, main table")}


def server(site: str, key: str) -> list[Row]:
    rows = []
    for name, path in REQUESTS.items():
        url, seconds = f"{site}/api/dictionaries/{key}{path}", []
        for _ in range(TURNS):
            begun = perf_counter()
            with urllib.request.urlopen(url) as answer:
                size = len(answer.read())
            seconds.append(perf_counter() - begun)
        target = "<= 0.15 s" if name in ("overview", "region") else None
        rows.append(Row(f"server: {name}", Samples(seconds, [0.0] * TURNS), target=target, found={"bytes": size}))
    return rows


def browser(site: str, key: str) -> list[Row]:
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        return []
    rows = []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        for name, (path, shown) in PAGES.items():
            seconds = []
            for _ in range(TURNS):
                page = opened.new_page()
                begun = perf_counter()
                page.goto(f"{site}/d/{key}{path}", wait_until="commit")
                page.wait_for_selector(shown)
                seconds.append(perf_counter() - begun)
                page.close()
            rows.append(Row(f"browser: {name}", Samples(seconds, [0.0] * TURNS), target="<= 1 s"))
        opened.close()
    return rows


def computed(root: Path, fine: str, coarse: str) -> list[Row]:
    from explorer_site import get, served

    paths = {
        "tree": (f"dictionaries/{fine}/tree", "<= 3 s"),
        "map": (f"dictionaries/{fine}/map", "<= 8 s"),
        "matching": (f"match?a={fine}&b={coarse}", "<= 15 s"),
    }
    took: dict[str, list[tuple[float, float, float]]] = {name: [] for name in paths}
    for _ in range(2):
        with served(root) as site:
            for key in (fine, coarse):
                get(f"{site}/api/dictionaries/{key}/regions/7")
            for name, (path, _) in paths.items():
                cpu = time.process_time()
                _, seconds, others = timed(partial(get, f"{site}/api/{path}"))
                took[name].append((seconds, others, time.process_time() - cpu))
    rows = []
    for name, (_, target) in paths.items():
        (first, others, cpu), (again, *_) = took[name]
        found = {"processor seconds": round(cpu, 2), "again, seconds": round(again, 2)}
        rows.append(Row(f"computed: {name}", Samples([first], [others]), target=target, found=found))
    return rows


def main() -> None:
    given = arguments(__doc__, ("server", "browser", "computed"))
    sys.path.insert(0, str(HERE.parent / "tests"))
    from annotated import annotated
    from explorer_site import served

    parts = given.parts or ["server", "browser", "computed"]
    k, d, wide = (2_000, 64, 256) if given.quick else (20_000, 576, 2_304)
    rows = kept_rows("explorer", given.parts, quick=given.quick)
    with tempfile.TemporaryDirectory() as folder:
        root, key = Path(folder) / "build", "resid_post.1-p2"
        if "server" in parts or "browser" in parts:
            annotated(root, k=k, d=d, percentiles=(2,))
            with served(root) as site:
                for path in REQUESTS.values():
                    urllib.request.urlopen(f"{site}/api/dictionaries/{key}{path}").read()
                time.sleep(1)
                rows += server(site, key) if "server" in parts else []
                rows += browser(site, key) if "browser" in parts else []
        if "computed" in parts:
            os.environ["EP_CACHE"] = f"{folder}/cache"  # nothing has been computed yet
            annotated(Path(folder) / "wide", k=k, d=wide, percentiles=(2, 4))
            rows += computed(Path(folder) / "wide", key, "resid_post.1-p4")
    about = {"regions": k, "d_model": d, "d_model of what is computed": wide}
    write("explorer", **stated(given, __doc__), data=about, rows=rows)


if __name__ == "__main__":
    main()
