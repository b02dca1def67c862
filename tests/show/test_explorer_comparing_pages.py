"""Two dictionaries matched, and the resolution tree, in a real browser: by pointer and keyboard, wide and narrow."""

import re
import threading

import pytest

import exemplar_partitioning as ep
from annotated import HOSTILE, annotated
from exemplar_partitioning.compare.tree import paths
from exemplar_partitioning.show.explorer import computed
from explorer_browser import NEEDED, fits, go, hearable, ready, until, window
from explorer_site import get, served

pytestmark = NEEDED

A, B, COARSE = "resid_post.1-p2", "resid_post.1-p4", "resid_post.1-p8"
OTHER, WIDE = "resid_post.1-p2-2", "resid_post.1-p2-3"
BOTH = f"/compare?a={A}&b={B}"
TREE = f"/d/{A}/tree"
PAGES = [BOTH, TREE, f"{TREE}?at={B}&from=3&to=60#140", f"/d/{A}/regions/0"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("explorer")
    annotated(root / "twin", k=90, percentiles=(2,), seed=3)
    annotated(root / "wide", k=20, d=24, percentiles=(2,))
    return root, annotated(root / "build", k=150, percentiles=(2, 4, 8))


@pytest.fixture(scope="module")
def site(built):
    with served(*(built[0] / name for name in ("build", "twin", "wide"))) as address:
        yield address


def column(page, at):
    return page.locator(f".list tbody td:nth-child({at})").all_inner_texts()


def first_row(page, text):
    until(page, f"document.querySelector('.list tbody td')?.textContent === {text!r}")


def test_two_dictionaries_stand_side_by_side(page):
    go(page, BOTH)
    cells = page.locator("tr", has_text="regions").first.locator("td").all_inner_texts()
    assert cells == ["regions", "150", "75"]
    page.get_by_role("button", name="Swap").click()
    page.wait_for_url(f"**a={B}&b={A}")
    ready(page)
    assert page.locator("tr", has_text="regions").first.locator("td").all_inner_texts() == ["regions", "75", "150"]
    page.get_by_label("Dictionary B").select_option(COARSE)
    page.wait_for_url(f"**a={B}&b={COARSE}")
    ready(page)
    assert page.locator("tr", has_text="regions").first.locator("td").all_inner_texts() == ["regions", "75", "38"]


def test_both_histograms_are_drawn_beside_the_null_with_the_cutoff(page, built, site):
    found = ep.match(*built[1][:2])
    go(page, BOTH)
    page.locator("figure").last.scroll_into_view_if_needed()
    until(page, "document.querySelectorAll('.plot .bars').length === 2")
    for figure, cutoff in zip(page.locator("figure").all(), found.null.cutoffs(0.01), strict=True):
        until(page, "document.querySelectorAll('.plot .lines path.js-line').length === 2")
        place = figure.locator(".plot").element_handle()
        assert place.evaluate("(e) => e.data.map((d) => d.type)") == ["bar", "scatter"]
        assert place.evaluate("(e) => e.layout.shapes[0].x0") == pytest.approx(cutoff)
        assert f"{cutoff:.3f}, is what 1.0\u00a0% of matches under reflections exceed" in figure.inner_text()
    drawn = page.locator(".plot").first.evaluate("(e) => e.data[0].y")
    assert sum(drawn) == 150
    words = page.locator("figcaption").first.inner_text()
    assert f"{int(found.persisted.sum())} persisted, {int((~found.persisted).sum())} were dropped" in words


def test_verdicts_filter_the_pairs_and_back_undoes_it(page, site):
    whole = get(f"{site}/api/match?a={B}&b={A}")
    go(page, f"/compare?a={B}&b={A}")
    for verdict in ("persisted", "introduced"):
        button = page.get_by_role("button", name=f"{verdict} {whole[verdict]}")
        button.click()
        until(
            page,
            f"[...document.querySelectorAll('.list tr td:last-child')].every((e) => e.textContent === '{verdict}')",
        )
        assert page.locator("#status").inner_text() == f"{whole[verdict]} of {75 + whole['introduced']} pairs"
        assert button.get_attribute("aria-pressed") == "true"
    assert "show=introduced" in page.url
    page.reload()
    ready(page)
    assert set(column(page, 8)) == {"introduced"}
    page.go_back()
    until(page, "document.querySelector('.list tbody td:last-child').textContent === 'persisted'")


def test_pairs_are_searched_sorted_and_turned(page):
    go(page, BOTH)
    cosines = [float(text) for text in column(page, 5)]
    assert cosines == sorted(cosines, reverse=True)
    assert len(cosines) == 100
    page.get_by_role("button", name="A", exact=True).click()
    first_row(page, "0")
    assert column(page, 1) == [str(i) for i in range(100)]
    page.keyboard.press("n")
    first_row(page, "100")
    assert len(column(page, 1)) == 50
    page.get_by_role("button", name="Cosine").click()
    page.get_by_role("button", name="Cosine").click()
    until(page, "location.search.includes('desc=0')")
    until(page, "!!document.querySelector('th[aria-sort=ascending]')")
    until(page, "document.querySelector('.list tbody td:nth-child(5)').textContent < '0.9'")
    page.keyboard.press("/")
    page.keyboard.type("<script>")
    page.get_by_label("Search in").select_option("token")
    until(page, "document.querySelectorAll('.list tbody tr').length < 5")
    found = page.locator(".list tbody .token").all_inner_texts()
    assert HOSTILE[0] in found
    assert "q=%3Cscript%3E" in page.url
    page.get_by_label("Search pairs").fill("nothing has this")
    until(page, "document.querySelectorAll('.list tbody tr').length === 0")
    assert page.locator("#status").inner_text() == "0 of 150 pairs"


def test_pairs_lead_to_both_regions_by_keyboard_and_pointer(page):
    go(page, f"{BOTH}&sort=a&desc=0")
    for key in ("j", "j", "ArrowDown", "k"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.textContent") == "1"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/d/{A}/regions/1")
    page.go_back()
    ready(page)
    page.locator(".list tbody tr").nth(3).locator("td:nth-child(3) a").click()
    page.wait_for_url(f"**/d/{B}/regions/3")


def test_a_matching_says_how_far_it_is_is_stopped_and_begun_anew(browser, built, monkeypatch, tmp_path):
    opened, ended = threading.Event(), threading.Event()

    def slow(*given, tell):
        try:
            while not opened.wait(0.1):
                tell(0.25)
        finally:
            ended.set()
        return ep.match(*given, tell=tell)

    monkeypatch.setattr(computed, "match", slow)
    monkeypatch.setenv("EP_CACHE", str(tmp_path))
    with served(built[0] / "build") as site, window(browser, site) as page:
        page.goto(BOTH)
        page.wait_for_selector("text=/Matching 150 regions with 75: 25.0.% in [12] s/")
        assert page.locator("progress").evaluate("bar => bar.value") == 0.25
        assert page.locator("nav a", has_text="Map").get_attribute("href") == f"/d/{A}/map"
        assert page.locator(".list").count() == 0
        page.get_by_role("button", name="Stop").click()
        page.wait_for_selector("text=was stopped")
        assert ended.wait(30) and not opened.is_set()
        ready(page)
        opened.set()
        page.get_by_role("button", name="Begin anew").click()
        page.wait_for_selector(".list tbody tr")
        assert page.locator(".list tbody tr").count() == 100 and page.locator("progress").count() == 0


def test_other_widths_are_told_with_a_way_out(page):
    go(page, f"/compare?a={A}&b={WIDE}")
    said = page.locator(".notice").last.inner_text()
    assert "different width (16 and 24)" in said
    assert "`ep transport`" in said and "`ep roundtrip`" in said
    assert page.locator(".list").count() == page.locator("figure").count() == 0
    assert page.locator("tr", has_text="regions").first.locator("td").all_inner_texts() == ["regions", "150", "20"]


def test_a_region_leads_to_its_partner_in_the_other_build(page, site):
    (partner,) = get(f"{site}/api/dictionaries/{A}/regions/7/partners")["partners"]
    go(page, f"/d/{A}/regions/7")
    row = page.get_by_label("In other builds").locator("tbody tr")
    row.wait_for()
    assert row.locator("td").all_inner_texts() == [
        "twin p2",
        str(partner["region"]["region"]),
        partner["region"]["label"],
        f"{partner['cosine']:.3f}",
        "yes" if partner["mutual"] else "no",
        partner["verdict"] or "match",
    ]
    row.get_by_role("link", name="match").or_(row.get_by_role("link", name="dropped")).click()
    page.wait_for_url(f"**/compare?a={A}&b={OTHER}")
    ready(page)
    page.go_back()
    row.get_by_role("link", name=str(partner["region"]["region"]), exact=True).click()
    page.wait_for_url(f"**/d/{OTHER}/regions/{partner['region']['region']}")


def test_compare_begins_with_the_other_build(page):
    go(page, f"/d/{A}")
    page.get_by_role("link", name="Compare").click()
    page.wait_for_url(f"**/compare?a={A}")
    ready(page)
    assert page.get_by_label("Dictionary B").input_value() == OTHER


def node(page, key, region):
    return page.locator(f".tree li[data-key='{key}'][data-region='{region}']")


def labelled(page, name):
    return page.evaluate("document.activeElement.getAttribute('aria-label')") == name


def test_levels_are_told_beside_chance(page, built):
    go(page, f"/d/{A}")
    page.get_by_role("link", name="Tree").click()
    page.wait_for_url(f"**{TREE}")
    ready(page)
    rows = page.get_by_label("Levels").locator("tbody tr")
    assert [row.locator("td").first.inner_text() for row in rows.all()] == ["p8", "p4", "p2"]
    nested = ep.tree(list(built[1])).summary()[2]
    shown = [f"{100 * nested[name]:.1f}\u00a0%" for name in ("nested", "nested_chance")]
    assert rows.last.locator("td").all_inner_texts()[-2:] == shown


def test_a_tree_opens_and_closes_by_pointer(page, built):
    found = ep.tree(list(built[1]))
    go(page, TREE)
    assert page.locator(".tree > li[data-region]").count() == 38
    root = next(i for i in range(38) if found.children(0, i) and found.children(1, found.children(0, i)[0]))
    item = node(page, COARSE, root)
    button = item.get_by_role("button", name=re.compile(f"child.* of region {root} of p8"))
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    until(page, f"document.querySelector(\".tree li[data-region='{root}'] ul\")?.children.length > 0")
    assert button.get_attribute("aria-expanded") == "true"
    regions = item.locator("> ul > li").evaluate_all("all => all.map((e) => Number(e.dataset.region))")
    assert sorted(regions) == found.children(0, root)
    button.click()
    assert button.get_attribute("aria-expanded") == "false"
    assert not item.locator("> ul").is_visible()
    button.click()
    assert item.locator("> ul").is_visible()
    item.locator("> ul > li").first.get_by_role("link").first.click()
    page.wait_for_url(f"**/d/{B}/regions/{regions[0]}")


def test_a_tree_is_walked_by_keyboard(page, built):
    found = ep.tree(list(built[1]))
    go(page, TREE)
    order = page.locator(".tree > li").evaluate_all("all => all.map((e) => Number(e.dataset.region))")
    page.keyboard.press("j")
    assert labelled(page, f"region {order[0]} of p8")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert labelled(page, f"region {order[1]} of p8")
    page.keyboard.press("ArrowRight")
    item = node(page, COARSE, order[1])
    item.locator("> ul").wait_for()
    page.keyboard.press("ArrowRight")
    child = int(item.locator("> ul > li").first.get_attribute("data-region"))
    assert child in found.children(0, order[1])
    assert labelled(page, f"region {child} of p4")
    page.keyboard.press("ArrowLeft")
    assert labelled(page, f"region {order[1]} of p8")
    page.keyboard.press("ArrowLeft")
    assert not item.locator("> ul").is_visible()
    page.keyboard.press("ArrowDown")
    assert labelled(page, f"region {order[2]} of p8")  # what is closed is stepped over
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/d/{COARSE}/regions/{order[2]}")


def test_an_address_opens_the_tree_down_to_a_region(page, built):
    found = ep.tree(list(built[1]))
    region = 140
    parent, root = found.ancestors(2, region)
    go(page, f"/d/{A}/regions/{region}")
    page.get_by_role("link", name="In the tree").click()
    page.wait_for_url(f"**{TREE}#{region}")
    ready(page)
    assert labelled(page, f"region {region} of p2")
    item = node(page, A, region)
    assert item.get_attribute("aria-current") == "true"
    assert item.is_visible()
    up = item.locator("xpath=ancestor::li").evaluate_all("all => all.map((e) => Number(e.dataset.region))")
    assert up == [root, parent]
    page.evaluate(f"location.hash = '#{B}/20'")
    until(page, "document.activeElement.getAttribute('aria-label') === 'region 20 of p4'")
    assert page.locator("[aria-current=true]").count() == 1


def test_regions_are_found_by_text_and_shown_in_the_tree(page):
    go(page, TREE)
    page.keyboard.press("/")
    page.keyboard.type("<script>")
    page.locator(".found a").first.wait_for()
    assert page.locator(".found script").count() == 0
    page.get_by_label("Level to search").select_option(COARSE)
    page.locator(f".found a[href='#{COARSE}/0']").click()
    until(page, "document.activeElement.getAttribute('aria-label') === 'region 0 of p8'")
    page.get_by_label("Find a region").fill("nothing has this")
    until(page, "document.querySelectorAll('.found a').length === 0")
    assert page.locator("#status").inner_text() == "0 regions found"


def chains(page):
    all_of = "all => all.map((e) => [...e.querySelectorAll('a')].map((a) => Number(a.textContent)))"
    return page.locator(".chain").evaluate_all(all_of)


def test_paths_are_shown_on_every_level_and_kept_in_the_address(page, built):
    found = ep.tree(list(built[1]))
    go(page, TREE)
    page.get_by_label("Level of both regions").select_option(B)
    page.get_by_label("From region", exact=True).fill("3")
    page.get_by_label("To region", exact=True).fill("60")
    page.get_by_role("button", name="Find paths").click()
    until(page, "document.getElementById('status').textContent === 'Paths on 3 levels'")
    expected = paths(found, 1, 3, 60)
    assert chains(page) == [steps for steps in expected if steps]
    heads = [text.split(" between")[0] for text in page.locator("main h3").all_inner_texts()]
    for head, level, steps in zip(heads, (8, 4, 2), expected, strict=True):
        count = len(steps) - 1
        assert head == f"p{level}: " + ("no path" if count < 0 else f"{count} step" + "s" * (count != 1))
    deep = page.url
    assert deep.endswith(f"?at={B}&from=3&to=60")
    page.get_by_label("To region", exact=True).fill("3")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.chain a').length === 3")
    page.go_back()
    until(page, "document.querySelector('[aria-label=\"To region\"]').value === '60'")
    go(page, "/")
    go(page, deep)
    assert chains(page) == [steps for steps in expected if steps]


def test_two_regions_of_the_tree_are_picked_for_a_path(page):
    go(page, TREE)
    page.get_by_role("button", name="Path from or to region 3 of p8").click()
    assert page.get_by_label("From region", exact=True).input_value() == "3"
    assert "pick another of its level" in page.locator("#status").inner_text()
    page.get_by_role("button", name="Path from or to region 9 of p8").click()
    until(page, "document.getElementById('status').textContent === 'Paths on 3 levels'")
    assert page.url.endswith(f"?at={COARSE}&from=3&to=9")
    page.get_by_role("button", name="Path from or to region 5 of p8").click()
    boxes = [page.get_by_label(name, exact=True).input_value() for name in ("From region", "To region")]
    assert boxes == ["5", ""]


def test_long_lists_come_in_pieces(browser, tmp_path):
    annotated(tmp_path, k=130, percentiles=(2, 2.2), annotate=False)
    with served(tmp_path) as site, window(browser, site) as page:
        key = "resid_post.1-p2.2"
        go(page, f"/d/{key}/tree")
        total = get(f"{site}/api/dictionaries/{key}/tree")["total"]
        listed = get(f"{site}/api/dictionaries/{key}/tree?limit=500")["regions"]
        last = listed[-1]["region"]
        assert page.locator(".tree > li[data-region]").count() == 50
        page.evaluate(f"location.hash = '#{last}'")
        until(page, f"document.activeElement.getAttribute('aria-label') === 'region {last} of p2.2'")
        page.get_by_role("button", name=f"show 50 more of {total - 50}").click()
        until(page, "document.querySelectorAll('.tree > li[data-region]').length === 101")
        assert labelled(page, f"region {listed[50]['region']} of p2.2")
        page.get_by_role("button", name=f"show {total - 100} more").click()
        until(page, f"document.querySelectorAll('.tree > li[data-region]').length === {total}")
        assert page.locator(".more").count() == 0


def test_what_is_wrong_with_a_tree_is_told(browser, site):
    context = browser.new_context(base_url=site)
    page = context.new_page()
    for path, words in (
        (f"/d/{OTHER}/tree", "at least two percentiles; got 1"),
        (f"{TREE}#150", "region 150 does not exist"),
        (f"{TREE}#nowhere", "nothing at /api"),
        (f"{TREE}?from=3&to=150", "region 150 does not exist"),
        (f"/compare?a={A}&b=nothing", "no dictionary 'nothing'"),
    ):
        page.goto("about:blank")
        go(page, path)
        assert words in page.get_by_role("alert").inner_text(), path
    go(page, f"/d/{OTHER}")
    assert page.get_by_role("link", name="Tree").count() == 0
    context.close()


def test_hostile_texts_are_text(page):
    """Nothing is executed or fetched (see `window`), nothing invisible stays so, nothing widens the page."""
    for region in range(len(HOSTILE)):
        go(page, f"{TREE}?from={region}&to=140#{region}")
        assert page.locator("main").locator("script, img, b").count() == 0
        assert node(page, A, region).locator(".token").first.inner_text().strip()
        assert not re.search(r"[\u202e\u200d\x00-\x08\x0b-\x1f]", page.locator("body").inner_text())
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    go(page, f"{BOTH}&sort=a&desc=0")
    assert page.locator(".list").locator("script, img, b").count() == 0
    assert not re.search(r"[\u202e\u200d\x00-\x08\x0b-\x1f]", page.locator("body").inner_text())
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_pages_can_be_heard(page):
    for path in PAGES:
        go(page, path)
        hearable(page)
    go(page, TREE)
    stray = "[...document.querySelectorAll('.tree *')].filter((e) => e.matches('ul > :not(li)')).length"
    assert page.evaluate(stray) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_narrow_screen_in_both_themes(browser, site, scheme):
    with window(browser, site, width=400, scheme=scheme) as page:
        for path in PAGES:
            fits(page, path, scheme)
        go(page, BOTH)
        assert page.locator(".list").evaluate("(e) => e.scrollWidth <= e.parentElement.clientWidth")
