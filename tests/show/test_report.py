"""The report opens offline in a real browser, shows what the annotation holds, and runs nothing from the text."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import exemplar_partitioning as ep
from annotated import EMPTY, HOSTILE, annotated
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder.interest import shown
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.show import map as atlas
from exemplar_partitioning.show import report
from exemplar_partitioning.text.visible import visible

LABEL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> \u202elabel"
CHROMIUM = [
    f"--{name}"
    for name in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    )
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    """Of 120 regions; the largest is labelled by someone who means harm."""
    d = annotated(tmp_path_factory.mktemp("report"), k=120, percentiles=(2,))[0]
    Labels.read(d).set(largest(d)[0], LABEL)
    return d


@pytest.fixture(scope="module")
def page(dictionary, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.render(dictionary, shown(dictionary, "members")[:119]), encoding="utf-8")
    return path


def largest(d):
    members = d.annotation.regions["members"].to_numpy()
    return [int(region) for region in (-members).argsort(kind="stable") if members[region]]


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_same_input_gives_the_same_bytes(dictionary, page, tmp_path, monkeypatch):
    monkeypatch.setenv("EP_CACHE", str(tmp_path))  # the map is laid out anew
    again = report.render(ep.load(dictionary.path), shown(dictionary, "members")[:119])
    assert again == page.read_text(encoding="utf-8")


def test_nothing_is_left_to_load(page):
    html = re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"<(link|img|iframe|script src)|url\(|@import", html)
    assert "default-src 'none'" in html


def test_the_data_is_the_dictionary_s(dictionary, page):
    data = data_of(page.read_text(encoding="utf-8"))
    assert data["members"] == dictionary.annotation.regions["members"].to_pylist()
    assert data["growth"] == [list(step) for step in dictionary.config.build.growth]
    assert data["labels"] == [visible(label.text) for label in Labels.read(dictionary).every()]
    assert data["sizes"][0] == [1, max(data["members"])]
    assert len(data["x"]) == len(data["y"]) == dictionary.k


def test_the_regions_are_those_asked_for(dictionary):
    html = report.render(dictionary, shown(dictionary, "members")[:7])
    assert [int(i) for i in re.findall(r'<article class="region" id="region-(\d+)"', html)] == largest(dictionary)[:7]


def test_regions_without_members_are_not_shown_as_examples(dictionary, page):
    html = page.read_text(encoding="utf-8")
    assert f'id="region-{EMPTY}"' not in html
    assert html.count("<article") == len(largest(dictionary)) < dictionary.k


@pytest.mark.parametrize(
    ("distance", "threshold", "shade"),
    [(0.0, 0.6, 9), (0.3, 0.6, 6), (0.6, 0.6, 3), (0.7, 0.6, 2), (1.0, 0.6, 0), (1.7, 0.6, 0), (None, 0.6, 0),
     (0.5, 1.3, 6), (1.2, 1.3, 0)],
)  # fmt: skip
def test_the_shade_of_a_distance(distance, threshold, shade):
    assert report.heat(distance, threshold) == shade


def test_without_annotation_it_says_what_to_run(tmp_path):
    d = annotated(tmp_path, k=20, percentiles=(2,), annotate=False)[0]
    with pytest.raises(EPError, match="ep annotate"):
        report.render(d, [])


def test_without_plotly_it_says_what_to_install(dictionary, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(EPError, match=re.escape("pip install 'exemplar-partitioning[explorer]'")):
        report.render(dictionary, [])


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "exemplar_partitioning", "report", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command(dictionary, tmp_path):
    out = tmp_path / "new" / "report.html"
    done = command(dictionary.path, "--out", out, "--top", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    first = out.read_bytes()
    again = command(dictionary.path, "--out", out)
    assert again.returncode == 2 and "--overwrite" in again.stderr
    assert out.read_bytes() == first
    assert command(dictionary.path, "--out", out, "--overwrite").returncode == 0
    assert out.read_bytes().count(b"<article") == 50


def test_one_of_several_dictionaries_must_be_named(tmp_path):
    annotated(tmp_path / "build", k=20, percentiles=(2, 8))
    done = command(tmp_path / "build", "--out", tmp_path / "report.html")
    assert done.returncode == 2 and "resid_post.1/p2, resid_post.1/p8" in done.stderr
    assert command(tmp_path / "build", "--percentile", 8, "--out", tmp_path / "report.html").returncode == 0


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium on this machine: the report is not opened in a browser")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM)
        yield running
        running.close()


@pytest.fixture
def opened(browser):
    """Opens a file at some width, with the network off; what is asked for and complained of goes to `said`."""
    contexts = []

    def open_page(path: Path, width=1200, scheme="light"):
        context = browser.new_context(offline=True, viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        tab.said = []
        tab.on("console", lambda message: tab.said.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.on("request", lambda request: tab.said.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("#map .plot-container")
        assert tab.said == [path.as_uri()]
        return tab

    yield open_page
    for context in contexts:
        context.close()


def test_it_opens_offline_and_draws(opened, page, dictionary):
    tab = opened(page)
    assert tab.locator("#map .points path").count() == dictionary.k
    assert tab.locator("#sizes .js-line").count() == tab.locator("#growth .js-line").count() == 1
    assert tab.locator(".text .at").count() == tab.locator(".text li").count() > 100


def test_no_text_is_executed(opened, page):
    tab = opened(page)
    tab.hover("#map")
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("img, b b, iframe").count() == 0
    assert "<b>model</b>" in tab.inner_text("h1")
    assert visible(LABEL) in tab.inner_text("article:first-of-type h3")
    texts = tab.inner_text("main")
    assert all(visible(text) in texts for text in HOSTILE if text.strip() and "\u202e" not in text)
    assert not re.search("[\u202e\x00\x1b\x07]", tab.content())


def test_the_page_s_policy_stops_scripts_and_requests(opened, page):
    tab = opened(page)
    tab.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src='http://x.invalid/' onerror='window.hacked = 1'>");
    }""")
    tab.wait_for_timeout(200)
    assert tab.evaluate("window.hacked") is None
    assert sum("violates the following Content Security Policy" in text for text in tab.said) == 3


