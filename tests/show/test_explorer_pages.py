"""The explorer in a real browser: every page, by pointer and keyboard, with hostile text, wide and narrow."""

import re
import unicodedata

import pytest

from annotated import EMPTY, HOSTILE, annotated
from exemplar_partitioning.act.fluency import GRID
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.labels import Labels
from explorer_browser import NAMELESS, NEEDED, fits, go, hearable, ready, until, window
from explorer_site import build_tiny, get, served

pytestmark = NEEDED

FINE = "/d/resid_post.1-p2"
BOTH = "/compare?a=resid_post.1-p2&b=resid_post.1-p8"
PAGES = ["/", FINE, f"{FINE}/regions", f"{FINE}/regions/0", f"{FINE}/map", BOTH]
WARMTH = "all => all.map((e) => parseInt(e.style.getPropertyValue('--warmth')))"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    root = tmp_path_factory.mktemp("explorer") / "build"
    annotated(root, k=150)
    return root


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EP_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served(build) as address:
            yield address


def test_start_leads_to_a_dictionary_and_back(page):
    go(page, "/")
    assert page.locator("tbody tr").count() == 2
    page.get_by_role("link", name="resid_post.1 p8").click()
    page.wait_for_url("**/d/resid_post.1-p8")
    ready(page)
    assert "19" not in page.locator("h1").inner_text()
    assert page.locator(".tiles b").first.inner_text() == "38"
    page.go_back()
    page.wait_for_url("**/")
    assert page.locator("h1").inner_text() == "2 dictionaries"


def test_overview_draws_and_tells(page):
    go(page, FINE)
    page.wait_for_selector(".plot .main-svg .lines path")
    assert page.locator(".plot .lines path").count() == 2
    captions = page.locator("figcaption").all_inner_texts()
    assert re.match(r"150 regions after [\d,]+ activations; half of them after [\d,]+\.", captions[0])
    assert re.match(r"The largest region has [\d,]+ members; \d+ regions have none\.", captions[1])
    headings = page.locator("main h2").all_inner_texts()
    assert headings[:2] == ["Growth", "Sizes of regions"]
    assert headings[2:] == ["Largest regions", "Intrinsic metrics beside their nulls", "How it was made"]
    row = page.locator("tr", has_text="silhouette")
    assert row.locator("td").all_inner_texts() == ["silhouette", "0.300", "0.240", "0.150"]
    assert "synthetic-<b>model</b>" in page.locator("h1").inner_text()


def test_list_searches_as_one_types_and_keeps_it_in_the_address(page, build):
    go(page, f"{FINE}/regions")
    assert page.locator("tbody tr").count() == 100
    page.keyboard.press("/")
    page.keyboard.type("<script>")
    page.get_by_label("Search in").select_option("token")
    until(page, "document.querySelectorAll('tbody tr').length === 1")
    assert page.locator("tbody .token").first.inner_text() == HOSTILE[0]
    assert page.locator("#status").inner_text() == "1 of 150 regions"
    assert "q=%3Cscript%3E" in page.url
    deep = page.url
    go(page, "/")
    go(page, deep)
    assert page.locator("tbody tr").count() == 1
    assert page.get_by_label("Search regions").input_value() == "<script>"


def test_words_of_a_context_are_found_and_the_example_says_where(page, build):
    d = store.load(build, percentile=2)
    word = d.annotation.examples(40)[0]["tokens"][9].strip()
    go(page, f"{FINE}/regions")
    page.get_by_label("Search regions").fill(word)
    until(page, "document.querySelectorAll('.excerpt').length > 0")
    expected = [hit.region for hit in d.search(word, top=100)]
    assert [int(text) for text in page.locator("tbody td:first-child").all_inner_texts()] == expected
    assert page.locator(".excerpt mark").count() == len(expected)


