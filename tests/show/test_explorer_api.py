"""The explorer's answers, against the folders they come from; what it refuses; what it survives."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from annotated import EMPTY, HOSTILE, annotated
from exemplar_partitioning.act.attribute import attribute
from exemplar_partitioning.api import annotate
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.folder.listing import find
from exemplar_partitioning.folder.model import model_of
from exemplar_partitioning.models.generate import encode
from exemplar_partitioning.reading import decomposed
from exemplar_partitioning.show.explorer.library import Library
from exemplar_partitioning.show.explorer.live import Live
from exemplar_partitioning.show.explorer.server import app, server
from explorer_site import build_tiny, get, request, served

K = 150


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("explorer") / "build"
    return root, annotated(root, k=K, percentiles=(2, 4, 8))


@pytest.fixture(scope="module")
def site(built):
    with served(built[0]) as address:
        yield f"{address}/api"


@pytest.fixture
def own(built, tmp_path):
    """A copy of the build that a test may change."""
    shutil.copytree(built[0], tmp_path / "build")
    return tmp_path / "build"


def test_lists_what_the_folder_holds(site, built):
    answer = get(f"{site}/dictionaries")
    assert answer["live"] is False
    assert [(d["site"], d["percentile"], d["k"]) for d in answer["dictionaries"]] == [
        (d.config.site.name, d.config.calibration.percentile, d.k) for d in built[1]
    ]
    assert [d["key"] for d in answer["dictionaries"]] == ["resid_post.1-p2", "resid_post.1-p4", "resid_post.1-p8"]


def test_overview_tells_the_record_and_the_sizes(site, built):
    answer, d = get(f"{site}/dictionaries/resid_post.1-p2"), built[1][0]
    members = d.annotation.regions["members"].to_numpy()
    assert answer["content_id"] == d.content_id
    assert answer["sizes"][0] == [1, members.max()]
    assert answer["sizes"][-1] == [K, members.min()]
    assert answer["growth"][0] == list(d.config.build.growth[0])
    assert answer["growth"][-1] == list(d.config.build.growth[-1])
    assert answer["annotation"]["quality"] == d.annotation.record.quality.model_dump()
    assert [row["size"] for row in answer["largest"]] == sorted(members, reverse=True)[:10]


def test_pages_of_the_list_hold_every_region_once(site, built):
    pages = [
        get(f"{site}/dictionaries/resid_post.1-p2/regions?sort=size&limit=60&offset={at}") for at in (0, 60, 120, 180)
    ]
    assert [len(page["regions"]) for page in pages] == [60, 60, 30, 0]
    rows = [row for page in pages for row in page["regions"]]
    assert sorted(row["region"] for row in rows) == list(range(K))
    members = built[1][0].annotation.regions["members"].to_pylist()
    assert [row["size"] for row in rows] == [members[row["region"]] for row in rows] == sorted(members, reverse=True)


@pytest.mark.parametrize("sort", ["region", "token", "label", "coherence", "stability", "distance", "lens"])
@pytest.mark.parametrize("desc", [0, 1])
def test_lists_in_every_order_those_without_a_value_last(site, sort, desc):
    rows = get(f"{site}/dictionaries/resid_post.1-p2/regions?limit=500&sort={sort}&desc={desc}")["regions"]
    name = {"distance": "mean_distance", "lens": "lens_top"}.get(sort, sort)
    values = ["\n".join(row[name]) if name == "lens_top" else row[name] for row in rows]
    known = [value.lstrip().casefold() if isinstance(value, str) else value for value in values if value is not None]
    assert known == sorted(known, reverse=bool(desc))
    assert None not in values[: len(known)]
    assert len(rows) == K


def test_search_finds_what_contains_the_text(site, built):
    def found(text, within):
        query = urllib.parse.urlencode({"q": text, "in": within, "sort": "region", "desc": 0, "limit": 500})
        return [row["region"] for row in get(f"{site}/dictionaries/resid_post.1-p2/regions?{query}")["regions"]]

    regions, evidence = built[1][0].regions.to_pylist(), built[1][0].annotation.regions.to_pylist()
    tokens = {row["region"] for row in regions if "mo" in row["token"]}
    members = {row["region"] for row in evidence if any("mo" in each["token"] for each in row["top_tokens"])}
    lens = {row["region"] for row in evidence if any("mo" in each["token"] for each in row["lens_top"])}
    assert found("MO", "token") == sorted(tokens)
    assert found("mo", "members") == sorted(members)
    assert found("mo", "lens") == sorted(lens)
    assert set(found("mo", "any")) >= tokens | members | lens
    assert 137 in found("137", "any")
    assert found("<script>", "token") == [0]
    assert found("nothing has this", "any") == []


def test_region_tells_its_evidence_and_its_neighbours(site, built):
    d, index = built[1][0], 33
    answer = get(f"{site}/dictionaries/resid_post.1-p2/regions/{index}")
    assert answer["members"] == d.annotation.region(index)
    assert answer["examples"] == d.annotation.examples(index)
    assert answer["histogram"]["counts"] == d.annotation.histogram[index].tolist()
    cosine = (d.exemplars @ d.exemplars[index]).numpy()
    order = [i for i in np.argsort(-cosine) if i != index][:12]
    assert [row["region"] for row in answer["neighbours"]] == order
    np.testing.assert_allclose([row["cosine"] for row in answer["neighbours"]], cosine[order], rtol=1e-5)
    assert answer["exemplar"]["token"] == d.region(index)["token"]


def test_a_region_without_members_is_shown_all_the_same(site):
    answer = get(f"{site}/dictionaries/resid_post.1-p2/regions/{EMPTY}")
    assert answer["members"]["members"] == 0
    assert answer["examples"] == []
    assert answer["mean_cosine"] is None


def test_parents_and_children_are_those_of_the_tree(site, built):
    """Level by level, the nearest exemplar of the next coarser one; the page of a region and the tree tell the same."""
    levels = built[1]  # fine, middle, coarse
    steps = [(a.exemplars @ b.exemplars.T).argmax(dim=1).numpy() for a, b in pairwise(levels)]
    ancestor = steps[1][steps[0]]
    assert (ancestor != (levels[0].exemplars @ levels[2].exemplars.T).argmax(dim=1).numpy()).any()  # levels do not nest
    for region in (0, 7, 140):
        page = f"{site}/dictionaries/resid_post.1-p2/regions/{region}"
        parents = {other["key"]: other for other in get(f"{page}/relatives")["relatives"]}
        assert [row["region"] for row in parents["resid_post.1-p8"]["regions"]] == [ancestor[region]]
        found = {key: other["regions"][0]["region"] for key, other in parents.items()}
        assert found == {node["key"]: node["region"] for node in get(f"{page}/tree")["ancestors"]}
        assert {other["relation"] for other in parents.values()} == {"parent"}
    children = {}
    for region in range(levels[2].k):
        found = get(f"{site}/dictionaries/resid_post.1-p8/regions/{region}/relatives")["relatives"]
        assert [other["relation"] for other in found] == ["children", "children"]
        assert found[0]["count"] == (ancestor == region).sum()
        children |= {row["region"]: region for row in found[0]["regions"]}
    assert children == dict(enumerate(ancestor))


def test_lengths_that_are_not_known_are_null(tmp_path, atlas_cache):
    """Dictionaries that were imported without their model have none."""
    for d in annotated(tmp_path / "known", k=40, percentiles=(2, 8), annotate=False):
        at = d.regions.schema.get_field_index("raw_norm")
        unknown = pa.array(np.full(d.k, np.nan), pa.float32())
        table = d.regions.set_column(at, d.regions.schema.field(at), unknown)
        store.save(tmp_path / "imported" / "resid_post.1" / d.path.name, d.config, d, table)
    with served(tmp_path / "imported") as address:
        key = f"{address}/api/dictionaries/resid_post.1-p2"
        for region in range(40):
            assert get(f"{key}/regions/{region}")["exemplar"]["raw_norm"] is None
        for page in (
            "",
            "/regions",
            "/regions?sort=coherence",
            "/map",
            "/tree",
            "/regions/3/relatives",
            "/regions/3/tree",
        ):
            get(f"{key}{page}")
        get(f"{address}/api/compare?a=resid_post.1-p2&b=resid_post.1-p8")


def test_map_places_every_region(site, built, atlas_cache):
    answer = get(f"{site}/dictionaries/resid_post.1-p2/map")
    assert all(len(answer[name]) == K for name in ("x", "y", "size", "token", "label", "coherence"))
    assert np.abs([answer["x"], answer["y"]]).max() <= 1
    assert answer["token"][: len(HOSTILE)] == HOSTILE


@pytest.fixture
def atlas_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))


def test_a_label_given_by_hand_is_kept_and_removed(own):
    """Through the server, for everybody who reads the folder; and the other way round."""
    d = store.load(own, percentile=2)
    before = Labels.read(d).best(3)
    with served(own) as address:
        url = f"{address}/api/dictionaries/resid_post.1-p2/regions/3"
        assert get(url)["label"] == {"text": before.text, "source": "contrast", "score": before.score}
        said = get(f"{url}/label", {"text": " <b>syllables</b>\n of mo "})
        assert (said["label"], said["source"]) == ("<b>syllables</b> of mo", "hand")
        assert Labels.read(d).best(3).text == "<b>syllables</b> of mo"
        assert get(f"{address}/api/dictionaries/resid_post.1-p2/regions?q=syllables")["matching"] == 1
        Labels.read(d).set(4, "from elsewhere")
        assert get(f"{address}/api/dictionaries/resid_post.1-p2/regions/4")["label"]["text"] == "from elsewhere"
        assert get(f"{url}/label", {"text": ""})["label"] == before.text
        assert Labels.read(d).best(3) == before
        status, _, text = request(f"{url}/label", {"text": "x" * 201})
        assert (status, "at most 200 characters" in text) == (400, True)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs another user, or permissions")
def test_a_label_for_a_read_only_folder_is_refused_with_the_reason():
    """As another user where the tests run as root, whom permissions do not stop."""
    with tempfile.TemporaryDirectory() as place:
        annotated(place, percentiles=(2,))
        for folder in [Path(place), *(path for path in Path(place).rglob("*") if path.is_dir())]:
            folder.chmod(0o555)
        mine = os.geteuid()
        with served(Path(place)) as address:
            url = f"{address}/api/dictionaries/resid_post.1-p2/regions/3"
            try:
                os.seteuid(65534 if mine == 0 else mine)
                status, _, text = request(f"{url}/label", {"text": "a name"})
                shown = get(url)
            finally:
                os.seteuid(mine)
    assert status == 503
    assert "read-only" in json.loads(text)["error"]
    assert shown["label"]["source"] == "contrast"


def test_requests_under_a_foreign_name_are_refused(site):
    """DNS rebinding: the browser believes it talks to another site."""
    port = urllib.parse.urlsplit(site).port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", f"10.0.0.1:{port}"):
        status, _, text = request(f"{site}/dictionaries", Host=host)
        assert status == 403, host
        assert "resid_post" not in text
    for host in ("localhost", f"LOCALHOST:{port}", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert request(f"{site}/dictionaries", Host=host)[0] == 200, host


def test_posts_from_other_sites_are_refused(own):
    with served(own) as address:
        url = f"{address}/api/dictionaries/resid_post.1-p2/regions/3/label"
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", address.replace("http", "https")):
            assert request(url, {"text": "taken over"}, Origin=origin)[0] == 403, origin
        for kind in ("cross-site", "same-site", "Cross-Site"):  # browsers leave Origin out of some posts
            assert request(url, {"text": "taken over"}, **{"Sec-Fetch-Site": kind})[0] == 403, kind
        form = {"Content-Type": "text/plain"}  # what a form of another site can send without being asked
        assert request(url, {"text": "taken over"}, **form)[0] == 415
        assert request(url, {}, **{"Content-Length": "2000000"})[0] == 413
        assert not (own / "resid_post.1" / "p2" / "labels.json").exists()
        own_page = {"Sec-Fetch-Site": "same-origin", "Content-Type": "Application/JSON; charset=utf-8"}
        assert request(url, {"text": "mine"}, Origin=address, **own_page)[0] == 200


@pytest.mark.parametrize("body", [[], {}, {"text": 3}, "text", {"x": 1}, {"text": "half \ud83d"}])
def test_posts_of_anything_else_are_told_what_to_send(site, body):
    status, _, text = request(f"{site}/dictionaries/resid_post.1-p2/regions/3/label", body)
    assert status == 400
    assert "text" in json.loads(text)["error"]


def test_no_path_leaves_the_folder(site, built):
    secret = built[0].parent / "secret.txt"
    secret.write_text("TOP SECRET")
    root = site.removesuffix("/api")
    for path in (
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2f..%2fstore.py",
        "/static//etc/passwd",
        "/api/dictionaries/..%2f..%2fsecret.txt",
        "/api/dictionaries/%2e%2e",
        f"/api/dictionaries/{urllib.parse.quote(str(secret), safe='')}",
        f"/api/compare?a={urllib.parse.quote(str(built[0]))}&b=..%2f..",
    ):
        status, _, text = request(root + path)
        assert status == 404, path
        assert "TOP SECRET" not in text
        assert "import" not in text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("dictionaries/nothing", 404),
        ("dictionaries/resid_post.1-p2/regions/150", 404),
        ("dictionaries/resid_post.1-p2/regions/99999999999999999999", 404),
        ("dictionaries/resid_post.1-p2/regions/150/relatives", 404),
        ("dictionaries/resid_post.1-p2/regions?sort=beauty", 400),
        ("dictionaries/resid_post.1-p2/regions?in=heaven", 400),
        ("dictionaries/resid_post.1-p2/regions?offset=-1", 400),
        ("dictionaries/resid_post.1-p2/regions?limit=many", 400),
        ("beauty", 404),
    ],
)
def test_wrong_questions_get_a_message(site, path, status):
    answered, headers, text = request(f"{site}/{path}")
    assert answered == status
    assert headers["content-type"] == "application/json"
    assert len(json.loads(text)["error"]) > 20


def test_text_is_read_only_with_a_model(site):
    status, _, text = request(f"{site}/dictionaries/resid_post.1-p2/read", {"text": "the dog"})
    assert status == 400
    assert "--live" in json.loads(text)["error"]


@pytest.fixture(scope="module")
def writing(tiny_folder, text_file, tmp_path_factory):
    """Address of a dictionary of the tiny model, whose mean members are known; the dictionary; the model."""
    out = build_tiny(tiny_folder, text_file, tmp_path_factory.mktemp("writing") / "out")
    live = Live(model_of(store.load(out, percentile=5), str(tiny_folder)))
    annotate(out, ["the old dog sings under a stone"], model=live.loaded)
    with served(out, live=live) as address:
        yield f"{address}/api/dictionaries/resid_post.1-p5", store.load(out, percentile=5), live.loaded


def test_a_text_is_taken_apart_as_in_python(writing):
    address, d, loaded = writing
    text = "the old dog sings under a stone"
    status, _, said = request(f"{address}/decompose", {"text": text})
    answer = json.loads(said)
    expected = [token.as_json() for token in decomposed(d, loaded, text, min(8, d.k, d.d_model))]
    assert status == 200 and answer["tokens"] == expected
    assert {int(r) for r in answer["regions"]} == {region for token in expected for region in token["regions"]}
    status, _, said = request(f"{address}/attribute", {"text": text})
    answer = json.loads(said)
    attribution = attribute(loaded, d, text, k=min(32, d.k, d.d_model))
    assert status == 200 and answer["attribution"]["target"] == list(attribution.target)
    assert [e["region"] for e in answer["attribution"]["effects"]] == [e.region for e in attribution.effects]
    assert {int(r) for r in answer["regions"]} == {e.region for e in attribution.effects}
    for path in ("decompose", "attribute"):
        status, _, said = request(f"{address}/{path}", {"text": ""})
        assert status == 400 and "give some words" in json.loads(said)["error"]
        assert request(f"{address}/{path}", {"text": "a" * 20_001})[0] == 400


def by_hand(loaded, d, prompt, n, change, touched):
    """What greedy writing gives, without any cache: ids, regions, distances, from plain hooks of torch.

    change: of activations at the dictionary's site; touched: of positions that are in the prompt, which it is for.
    """
    prompt_ids = encode(loaded, prompt)
    ids, seen = list(prompt_ids), []

    def hook(_module, _args, output):
        x_sd = output[0]
        rows_s = torch.tensor([touched(position < len(prompt_ids)) for position in range(len(x_sd))])
        x_sd = torch.where(rows_s[:, None], change(x_sd), x_sd)
        seen.append(x_sd)
        return x_sd[None]

    handle = loaded.model.model.layers[1].register_forward_hook(hook)
    with torch.inference_mode():
        for _ in range(n + 1):
            ids.append(int(loaded.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    handle.remove()
    regions, distances = d.assign(seen[-1][len(prompt_ids) :].numpy())
    return ids[len(prompt_ids) : -1], regions.tolist(), distances.tolist()


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
@pytest.mark.parametrize("mode", ["add", "ablate"])
def test_steering_writes_as_by_hand_and_tells_where_its_tokens_lie(writing, mode, tokens):
    url, d, loaded = writing
    prompt, n, alpha = "a king sees the", 10, -2.0
    asked = {"prompt": prompt, "regions": [2, 7], "alpha": alpha, "mode": mode, "tokens": tokens, "max_new_tokens": n}
    answer = get(f"{url}/steer", asked)
    e_rd = d.exemplars[[2, 7]]
    q_rd = torch.linalg.qr(e_rd.T)[0].T
    step_d = alpha * d.typical_norm * e_rd.sum(0) / e_rd.sum(0).norm()
    changes = {"add": lambda x: x + step_d, "ablate": lambda x: x - (x - d.center) @ q_rd.T @ q_rd}
    touched = {"all": lambda _: True, "prompt": lambda early: early, "generated": lambda early: not early}
    for side, which in (("before", lambda _: False), ("after", touched[tokens])):
        ids, regions, distances = by_hand(loaded, d, prompt, n, changes[mode], which)
        assert [token["token_id"] for token in answer[side]] == ids
        assert [token["region"] for token in answer[side]] == regions
        np.testing.assert_allclose([token["distance"] for token in answer[side]], distances, atol=1e-5)
        assert [token["off"] for token in answer[side]] == [x > d.threshold for x in distances]
    assert answer["before"] != answer["after"]
    shown = {token["region"] for side in ("before", "after") for token in answer[side]} | {2, 7}
    assert set(answer["regions"]) == {str(region) for region in shown}
    assert answer["threshold"] == d.threshold
    assert answer["typical_norm"] == d.typical_norm


def test_along_mean_members(writing):
    url, d, loaded = writing
    region = int(np.flatnonzero(d.annotation.regions["members"].to_numpy())[0])
    asked = {"prompt": "a king sees the", "regions": [region], "alpha": 1, "max_new_tokens": 8}
    step_d = d.typical_norm * torch.from_numpy(d.annotation.mean_directions[region])
    ids, _, _ = by_hand(loaded, d, asked["prompt"], 8, lambda x: x + step_d, lambda _: True)
    after = get(f"{url}/steer", asked | {"basis": "mean"})["after"]
    assert [token["token_id"] for token in after] == ids


def test_another_alpha_costs_two_generations(writing):
    url, _, loaded = writing
    passes = []
    handle = loaded.model.register_forward_hook(lambda *_: passes.append(1))
    asked = {"prompt": "stone under a grey river", "regions": [1], "max_new_tokens": 8}
    counts, texts = [], []
    for alpha in (0, 1, 0):
        passes.clear()
        texts.append(get(f"{url}/steer", asked | {"alpha": alpha}))
        counts.append(len(passes))
    handle.remove()
    # a pass for each token, and one to see where the last one lies; a random step as long; three texts judged
    assert counts == [9 + 9 + 9 + 3, 9 + 9 + 3, 9 + 9 + 3]
    assert texts[0] == texts[2]
    assert texts[0]["before"] == texts[1]["before"] == texts[0]["after"]


def test_texts_are_written_and_read_one_at_a_time(writing):
    """Many at once get what each gets alone: an intervention is never open while another text is under way."""
    url = writing[0]
    asked = {"prompt": "the old fox", "regions": [4], "max_new_tokens": 8}
    posts = [(f"{url}/steer", asked | {"alpha": alpha}) for alpha in (-2, -1, 1, 2)]
    posts += [(f"{url}/read", {"text": "the old fox walks under a stone"})] * 4
    alone = [get(*post) for post in posts]
    with ThreadPoolExecutor(len(posts)) as pool:
        assert list(pool.map(lambda post: get(*post), posts)) == alone


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"prompt": ""}, 400, "the prompt is empty"),
        ({"prompt": " \n"}, 400, "the prompt is empty"),
        ({"prompt": "dog " * 200}, 400, "context of 144"),
        ({"prompt": "half \ud83d"}, 400, "prompt holds half a character"),
        ({"prompt": None}, 400, "prompt: "),
        ({"regions": []}, 400, "no region was named"),
        ({"regions": [10**20]}, 404, "does not exist: regions are numbered 0 to"),
        ({"regions": [-1]}, 404, "region -1 does not exist"),
        ({"regions": ["dog"]}, 400, "regions.0: Input should be a valid integer; got 'dog'"),
        ({"alpha": float("nan")}, 400, "alpha: Input should be a finite number; got nan"),
        ({"alpha": float("inf")}, 400, "alpha: Input should be a finite number; got inf"),
        ({"alpha": 1e300}, 400, "alpha: Input should be less than or equal to 1000"),
        ({"alpha": "1"}, 400, "alpha: "),
        ({"mode": "swap"}, 400, "mode: Input should be 'add' or 'ablate'"),
        ({"basis": "lens"}, 400, "basis: "),
        ({"tokens": "none"}, 400, "tokens: "),
        ({"max_new_tokens": 0}, 400, "max_new_tokens: "),
        ({"max_new_tokens": 201}, 400, "max_new_tokens: "),
        ({"alfa": 1}, 400, "alfa: "),
    ],
)
def test_steering_that_does_not_fit_is_refused_and_leaves_nothing_behind(writing, changed, status, words):
    url = writing[0]
    asked = {"prompt": "the old dog", "regions": [1], "alpha": 1, "max_new_tokens": 4}
    before = get(f"{url}/read", {"text": "the old dog"})
    answered, _, text = request(f"{url}/steer", asked | changed)
    assert answered == status
    assert words in json.loads(text)["error"]
    assert get(f"{url}/read", {"text": "the old dog"}) == before


def test_a_region_without_members_has_no_mean_to_steer_along(writing):
    url, d, _ = writing
    empty = int(np.flatnonzero(d.annotation.regions["members"].to_numpy() == 0)[0])
    for mode in ("add", "ablate"):
        body = {"prompt": "the old dog", "regions": [empty], "mode": mode, "basis": "mean"}
        status, _, text = request(f"{url}/steer", body)
        assert status == 400
        assert f"region {empty} has no members" in json.loads(text)["error"]
    assert get(f"{url}/steer", body | {"basis": "exemplar", "max_new_tokens": 2})["after"]


@pytest.mark.parametrize("body", [[], "text", 3])
def test_steering_is_asked_for_by_an_object(writing, body):
    status, _, text = request(f"{writing[0]}/steer", body)
    assert status == 400
    assert "send a JSON object" in json.loads(text)["error"]


def test_dictionaries_of_another_model_are_not_steered(built, writing):
    with served(built[0], live=Live(writing[2])) as address:
        body = {"prompt": "the old dog", "regions": [1]}
        status, _, text = request(f"{address}/api/dictionaries/resid_post.1-p2/steer", body)
    assert status == 400
    assert "is not the model" in json.loads(text)["error"]


def test_an_interrupt_ends_what_is_being_written(writing):
    """The server answers at the next token, so that Ctrl-C does not wait for the text."""
    _, d, loaded = writing
    live = Live(loaded)
    with served(d.path, live=live) as address:
        key = get(f"{address}/api/dictionaries")["dictionaries"][0]["key"]
        body = {"prompt": "the old dog", "regions": [1], "max_new_tokens": 100}
        passes = []

        def interrupt(*_):
            passes.append(1)
            if len(passes) == 5:
                server(app(Library([d.path]), live)).handle_exit(signal.SIGINT, None)

        handle = loaded.model.register_forward_hook(interrupt)
        status, _, text = request(f"{address}/api/dictionaries/{key}/steer", body)
        handle.remove()
    assert status == 503
    assert "stopping" in json.loads(text)["error"]
    assert len(passes) == 5


def test_steering_needs_a_model(site):
    status, _, text = request(f"{site}/dictionaries/resid_post.1-p2/steer", {"prompt": "the dog", "regions": [1]})
    assert status == 400
    assert "--live" in json.loads(text)["error"]


def test_pages_may_load_from_here_alone(site):
    root = site.removesuffix("/api")
    for path in ("/", "/d/resid_post.1-p2", "/d/resid_post.1-p2/map", "/compare"):
        status, headers, _ = request(root + path)
        policy = headers["content-security-policy"]
        assert status == 200
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert ("unsafe-eval" in policy) == path.endswith("/map")
        assert "unsafe-inline" not in policy
        assert "http" not in policy


def test_without_annotation_the_arrivals_are_shown_until_there_is_one(own):
    for folder in find(own):
        shutil.move(folder / "annotation", own.parent / folder.name)
    d = store.load(own, percentile=2)
    with served(own) as address:
        url = f"{address}/api/dictionaries/resid_post.1-p2"
        overview, regions, region = get(url), get(f"{url}/regions"), get(f"{url}/regions/3")
        for answer in (overview, regions, region):
            assert "ep annotate" in answer["not_annotated"]
            assert answer["size_is"] == "arrivals"
        arrivals = d.regions["arrivals"].to_pylist()
        assert [row["size"] for row in regions["regions"]] == sorted(arrivals, reverse=True)[:100]
        assert (region["members"], region["size"]) == (None, arrivals[3])
        assert get(f"{url}/regions?sort=coherence")["matching"] == K
        shutil.move(own.parent / "p2", own / "resid_post.1" / "p2" / "annotation")
        assert get(url)["not_annotated"] is None


@pytest.mark.parametrize("name", ["annotation.json", "regions.parquet", "examples.parquet", "means.safetensors"])
def test_a_damaged_annotation_is_told_and_the_rest_shown(own, name):
    path = own / "resid_post.1" / "p2" / "annotation" / name
    path.write_bytes(path.read_bytes()[:-7])
    with served(own) as address:
        for rest in ("", "/regions", "/regions/3"):
            answer = get(f"{address}/api/dictionaries/resid_post.1-p2{rest}")
            assert name in answer["not_annotated"]
        assert get(f"{address}/api/dictionaries/resid_post.1-p4")["not_annotated"] is None


@pytest.mark.parametrize("name", ["config.json", "exemplars.safetensors", "regions.parquet"])
def test_a_damaged_dictionary_is_told_and_the_others_shown(own, name):
    path = own / "resid_post.1" / "p2" / name
    path.write_bytes(path.read_bytes()[:-7])
    with served(own) as address:
        assert len(get(f"{address}/api/dictionaries")["dictionaries"]) == 3
        status, _, text = request(f"{address}/api/dictionaries/resid_post.1-p2")
        assert status == 500
        assert name in json.loads(text)["error"]
        assert get(f"{address}/api/dictionaries/resid_post.1-p4")["k"] == 75
        assert [r["key"] for r in get(f"{address}/api/dictionaries/resid_post.1-p4/regions/0/relatives")["relatives"]]


def test_damaged_labels_are_told_and_the_rest_shown(own):
    (own / "resid_post.1" / "p2" / "labels.json").write_text("{")
    with served(own) as address:
        answer = get(f"{address}/api/dictionaries/resid_post.1-p2/regions/3")
        assert "labels.json" in answer["labels_error"]
        assert answer["label"]["text"]


def test_a_folder_without_dictionaries_is_refused(tmp_path):
    with pytest.raises(EPError, match="holds no dictionary"):
        Library([tmp_path])


def ep(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "exemplar_partitioning", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_serves_until_interrupted(built):
    with ep("explore", str(built[0]), "--no-browser") as process:
        said = process.stdout.readline()
        address = said.split(" at ")[1].split()[0]
        assert said.startswith("3 dictionaries at http://127.0.0.1:")
        assert len(get(f"{address}api/dictionaries")["dictionaries"]) == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_a_taken_port_is_told(built):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with ep("explore", str(built[0]), "--no-browser", "--port", str(port)) as process:
            assert process.wait(20) == 4
            assert f"port {port} cannot be used" in process.stderr.read()


def test_a_missing_extra_is_told(built, monkeypatch):
    from exemplar_partitioning.cli.explore import explore

    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(EPError, match=r"needs plotly, .*pip install 'exemplar-partitioning\[explorer\]'"):
        explore(built[0])


def test_examples_are_read_by_many_at_once(tmp_path):
    """A reader of pyarrow aborts the process where two threads use it, as requests did."""
    (d,) = annotated(tmp_path, k=400, percentiles=(2,))
    alone = [store.load(d.path).annotation.examples(i) for i in range(d.k)]
    shared = store.load(d.path).annotation
    with ThreadPoolExecutor(8) as several:
        for _ in range(3):
            assert list(several.map(shared.examples, range(d.k))) == alone
