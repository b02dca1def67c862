"""Tokens and passages in the explorer: what they are near to and made of, in every dictionary of a build."""

import shutil

import numpy as np
import pytest
import torch

from exemplar_partitioning.compare.row import row
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.activations import Kept
from exemplar_partitioning.folder.listing import find
from exemplar_partitioning.folder.model import model_of
from exemplar_partitioning.models.generate import encode, generate
from exemplar_partitioning.reading import decomposed, read
from exemplar_partitioning.show.explorer.live import Live
from explorer_browser import NEEDED, fits, go, hearable, until, window
from explorer_site import build_tiny, get, request, served

KEY = "resid_post.1-p5"
TEXT = "the old fox sings under a stone"


@pytest.fixture(scope="module")
def built(tiny_folder, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokens") / "out"
    return build_tiny(tiny_folder, text_file, out, sites="resid_post.*", annotate=True, keep_activations="all")


@pytest.fixture(scope="module")
def loaded(built, tiny_folder):
    return model_of(store.load(find(built)[0]), str(tiny_folder))


@pytest.fixture(scope="module")
def site(built):
    with served(built) as address:
        yield address


@pytest.fixture(scope="module")
def live_site(built, loaded, tmp_path_factory):
    """Without what the build kept, so that the model has to read."""
    bare = shutil.copytree(built, tmp_path_factory.mktemp("bare") / "out", ignore=shutil.ignore_patterns("activations"))
    with served(bare, live=Live(loaded)) as address:
        yield address


def some_region(d):
    """One with many members, so that it has examples of every kind."""
    return int(np.argmax(d.annotation.regions["members"].to_numpy()))


def test_an_examples_activation_is_found_among_those_kept(site, built):
    d = store.load(built / "resid_post.1" / "p5")
    kept = Kept.beside(built).spill
    x_nd = kept.read("resid_post.1", 0, kept.n)
    ids, distances = d.assign(x_nd)
    for region in (some_region(d), 3):
        for example in d.annotation.examples(region)[::3]:
            name = f"{example['kind']}-{example['rank']}"
            answer = get(f"{site}/api/dictionaries/{KEY}/regions/{region}/token?example={name}")
            assert (answer["source"], answer["why_not"], answer["caveat"]) == ("kept", None, None)
            assert answer["nearest"][0]["region"] == region
            at = int(torch.where((ids == region) & (distances == example["distance"]))[0][0])
            parts = d.decompose(x_nd[at], min(16, d.k, d.d_model))
            assert answer["made"]["regions"] == parts.regions[parts.regions >= 0].tolist()
            left = float(parts.residual_norm / (x_nd[at] - d.center).norm())
            assert answer["made"]["left"] == pytest.approx(left, abs=1e-6)
            stacked = get(f"{site}/api/dictionaries/{KEY}/regions/{region}/stack?example={name}")
            assert [each["key"] for each in stacked["rows"]] == [
                f"resid_post.{i}-p{p}" for i in range(3) for p in (5, 20)
            ]
            other = store.load(built / "resid_post.2" / "p20").assign(kept.read("resid_post.2", at, at + 1))[0][0]
            assert stacked["rows"][-1]["regions"][stacked["at"]] == int(other)


def test_an_examples_tokens_are_stacked_from_what_was_kept(site, built):
    d = store.load(built / "resid_post.1" / "p5")
    region = some_region(d)
    example = d.annotation.examples(region, "random")[1]
    answer = get(f"{site}/api/dictionaries/{KEY}/regions/{region}/stack?example=random-1")
    assert answer["tokens"] == example["tokens"] and answer["at"] == example["at"]
    here = next(each for each in answer["rows"] if each["key"] == KEY)
    assert here["regions"][example["at"]] == region
    for own, distance, stated in zip(here["regions"], here["distances"], example["distances"], strict=True):
        assert (own is None) == (stated is None)
        if own == region:
            assert distance == pytest.approx(stated, abs=2e-3)


def test_an_exemplar_is_made_of_itself_kept_or_read_again(site, live_site):
    for address, source in ((site, "kept"), (live_site, "model")):
        answer = get(f"{address}/api/dictionaries/{KEY}/regions/7/token")
        assert (answer["source"], answer["made"]["regions"][0], answer["nearest"][0]["region"]) == (source, 7, 7)
        assert answer["made"]["left"] < 1e-3


def test_without_kept_activations_the_model_reads_and_says_what_differs(live_site, built):
    d = store.load(built / "resid_post.1" / "p5")
    region = some_region(d)
    for example in d.annotation.examples(region, "nearest"):
        answer = get(f"{live_site}/api/dictionaries/{KEY}/regions/{region}/token?example=nearest-{example['rank']}")
        whole = example["position"] < 20  # its window began no earlier than the tokens that are kept
        assert answer["source"] == "model" and (answer["caveat"] is None or not whole)
        if answer["caveat"]:
            assert f"{example['distance']:.3f}" in answer["caveat"]


def test_where_no_activation_is_at_hand_it_is_said(built, tmp_path):
    bare = shutil.copytree(built, tmp_path / "out", ignore=shutil.ignore_patterns("activations"))
    with served(bare) as address:
        for rest in ("token", "token?example=nearest-0", "stack?example=nearest-0"):
            answer = get(f"{address}/api/dictionaries/{KEY}/regions/3/{rest}")
            assert answer["source"] is None and "--keep-activations" in answer["why_not"]
        assert request(f"{address}/api/dictionaries/{KEY}/regions/3/token?example=nearest-99")[0] == 404
        assert "--live" in request(f"{address}/api/dictionaries/{KEY}/token?at=0", {"text": TEXT})[2]


def test_a_text_is_stacked_as_it_is_read(live_site, built, loaded):
    dictionaries = [store.load(folder) for folder in find(built)]
    answer = get(f"{live_site}/api/dictionaries/{KEY}/stack", {"text": TEXT})
    for each, readings in zip(answer["rows"], read(dictionaries, loaded, TEXT), strict=True):
        assert each["regions"] == [token.region for token in readings]
        assert each["distances"] == pytest.approx([token.distance for token in readings], abs=1e-4)
        assert set(answer["regions"][each["key"]]) == {str(region) for region in each["regions"]}
    token = get(f"{live_site}/api/dictionaries/{KEY}/token?at=3", {"text": TEXT})
    d = store.load(built / "resid_post.1" / "p5")
    expected = decomposed(d, loaded, TEXT, min(16, d.k, d.d_model))[3]
    assert token["made"]["regions"] == expected.regions
    assert token["made"]["left"] == pytest.approx(expected.left, abs=1e-5)
    status, _, said = request(f"{live_site}/api/dictionaries/{KEY}/token?at=99", {"text": TEXT})
    assert status == 400 and "numbered from 0" in said


@NEEDED
def test_an_example_leads_to_its_token_and_that_to_every_dictionary(browser, site, built):
    d = store.load(built / "resid_post.1" / "p5")
    region = some_region(d)
    with window(browser, site) as page:
        go(page, f"/d/{KEY}/regions/{region}")
        page.locator(".examples a.num").nth(1).click()
        page.wait_for_url(f"**/token?region={region}&example=nearest-1")
        page.get_by_role("region", name="Nearest regions").wait_for()
        hearable(page)
        assert page.get_by_role("region", name="Nearest regions").get_by_role("link").first.inner_text() == str(region)
        strip = page.locator(".made")
        whole = strip.evaluate("e => e.getBoundingClientRect().width")
        widths = strip.locator("> *").evaluate_all("all => all.map((e) => e.getBoundingClientRect().width)")
        assert abs(sum(widths) - whole) < 2
        assert "left" in strip.inner_text()
        page.get_by_role("link", name="all tokens in all of them").click()
        page.wait_for_url(f"**/stack?region={region}&example=nearest-1")
        page.locator(".stack tbody tr").first.wait_for()
        assert page.locator(".stack tbody tr").count() == 6
        page.get_by_label("Site").select_option("resid_post.1")
        until(page, "document.querySelectorAll('.stack tbody tr').length === 2")
        page.get_by_label("Percentile").select_option("5")
        page.get_by_role("button", name="numbers").click()
        marked = page.locator(".stack thead th").evaluate_all("all => all.findIndex((e) => e.classList.contains('at'))")
        cell = page.locator(".stack tbody tr").first.locator("> *").nth(marked)
        assert cell.inner_text() == str(region)
        hearable(page)
        go(page, page.url)
        assert page.locator(".stack tbody tr").count() == 1
        page.locator(".stack tbody a.hue").first.click()
        page.wait_for_url(f"**/d/{KEY}/regions/*")
    for width, scheme in ((400, "light"), (400, "dark")):
        with window(browser, site, width=width, scheme=scheme) as page:
            for path in ("token", "stack"):
                fits(page, f"/d/{KEY}/{path}?region={region}&example=nearest-1", scheme)


@NEEDED
def test_a_text_of_the_moment_leads_to_its_tokens(browser, live_site):
    with window(browser, live_site) as page:
        go(page, f"/d/{KEY}/live")
        page.get_by_label("Text to read").fill(TEXT)
        until(page, f"document.querySelector('.live').textContent === {TEXT!r}")
        page.get_by_role("link", name="made of, and nearest regions").nth(2).click()
        page.wait_for_url("**/token?*at=2")
        page.locator(".made").wait_for()
        page.keyboard.press("n")
        page.wait_for_url("**/token?*at=3")
        page.get_by_role("link", name="Stacked").click()
        page.locator(".stack tbody tr").first.wait_for()
        page.get_by_label("Text to read").fill("a king knows")
        until(page, "document.querySelectorAll('.stack thead th').length === 4")
        assert "text=a+king+knows" in page.url
        assert page.locator(".stack tbody tr").count() == 6


def test_layers_are_those_of_the_row_that_match_follows(site, built):
    folders = [folder for folder in find(built) if folder.name == "p5"]
    expected = row([store.load(folder) for folder in folders])
    answer = get(f"{site}/api/dictionaries/{KEY}/layers")
    assert [each["site"] for each in answer["sites"]] == [f"resid_post.{i}" for i in range(3)]
    assert [d["k"] for each in answer["sites"] for d in each["dictionaries"]] == [store.load(f).k for f in find(built)]
    assert f"{built} --neighbours --site 'resid_post.*' --percentile 5" in answer["command"]
    told = get(f"{site}/api/dictionaries/{KEY}/layers/persistence")
    assert [{k: v for k, v in each.items() if k not in ("key", "site")} for each in told["rows"]] == expected.rows()
    line = get(f"{site}/api/dictionaries/{KEY}/regions/4/layers")
    assert line["at"] == 1 and line["line"][1]["region"] == 4
    _, here, last = expected.dictionaries
    assert line["line"][0]["region"] == expected.steps[0].nearest_l[4]
    assert line["line"][0]["persists"] == bool(expected.steps[0].continues_l[4])
    cosines = last.exemplars @ here.exemplars[4]
    assert line["line"][2]["region"] == int(cosines.argmax())
    assert line["line"][2]["persists"] == bool(expected.steps[1].persisted_k[4])


def test_a_place_without_coordinates_in_common_is_not_followed(site, built, tmp_path):
    shutil.copytree(built / "resid_post.1", tmp_path / "out" / "resid_post.1")
    with served(tmp_path / "out") as address:
        assert "one block" in get(f"{address}/api/dictionaries/{KEY}/layers")["why_not"]
        status, _, said = request(f"{address}/api/dictionaries/{KEY}/layers/persistence")
        assert status == 400 and "--site" in said


@NEEDED
def test_a_region_is_followed_through_the_layers(browser, site):
    with window(browser, site) as page:
        go(page, f"/d/{KEY}/regions/4")
        page.get_by_role("link", name="Through layers").click()
        page.wait_for_url("**/layers?region=4#follow")
        rows = page.get_by_role("region", name="The region in every block").locator("tbody tr")
        until(page, "document.querySelectorAll('#follow tbody tr').length === 3")
        assert "4" in rows.nth(1).locator("td").nth(1).inner_text()
        page.get_by_role("region", name="From block to block").wait_for()
        until(page, "/persists|chance/.test(document.querySelector('#follow').textContent)")
        hearable(page)
        page.get_by_label("Region to follow").fill("9")
        page.get_by_role("button", name="Follow").click()
        until(page, "location.search === '?region=9'")
        page.go_back()
        until(page, "document.querySelector('#follow input').value === '4'")
        page.get_by_role("region", name="Regions of every dictionary").get_by_role("link").last.click()
        page.wait_for_url("**/d/resid_post.2-p20")
    for scheme in ("light", "dark"):
        with window(browser, site, width=400, scheme=scheme) as page:
            fits(page, f"/d/{KEY}/layers?region=4", scheme)


def examples_of(answer):
    return [(each["document"], each["position"], each["distance"]) for each in answer["examples"]]


@pytest.mark.parametrize("how", ["kept", "model"])
def test_all_members_of_a_region_are_found_in_the_text_read_again(how, built, loaded, text_file, tmp_path):
    d = store.load(built / "resid_post.1" / "p5")
    region, folder, text = some_region(d), built, []  # run.yaml says where the text is
    if how == "model":
        folder = shutil.copytree(built, tmp_path / "out", ignore=shutil.ignore_patterns("activations", "run.yaml"))
        text = [str(text_file)]
    with served(folder, live=Live(loaded, text)) as address:
        url = f"{address}/api/dictionaries/{KEY}/regions/{region}/members"
        plan = get(f"{url}/plan")
        assert (plan["how"], plan["tokens"] > 1000, plan["seconds"] > 0) == (how, True, True)
        answer = get(f"{url}?limit=100&context=400")
        kept = Kept.beside(built).spill
        ids, distances = d.assign(kept.read("resid_post.1", 0, kept.n))
        if how == "kept":
            assert answer["total"] == int((ids == region).sum())
            expected = distances[ids == region].sort().values[:100].tolist()
            assert [each["distance"] for each in answer["examples"]] == pytest.approx(expected, abs=1e-6)
        nearest = d.annotation.examples(region, "nearest")[0]
        first = next(
            each for each in answer["examples"] if each["distance"] == pytest.approx(nearest["distance"], abs=1e-5)
        )
        assert first["tokens"][first["at"]] == nearest["tokens"][nearest["at"]]
        assert first["distances"][first["at"]] == pytest.approx(nearest["distance"], abs=2e-3)
        assert sum(x is not None for x in first["distances"]) == (len(first["tokens"]) if how == "kept" else 1)
        assert all(len(each["tokens"]) <= 32 for each in answer["examples"])  # windows are no longer
        assert not any("<s>" in each["tokens"] for each in answer["examples"])
        assert first["position"] == nearest["position"] and first["document"] == nearest["document"]
        both = [get(f"{url}?sort=random&limit=5&offset={offset}&context=6") for offset in (0, 5)]
        assert examples_of(get(f"{url}?sort=random&limit=10&context=6")) == [
            *examples_of(both[0]),
            *examples_of(both[1]),
        ]
        assert all(len(each["tokens"]) <= 7 for each in both[0]["examples"])
        assert request(f"{url}?sort=size")[0] == 400


def test_another_text_than_was_kept_is_not_passed_off_as_it(built, loaded, tmp_path):
    (tmp_path / "other.txt").write_text("the old grey dog sings. " * 3000)
    with served(built, live=Live(loaded, [str(tmp_path / "other.txt")])) as address:
        status, said = 202, ""
        while status == 202:
            status, _, said = request(f"{address}/api/dictionaries/{KEY}/regions/3/members")
        assert status == 400 and "has other tokens by now" in said


def test_where_a_text_is_not_known_it_can_be_told(built, loaded, tmp_path):
    bare = shutil.copytree(built, tmp_path / "out", ignore=shutil.ignore_patterns("run.yaml"))
    with served(bare, live=Live(loaded)) as address:
        status, _, said = request(f"{address}/api/dictionaries/{KEY}/regions/3/members/plan")
        assert status == 400 and "--text PATH" in said


@NEEDED
def test_more_members_are_read_when_somebody_asks(browser, built, loaded, text_file):
    d = store.load(built / "resid_post.1" / "p5")
    region = some_region(d)
    with served(built, live=Live(loaded, [str(text_file)])) as address, window(browser, address) as page:
        go(page, f"/d/{KEY}/regions/{region}")
        page.get_by_text("More members, and with more context").click()
        page.get_by_role("button", name="again: about").click()
        more = page.locator("details .examples li")
        more.first.wait_for()
        assert more.count() == 20
        page.locator("details").get_by_role("button", name="20 more").click()
        until(page, "document.querySelectorAll('details .examples li').length === 40")
        page.get_by_label("Order of the members").select_option("farthest")
        until(page, "document.querySelectorAll('details .examples li').length === 20")
        shown = [float(text) for text in page.locator("details .examples .num").all_inner_texts()]
        assert shown == sorted(shown, reverse=True)


TEMPLATE = """{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}
{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"""


@pytest.fixture
def chatting(loaded):
    loaded.tokenizer.chat_template = TEMPLATE
    yield loaded
    loaded.tokenizer.chat_template = None


def test_turns_before_a_prompt_go_into_the_models_template(chatting, built):
    turns = [
        {"role": "system", "content": "sing"},
        {"role": "user", "content": "the old dog"},
        {"role": "assistant", "content": "sees a king"},
    ]
    asked = {"prompt": "a fox", "turns": turns, "regions": [3], "alpha": 0, "max_new_tokens": 6}
    with served(built, live=Live(chatting)) as address:
        answer = get(f"{address}/api/dictionaries/{KEY}/steer", asked)
        text = "<s>[system] sing\n[user] the old dog\n[assistant] sees a king\n[user] a fox\n[assistant] "
        assert (
            encode(chatting, [*turns, {"role": "user", "content": "a fox"}])
            == chatting.tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        (expected,) = generate(chatting, [[*turns, {"role": "user", "content": "a fox"}]], max_new_tokens=6)
        assert [token["token_id"] for token in answer["after"]] == expected.ids
        assert get(f"{address}/api/dictionaries/{KEY}/steer", asked | {"turns": []})["before"] != answer["before"]
        status, _, said = request(
            f"{address}/api/dictionaries/{KEY}/steer", asked | {"turns": [{"role": "king", "content": "x"}]}
        )
        assert status == 400 and "turns.0" in said


@NEEDED
def test_a_chat_goes_on_from_what_was_written(browser, chatting, built):
    with served(built, live=Live(chatting)) as address, window(browser, address) as page:
        go(page, f"/d/{KEY}/steer?region=3&alpha=0&new=6&prompt=the+old+dog")
        until(page, "document.querySelector('.written').getAttribute('aria-busy') === 'false'")
        after = page.get_by_role("region", name="After", exact=True)
        after.get_by_role("button", name="Go on from this").click()
        turns = page.locator(".turns li")
        assert [text.split()[0] for text in turns.all_inner_texts()] == ["user", "assistant"]
        with page.expect_request("**/steer") as sent:
            page.get_by_label("prompt", exact=True).fill("a fox")
        body = sent.value.post_data_json
        assert [turn["role"] for turn in body["turns"]] == ["user", "assistant"] and body["prompt"] == "a fox"
        until(page, "location.hash.includes('turns') && location.search.includes('fox')")
        until(page, "document.querySelector('.written').getAttribute('aria-busy') === 'false'")
        deep = page.url
        go(page, "/")
        go(page, deep)
        assert turns.count() == 2
        hearable(page)
        page.get_by_role("button", name="start anew").click()
        until(page, "!location.hash")