def test_the_list_begins_with_interest_and_is_filtered(page, build):
    interest = store.load(build, percentile=2).annotation.interest
    go(page, f"{FINE}/regions")

    def regions():
        return [int(text) for text in page.locator("tbody td:first-child").all_inner_texts()]

    assert regions() == interest.order[:100].tolist()
    page.get_by_label("hide single-word regions").check()
    page.get_by_label("30 members or more").check()
    kept = [int(i) for i in interest.order if interest.members[i] >= 30 and not interest.single_word[i]]
    until(page, f"document.querySelector('#status').textContent === '{len(kept)} of 150 regions'")
    assert regions() == kept[:100]
    assert "several=1" in page.url and "members=30" in page.url
    go(page, page.url)
    assert page.get_by_label("30 members or more").is_checked()
    page.get_by_role("button", name="One word").click()
    until(page, "location.search.includes('sort=identity')")
    page.get_by_role("button", name="best first").click()
    until(page, "location.search.includes('sort=best')")


def test_list_sorts_and_turns_pages_and_back_undoes_it(page):
    def regions():
        return [int(text) for text in page.locator("tbody td:first-child").all_inner_texts()]

    go(page, f"{FINE}/regions")
    by_size = regions()
    page.get_by_role("button", name="Region").click()
    until(page, "document.querySelector('tbody td').textContent === '0'")
    assert regions() == list(range(100))
    assert page.locator("th", has_text="Region").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("n")
    until(page, "document.querySelector('tbody td').textContent === '100'")
    assert regions() == list(range(100, 150))
    page.go_back()
    until(page, "document.querySelector('tbody td').textContent === '0'")
    page.go_back()
    until(page, f"document.querySelector('tbody td').textContent === '{by_size[0]}'")
    assert regions() == by_size


def test_keys_walk_the_list_and_open_a_region(page):
    go(page, f"{FINE}/regions?sort=region&desc=0")
    for key in ("j", "j", "j", "k", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.textContent") == "2"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{FINE}/regions/2")
    ready(page)
    page.keyboard.press("n")
    page.wait_for_url(f"**{FINE}/regions/3")
    ready(page)
    page.keyboard.press("p")
    page.wait_for_url(f"**{FINE}/regions/2")
    ready(page)
    page.keyboard.press("/")
    page.wait_for_url(f"**{FINE}/regions#search")
    ready(page)
    assert page.evaluate("document.activeElement.id") == "search"


def test_help_opens_by_key_and_closes(page):
    go(page, FINE)
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keyboard").is_visible()
    page.keyboard.press("n")  # does nothing meanwhile
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    assert page.url.endswith(FINE)


def test_region_shows_its_evidence(page, build):
    d = store.load(build, percentile=2)
    index = 33
    go(page, f"{FINE}/regions/{index}")
    row, examples = d.annotation.region(index), d.annotation.examples(index)
    assert page.locator("dd").first.inner_text().startswith(f"{row['members']:,} (rank ")
    for kind in ("nearest", "random", "farthest"):
        page.get_by_role("button", name=kind).click()
        shown = page.locator(".examples .num").all_inner_texts()
        assert shown == [f"{example['distance']:.3f}" for example in examples if example["kind"] == kind]
    assert page.locator(".examples li").first.locator("span.warm").count() == 15
    assert page.locator(".examples li").first.locator("mark.at").count() == 1
    assert [text.replace("\n", " ") for text in page.locator("main h2").all_inner_texts()] == [
        *("Exemplar", "Members", "What it promotes"),
        *("Distances of members to the exemplar", "Tokens", "Nearest regions", "At other percentiles"),
    ]
    page.wait_for_selector("h3:has-text('parent at p8')")
    page.wait_for_selector(".plot .bars path", state="attached")
    assert "lie within θ = 0.4200" in page.locator("figcaption").inner_text()
    page.get_by_label("Nearest regions").get_by_role("link").first.click()
    page.wait_for_url(re.compile(rf"{FINE}/regions/(?!{index}$)\d+"))


def test_tokens_near_the_exemplar_are_warmer(page):
    go(page, f"{FINE}/regions/33")
    first = page.locator(".examples li").first
    warmth = first.locator(".warm").evaluate_all(WARMTH)
    marked = first.locator(".warm").evaluate_all("all => all.findIndex((e) => e.classList.contains('at'))")
    assert max(warmth) == warmth[marked] > 50
    grounds = first.locator(".warm").evaluate_all("all => all.map((e) => getComputedStyle(e).backgroundColor)")
    assert len(set(grounds)) > 3


