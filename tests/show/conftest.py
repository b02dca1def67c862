"""One browser for the pages of a file, and a window in it for each test; the file says what `site` serves."""

import pytest

from explorer_browser import chromium, window


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture
def page(browser, site):
    with window(browser, site) as opened:
        yield opened