def test_pointing_at_the_map_tells_the_region(opened, page, dictionary):
    tab = opened(page)
    first = largest(dictionary)[0]
    point = tab.locator("#map .points").nth(1).locator("path").first  # the largest is drawn first, below the others
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector("#tip:not([hidden])")
    said = tab.inner_text("#tip")
    region = int(re.search(r"Region (\d+)", said)[1])
    assert f"{dictionary.annotation.region(region)['members']:,} members" in said
    assert tab.locator("#tip *").evaluate_all("all => all.map(e => e.tagName)") == ["B", "BDI", "SPAN", "SPAN"]
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert tab.evaluate("location.hash") == f"#region-{region}"
    assert first in data_of(tab.content())["shown"]


@pytest.mark.parametrize("width", [400, 800])
def test_narrow_screens_need_no_sideways_scrolling(opened, page, width):
    tab = opened(page, width)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.locator("#map .main-svg").first.bounding_box()["width"] <= width


def test_dark_on_screen_and_light_on_paper(opened, page):
    tab = opened(page, scheme="dark")

    def colours():
        return tab.evaluate("""() => [
            getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector("#sizes text")).fill,
        ]""")

    dark = colours()
    tab.emulate_media(media="print", color_scheme="dark")
    assert dark[0] == "rgb(20, 23, 27)" and colours()[0] == "rgb(255, 255, 255)"
    assert dark[1] != colours()[1]


def test_thousands_of_regions_are_all_drawn(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "_PLACED", 100)  # where they lie does not matter here
    d = annotated(tmp_path / "d", k=4200, d=4, percentiles=(2,))[0]
    path = tmp_path / "report.html"
    path.write_text(report.render(d, shown(d, "members")[:2]), encoding="utf-8")
    assert opened(path).locator("#map .points path").count() == 4200