def test_region_without_members_says_so(page):
    go(page, f"{FINE}/regions/{EMPTY}")
    assert "No token of the annotated text belongs to this region." in page.locator("main").inner_text()
    assert page.locator(".examples").count() == 0


def test_a_label_is_written_kept_and_taken_back(page, build):
    d = store.load(build, percentile=2)
    automatic = Labels.read(d).best(40).text
    go(page, f"{FINE}/regions/40")
    page.keyboard.press("e")
    page.keyboard.type("<b>bold</b> \U0001f98a & 'quoted'")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=by hand")
    assert page.locator("#status").inner_text() == "Label saved"
    assert Labels.read(d).best(40).text == "<b>bold</b> \U0001f98a & 'quoted'"
    page.reload()
    ready(page)
    assert page.locator(".label.big").inner_text() == "<b>bold</b> \U0001f98a & 'quoted'"
    page.get_by_role("button", name="Edit label").click()
    page.get_by_label("Label", exact=True).fill("")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=by contrast with nearby regions")
    assert page.locator(".label.big").inner_text() == automatic


def test_a_region_is_kept_in_a_list_and_drawn_on_a_card(page, build, tmp_path):
    from exemplar_partitioning.folder import bookmarks

    d = store.load(build, percentile=2)
    go(page, "/d/resid_post.1-p2/regions/0")  # at a hostile token
    page.get_by_label("List to put it into").fill("to <b>read</b>")
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("link", name="to <b>read</b>").click()
    ready(page)
    assert page.locator("tbody tr").count() == 1 and bookmarks.read(d) == {"to <b>read</b>": [0]}
    page.locator("tbody a").first.click()
    ready(page)
    with page.expect_download() as picture:
        page.get_by_role("button", name="PNG").click()
    picture.value.save_as(tmp_path / "card.png")
    assert (tmp_path / "card.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "card.png").stat().st_size > 20_000
    with page.expect_download() as card:
        page.get_by_role("link", name="HTML").click()
    card.value.save_as(tmp_path / "card.html")
    assert (tmp_path / "card.html").read_text() == d[0].card() and "<script>" not in d[0].card()
    page.get_by_role("button", name="take it out").click()
    until(page, "document.querySelectorAll('.keeping a[href*=list]').length === 0")
    assert bookmarks.read(d) == {}


def test_hostile_tokens_are_text(page):
    """Nothing is executed or fetched (see `window`), nothing invisible stays so, nothing widens the page."""
    for region in range(len(HOSTILE)):
        go(page, f"{FINE}/regions/{region}")
        shown = page.locator("h1 .token")
        assert shown.locator("script, img, b").count() == 0
        assert shown.inner_text().strip()
        assert not re.search(r"[\u202e\u200d\x00-\x08\x0b-\x1f]", page.locator("body").inner_text())
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_map_shows_what_is_pointed_at_and_opens_it(page, build):
    go(page, f"{FINE}/map")
    assert "150 regions" in page.locator("#status").inner_text()
    where = """(i) => {
        const plot = document.querySelector('.map'), { xaxis: x, yaxis: y } = plot._fullLayout;
        const { left, top } = plot.getBoundingClientRect(), data = plot.data[0];
        return [left + x._offset + x.d2p(data.x[i]), top + y._offset + y.d2p(data.y[i])];
    }"""
    region = int(store.load(build, percentile=2).annotation.regions["members"].to_numpy().argmax())
    assert page.locator(".names bdi").count() > 5
    assert page.locator(".frame").locator("script, img, a").count() == 0
    page.mouse.move(5, 5)
    page.mouse.move(*page.evaluate(where, region), steps=4)
    page.wait_for_selector(".tip:visible")
    found = int(re.match(r"Region (\d+)", page.locator(".tip").inner_text())[1])
    assert Labels.read(store.load(build, percentile=2)).best(found).text in page.locator(".tip").inner_text()
    before = page.evaluate("document.querySelector('.map')._fullLayout.xaxis.range")
    page.mouse.wheel(0, -300)
    until(page, f"document.querySelector('.map')._fullLayout.xaxis.range[0] > {before[0]}")
    page.get_by_label("Highlight regions").fill("<script>")
    until(page, "document.querySelector('.map').data.length === 2")
    page.get_by_label("Colour by").select_option("coherence")
    assert "coherence: " in page.locator(".scale").inner_text()
    page.get_by_label("Highlight regions").fill("")
    page.mouse.move(5, 5)
    page.mouse.move(*page.evaluate(where, region), steps=4)
    page.wait_for_selector(".tip:visible")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_url(f"**{FINE}/regions/*")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_narrow_screen_in_both_themes(browser, site, scheme):
    with window(browser, site, width=400, scheme=scheme) as page:
        for path in PAGES:
            fits(page, path, scheme)


def test_the_theme_is_switched_and_remembered(page):
    go(page, FINE)
    page.wait_for_selector(".plot .lines path")
    stroke = "getComputedStyle(document.querySelector('.plot .lines path')).stroke"
    before = page.evaluate(stroke)
    page.get_by_role("button", name="Switch between dark and light").click()
    until(page, f"{stroke} !== '{before}'")
    go(page, "/")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_pages_can_be_heard(page):
    for path in PAGES:
        go(page, path)
        hearable(page)


def test_without_annotation_pages_say_how_to_get_one(browser, tmp_path):
    annotated(tmp_path, k=40, percentiles=(2,), annotate=False)
    with served(tmp_path) as site, window(browser, site) as page:
        for path in (FINE, f"{FINE}/regions", f"{FINE}/regions/3"):
            go(page, path)
            assert "Run ep annotate" in page.locator(".notice").inner_text().replace("`", "")
        go(page, f"{FINE}/regions")
        assert page.locator("tbody tr").count() == 40
        assert "Online counts" in page.locator("thead").inner_text()


def test_a_damaged_dictionary_is_told_on_its_page(browser, tmp_path):
    annotated(tmp_path, k=40)
    path = tmp_path / "resid_post.1" / "p2" / "exemplars.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with served(tmp_path) as site:
        context = browser.new_context(base_url=site)
        page = context.new_page()
        go(page, FINE)
        assert "truncated or altered" in page.get_by_role("alert").inner_text()
        go(page, "/d/nothing/regions/3")
        assert "no dictionary" in page.get_by_role("alert").inner_text()
        go(page, "/beauty")
        assert "no such page" in page.get_by_role("alert").inner_text()
        go(page, "/d/resid_post.1-p8")
        assert page.get_by_role("alert").count() == 0
        context.close()


@pytest.fixture(scope="module")
def live_site(tiny_folder, text_file, tmp_path_factory):
    from exemplar_partitioning.folder.model import model_of
    from exemplar_partitioning.show.explorer.live import Live

    out = build_tiny(tiny_folder, text_file, tmp_path_factory.mktemp("live") / "out")
    with served(out, live=Live(model_of(store.load(out, percentile=5), str(tiny_folder)))) as address:
        yield address, out


def test_text_is_read_as_one_types(browser, live_site, tiny_folder):
    from exemplar_partitioning.folder.model import model_of
    from exemplar_partitioning.reading import decomposed, read

    address, out = live_site
    d = store.load(out, percentile=5)
    text = "the old fox <b>sings</b> under a stone"
    expected = read([d], model_of(d, str(tiny_folder)), text)[0]
    with window(browser, address) as page:
        go(page, "/d/resid_post.1-p5")
        page.get_by_role("link", name="Live").click()
        ready(page)
        page.get_by_label("Text to read").fill(text)
        page.wait_for_selector(".live >> text=fox")
        until(page, f"document.querySelector('.live').textContent === {text!r}")
        tokens = page.locator(".live a")
        regions = [int(href.rsplit("/", 1)[1]) for href in tokens.evaluate_all("all => all.map((e) => e.pathname)")]
        assert regions == [token.region for token in expected]
        grounds = tokens.evaluate_all("all => all.map((e) => getComputedStyle(e).backgroundColor)")
        assert len(set(grounds)) == len(set(regions))
        page.get_by_role("button", name="colour by distance").click()
        warmth = tokens.evaluate_all(WARMTH)
        order = sorted(range(len(expected)), key=lambda i: expected[i].distance)
        assert [warmth[i] for i in order] == sorted(warmth, reverse=True)
        page.get_by_role("button", name="made of").click()
        bars = page.locator(".made")
        until(page, f"document.querySelectorAll('.made').length === {len(expected)}")
        made = decomposed(d, model_of(d, str(tiny_folder)), text, 8)
        for i, token in enumerate(made):
            links = bars.nth(i).locator("a").evaluate_all("all => all.map((e) => e.pathname)")
            assert [int(link.rsplit("/", 1)[1]) for link in links] == token.regions
        widths = bars.nth(0).locator("a").evaluate_all("all => all.map((e) => e.getBoundingClientRect().width)")
        whole = bars.nth(0).evaluate("e => e.getBoundingClientRect().width")
        assert abs(sum(widths) / whole - (1 - made[0].left ** 2)) < 0.02
        page.get_by_role("button", name="next token").click()
        page.get_by_role("region", name="What the next token hangs on").wait_for()
        assert page.locator("main").get_by_text("Next comes").is_visible()
        page.get_by_role("button", name="tokens", exact=True).click()
        deep = page.url
        tokens.nth(2).click()
        page.wait_for_url(f"**/d/resid_post.1-p5/regions/{expected[2].region}")
        go(page, deep)
        assert page.get_by_label("Text to read").input_value() == text
        page.get_by_label("Dictionary").select_option("resid_post.1-p20")
        page.wait_for_url("**/d/resid_post.1-p20/live")
        ready(page)
        assert page.locator(".live a").count() > 5


def test_a_real_dictionary_is_shown_from_end_to_end(browser, live_site):
    with window(browser, live_site[0]) as page:
        for rest in ("", "/regions", "/regions/0", "/map"):
            go(page, f"/d/resid_post.1-p5{rest}")
            assert page.get_by_role("alert").count() == 0


STEER = "/d/resid_post.1-p5/steer"


@pytest.fixture
def steering(browser, live_site):
    with window(browser, live_site[0]) as opened:
        yield opened


def settled(page, done):
    """Both texts as the page shows them, once the heading says what was done and nothing is being written."""
    ready(page)
    until(page, f"document.querySelector('.written').textContent.includes({done!r})")
    until(page, "document.querySelector('.written').getAttribute('aria-busy') === 'false'")
    return [side(page, name).locator(".text").text_content() for name in ("Before", "After")]


def side(page, name):
    return page.get_by_role("region", name=name, exact=True)


def answered(site, **asked):
    """The server's answer, and both texts as a page has to show them."""
    answer = get(f"{site}/api/dictionaries/resid_post.1-p5/steer", asked)
    return answer, ["".join(map(shown, "".join(t["text"] for t in answer[name]))) for name in ("before", "after")]


def shown(character):
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or character == "\xa0":
        return {"\n": "↵\n", "\t": "⇥"}.get(character, f"‹{ord(character):02X}›")
    return character


def test_the_slider_steers_by_keyboard_and_both_texts_are_shown(steering, live_site):
    asked = {"prompt": "the old dog", "regions": [3], "max_new_tokens": 12}
    go(steering, f"{STEER}?region=3&alpha=0&new=12&prompt=the+old+dog")
    before, after = settled(steering, "alpha 0")
    assert [before, after] == answered(live_site[0], alpha=0, **asked)[1]
    assert before == after
    slider = steering.get_by_label("alpha, in typical residual norms")
    slider.focus()
    for _ in range(39):
        steering.keyboard.press("ArrowLeft")
    assert steering.get_by_label("alpha, as a number").input_value() == "-1.95"
    settled(steering, "alpha −1.95")
    steering.keyboard.press("Home")
    before, after = settled(steering, "alpha −2")
    assert "alpha=-2" in steering.url
    answer, expected = answered(live_site[0], alpha=-2, **asked)
    assert [before, after] == expected
    assert before != after
    marks, off = side(steering, "After").locator(".off"), sum(token["off"] for token in answer["after"])
    assert marks.count() == off > 0
    assert marks.first.get_attribute("title").startswith("off the manifold; nearest region ")
    assert marks.first.evaluate("(e) => getComputedStyle(e).textDecorationLine") == "underline"
    assert f"{off} of 12 tokens off the manifold" in side(steering, "After").inner_text()
    assert f"{off} of 12 tokens off the manifold" in steering.locator(".progress").inner_text()
    assert steering.locator(".progress").get_attribute("aria-live") == "polite"
    assert steering.locator(".legend .off").inner_text() == "off the manifold"
    links = side(steering, "After").locator("a").evaluate_all("all => all.map((e) => e.pathname.split('/').at(-1))")
    assert links == [str(token["region"]) for token in answer["after"] if token["region"] is not None and token["text"]]


def test_a_number_beyond_the_slider_is_taken(steering, live_site):
    go(steering, f"{STEER}?region=3&alpha=0&new=6&prompt=the+old+dog")
    steering.get_by_label("alpha, as a number").fill("7.5")
    texts = settled(steering, "alpha 7.5")
    assert texts == answered(live_site[0], prompt="the old dog", regions=[3], alpha=7.5, max_new_tokens=6)[1]
    assert steering.get_by_label("alpha, in typical residual norms").input_value() == "2"


def test_every_choice_is_in_the_address_and_comes_back(steering, live_site):
    go(steering, f"{STEER}?region=3")
    steering.get_by_label("region").fill("3, 5")
    steering.get_by_label("do", exact=True).select_option("ablate")
    steering.get_by_label("at", exact=True).select_option("generated")
    steering.get_by_label("new tokens").fill("7")
    steering.get_by_label("prompt", exact=True).fill("a king & <b>a fox</b>")
    until(
        steering,
        "location.search.includes('fox') && document.querySelector('.progress').textContent.includes('Written')",
    )
    texts = settled(steering, "regions 3, 5 ablated")
    assert steering.get_by_label("alpha, as a number").is_disabled()
    asked = {"prompt": "a king & <b>a fox</b>", "regions": [3, 5], "mode": "ablate", "tokens": "generated"}
    assert texts == answered(live_site[0], max_new_tokens=7, **asked)[1]
    deep = steering.url
    steering.locator(".chosen a").last.click()
    steering.wait_for_url("**/regions/5")
    steering.go_back()
    steering.wait_for_url(deep)
    assert settled(steering, "regions 3, 5 ablated") == texts
    go(steering, deep)
    assert settled(steering, "regions 3, 5 ablated") == texts
    assert steering.get_by_label("prompt", exact=True).input_value() == "a king & <b>a fox</b>"


def test_a_region_leads_to_steering_along_it(steering, live_site):
    url = f"{live_site[0]}/api/dictionaries/resid_post.1-p5/regions/4/label"
    get(url, {"text": '<img src=x onerror="window.hacked = 1">'})
    go(steering, "/d/resid_post.1-p5/regions/4")
    steering.get_by_role("link", name="Steer").last.click()
    steering.wait_for_url("**/steer?region=4")
    settled(steering, "region 4 added, alpha 0.25")
    assert steering.locator(".chosen").inner_text() == 'region 4 <img src=x onerror="window.hacked = 1">'
    assert steering.locator("main img").count() == 0
    get(url, {"text": ""})


def test_a_region_is_found_by_its_label_and_steered_along(steering, live_site):
    d = store.load(live_site[1], percentile=5)
    go(steering, "/d/resid_post.1-p5/steer")
    steering.get_by_label("or find it").fill(re.findall(r"[a-z]{3,}", d[2].label.text)[0])
    hit = steering.locator(".hits button").first
    region = hit.inner_text().split()[0]
    hit.click()
    until(steering, f"document.querySelector('#steer-region').value === '{region}'")
    settled(steering, f"region {region} added")


def test_the_page_says_whether_its_text_reads(steering, live_site):
    go(steering, f"{STEER}?region=3&alpha=0&new=8&prompt=the+old+dog")
    settled(steering, "alpha 0")
    answer, _ = answered(live_site[0], prompt="the old dog", regions=[3], alpha=0, max_new_tokens=8)
    assert answer["verdict"] == "reads" and answer["fluency"]["before"] == answer["fluency"]["after"]
    assert steering.locator(".verdict").inner_text().startswith("reads: perplexity under the model as it is ")
    steering.get_by_role("button", name="a row of strengths").click()
    until(steering, "document.querySelectorAll('.strengths section').length === 3")
    assert steering.locator(".strengths h2").all_inner_texts() == ["alpha 0.1", "alpha 0.25", "alpha 0.5"]
    assert steering.locator(".strengths .verdict b").count() == 3
    until(steering, "document.querySelector('.progress').textContent === ''")
    steering.get_by_role("button", name="strongest that reads").click()
    until(steering, "document.querySelector('.written section + section').textContent.includes('added, alpha 0.')")
    until(steering, "document.querySelector('.written').getAttribute('aria-busy') === 'false'")
    assert float(steering.get_by_label("alpha, as a number").input_value()) in GRID


def test_an_answer_that_was_overtaken_is_dropped(steering):
    """One request at a time; what was changed last is asked next, and nothing between."""
    held = []
    steering.route("**/steer", lambda route: held.append(route))
    go(steering, f"{STEER}?region=3&alpha=1&new=6")
    until_held(steering, held, 1)
    assert steering.locator(".progress").inner_text() == "writing …"
    assert steering.locator(".written").get_attribute("aria-busy") == "true"
    for alpha in ("0.1", "0.2", "0.3"):
        steering.get_by_label("alpha, as a number").fill(alpha)
        until(steering, f"location.search.includes('alpha={alpha}')")
    assert len(held) == 1
    held[0].continue_()
    until_held(steering, held, 2)
    assert side(steering, "After").locator("h2").inner_text() == "After"
    assert [route.request.post_data_json["alpha"] for route in held] == [1, 0.3]
    held[1].continue_()
    settled(steering, "alpha 0.3")
    assert len(held) == 2


def until_held(page, held, count):
    while len(held) < count:
        page.wait_for_timeout(20)


def test_what_does_not_fit_is_told_where_the_texts_were(browser, live_site):
    context = browser.new_context(base_url=live_site[0])  # a refusal is an error on the browser's console
    page = context.new_page()
    for query, words in (
        ("region=99999", "region 99999 does not exist"),
        ("region=3,dog", "regions.1: Input should be a valid integer; got 'dog'"),
        ("region=3&alpha=much", "alpha: Input should be a valid number"),
        ("region=3&new=201", "less than or equal to 200"),
        ("region=3&prompt=+", "the prompt is empty"),
        (f"region=3&prompt={'dog+' * 200}", "context of 144"),
        ("region=3&basis=mean", "ep annotate"),
    ):
        go(page, f"{STEER}?{query}")
        assert words in page.get_by_role("alert").inner_text()
        assert not page.locator(".written").is_visible()
    page.get_by_label("direction").select_option("exemplar")
    settled(page, "region 3 added")
    assert page.get_by_role("alert").count() == 0
    context.close()


def test_steering_without_a_region_points_to_the_list(steering):
    go(steering, "/d/resid_post.1-p5")
    steering.get_by_role("link", name="Steer").click()
    ready(steering)
    steering.locator(".progress a").click()
    steering.wait_for_url("**/d/resid_post.1-p5/regions")


def test_without_a_model_live_pages_say_how_to_load_one(page):
    for path in ("live", "steer?region=3"):
        go(page, f"{FINE}/{path}")
        assert "ep explore` with --live" in page.locator(".notice").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_texts_stand_side_by_side_or_one_above_the_other(browser, live_site, scheme):
    for width in (1280, 400):
        with window(browser, live_site[0], width=width, scheme=scheme) as page:
            go(page, f"{STEER}?region=3&alpha=-2&new=12")
            settled(page, "alpha −2")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            before, after = (side(page, name).bounding_box() for name in ("Before", "After"))
            assert (before["y"] == after["y"]) == (width == 1280)
            assert page.evaluate(NAMELESS) == []
            assert page.locator("h1").count() == 1
            look = "(e) => [getComputedStyle(e).textDecorationColor, getComputedStyle(document.body).backgroundColor]"
            line, ground = side(page, "After").locator(".off").first.evaluate(look)
            assert line != ground
