"""Explorer: how long server and browser take to show a dictionary of 20,000 regions (d = 576).

A synthetic annotated dictionary (that of the tests). Requests one after another on a warmed server; pages opened
afresh in headless Chromium until their heading and their evidence are there. No textbook: the targets are absolute.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from time import perf_counter

from .data import HERE, SEED
from .measure import Row, Samples, arguments, write

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


def main() -> None:
    given = arguments(__doc__)
    sys.path.insert(0, str(HERE.parent / "tests"))
    from annotated import annotated
    from explorer_site import served

    k, d = (2_000, 64) if given.quick else (20_000, 576)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "build"
        annotated(root, k=k, d=d, percentiles=(2,))
        with served(root) as site:
            key = "resid_post.1-p2"
            for path in REQUESTS.values():
                urllib.request.urlopen(f"{site}/api/dictionaries/{key}{path}").read()
            time.sleep(1)
            rows = server(site, key) + browser(site, key)
    about = {"regions": k, "d_model": d}
    write("explorer", quick=given.quick, seed=SEED, about=__doc__ or "", data=about, rows=rows)


if __name__ == "__main__":
    main()
