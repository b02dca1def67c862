"""A real browser for tests of the explorer's pages, which must stay without errors and outside requests."""

import contextlib
import shutil
import time

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDED = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the pages with")
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@contextlib.contextmanager
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@contextlib.contextmanager
def window(browser, site, width=1280, scheme="light"):
    """A page that must stay without errors and ask nobody else for anything."""
    context = browser.new_context(base_url=site, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, errors, foreign = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: None if own(request.url, site) else foreign.append(request.url))
    page.set_default_timeout(15_000)
    try:
        yield page
        assert page.evaluate("window.hacked") is None
    finally:
        context.close()
    assert errors == []
    assert foreign == []


def own(url, site):
    return url.startswith((f"{site}/", f"blob:{site}/", "data:"))


def go(page, path):
    page.goto(path)
    ready(page)


def ready(page):
    page.wait_for_selector("main[data-ready]")


def until(page, expression):
    """Wait until it holds. The pages' policy forbids Playwright's own `wait_for_function`, which evaluates text."""
    end = time.monotonic() + 15
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


NAMELESS = """[...document.querySelectorAll('button, a, input, select, textarea')].filter((e) =>
    !e.closest('.plot, .map, [hidden]') && !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))
    .map((e) => e.outerHTML)"""
HEADLESS = "[...document.querySelectorAll('table')].filter((t) => !(t.caption && t.querySelector('th[scope]'))).length"
WORDLESS = "[...document.querySelectorAll('figcaption')].filter((c) => !c.textContent).length"


def hearable(page):
    """Landmarks, one main heading, names for what can be used, headers for tables, words for plots; focus is seen."""
    path = page.url
    for landmark in ("banner", "main", "navigation"):
        assert page.get_by_role(landmark).count() >= 1, path
    assert page.locator("h1").count() == 1, path
    assert not (nameless := page.evaluate(NAMELESS)), (path, nameless)
    assert page.evaluate(HEADLESS) == 0, path
    assert page.locator("figure").count() == page.locator("figcaption").count()
    assert page.evaluate(WORDLESS) == 0, path
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", path


def fits(page, path, scheme, width=400):
    """A page as wide as its window, in the colours that were asked for."""
    go(page, path)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    light = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]) > 128")
    assert light == (scheme == "light")
