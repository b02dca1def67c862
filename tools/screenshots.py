"""Pictures of the explorer for the documents: `python -m tools.screenshots DIR` writes docs/screenshots.

Of the packaged dictionary, and of DIR: what `ep build --max-tokens 16_000 --dtype bfloat16 --percentile 2,4,8 --site
resid_post.4,resid_post.8,resid_post.12,resid_post.16,resid_post.20,resid_post.24 --keep-activations --out DIR` gives.
Needs Chromium (`make browser`). The map, of a dictionary of 6,039 regions, is not made here.
"""

import shutil
import sys
from pathlib import Path

from exemplar_partitioning.demo.dictionary import packaged

PLACE = Path(__file__).resolve().parents[1] / "docs" / "screenshots"
OF_DEMO = {"region": ("/d/resid_post.15-p4/regions/74", 1000), "overview": ("/d/resid_post.15-p4", 880)}
EXAMPLE = "region=30&example=nearest-1"
OF_BUILD = {
    "token": (f"/d/resid_post.12-p4/token?{EXAMPLE}", 700),
    "stack": (f"/d/resid_post.12-p4/stack?{EXAMPLE}", 660),
    "layers": ("/d/resid_post.12-p4/layers?region=30", 1260),
}
PATIENCE = 300_000  # milliseconds
UNFINISHED = """[...document.querySelectorAll('.plot')].some((e) => e.getBoundingClientRect().top < innerHeight
        && !e.querySelector('.main-svg'))
    || [...document.querySelectorAll('p.dim')].some((e) => e.textContent.endsWith(' ...'))"""


def draw(browser, root: Path, pages: dict[str, tuple[str, int]]) -> None:
    """Pictures of pages, by name, each as wide as a small screen and so high."""
    sys.path.insert(0, str(PLACE.parents[1] / "tests"))
    from explorer_site import served

    with served(root) as address:
        for name, (path, height) in pages.items():
            page = browser.new_page(viewport={"width": 1280, "height": height}, color_scheme="light")
            page.set_default_timeout(PATIENCE)
            page.goto(address + path)
            page.wait_for_selector("main[data-ready]")
            while page.evaluate(UNFINISHED):
                page.wait_for_timeout(500)
            page.wait_for_timeout(1000)  # plots move into place
            page.screenshot(path=PLACE / f"{name}.png")
            page.close()


if __name__ == "__main__":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=found, args=["--headless", "--no-sandbox"])
        draw(browser, packaged(Path("demo")), OF_DEMO)
        draw(browser, Path(sys.argv[1]), OF_BUILD)
        browser.close()
