"""The explorer's answers about several dictionaries, against the library that they come from."""

import json
import signal
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import pytest

import exemplar_partitioning as ep
from annotated import HOSTILE, annotated
from exemplar_partitioning.cli.output import write_tables
from exemplar_partitioning.compare.tree import paths
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.show.explorer import background, computed
from exemplar_partitioning.show.explorer.background import Background, StillComputing
from exemplar_partitioning.show.explorer.library import Library
from exemplar_partitioning.show.explorer.overlaps import read_overlaps
from explorer_site import build_tiny, get, request, served

A, B = "resid_post.1-p2", "resid_post.1-p4"
OTHER, WIDE = "resid_post.1-p2-2", "resid_post.1-p2-3"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A build of three percentiles; another of the same name and site; one of another width."""
    root = tmp_path_factory.mktemp("explorer")
    annotated(root / "twin" / "build", k=90, percentiles=(2,), seed=3)
    annotated(root / "wide", k=20, d=24, percentiles=(2,))
    return root, annotated(root / "build", k=150, percentiles=(2, 4, 8))


@pytest.fixture(scope="module")
def site(built):
    root = built[0]
    with served(root / "build", root / "twin" / "build", root / "wide") as address:
        yield f"{address}/api"


def every(url, **asked):
    """All rows of a list that is answered page by page."""
    rows = []
    while True:
        answer = get(f"{url}&{urllib.parse.urlencode(asked | {'offset': len(rows), 'limit': 60})}")
        assert len(answer["pairs"]) == min(60, answer["matching"] - len(rows))
        rows += answer["pairs"]
        if len(rows) == answer["matching"]:
            return rows


PAIRS = f"match/pairs?a={A}&b={B}"


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0)])
def test_the_matching_is_the_librarys(site, built, a, b):
    first, second = built[1][a], built[1][b]
    found = ep.match(first, second)
    keys = {"a": [A, B][a], "b": [A, B][b]}
    answer = get(f"{site}/match?{urllib.parse.urlencode(keys)}")
    assert {name: answer[name] for name in found.summary()} == json.loads(json.dumps(found.summary())) | keys | {
        "decided_by": "reflections"
    }
    assert (answer["cutoff_to_b"], answer["cutoff_to_a"]) == found.null.cutoffs(0.01)
    assert answer["persisted"] >= 75 > 0 == answer["introduced"] if a == 0 else answer["introduced"] > 20
    rows = every(f"{site}/match/pairs?{urllib.parse.urlencode(keys)}")
    table = found.table().to_pylist()
    assert len(rows) == answer["persisted"] + answer["dropped"] + answer["introduced"]
    assert [row["cosine"] for row in rows] == sorted((row["cosine"] for row in rows), reverse=True)
    shown = {row["a"]["region"]: row for row in rows if row["verdict"] != "introduced"}
    for row in table:
        pair = shown[row["region_a"]]
        assert (pair["b"]["region"], pair["verdict"]) == (row["region_b"], row["verdict"])
        assert (pair["a"]["token"], pair["a"]["context"]) == (row["token_a"], row["context_a"])
        assert (pair["b"]["token"], pair["b"]["context"]) == (row["token_b"], row["context_b"])
        assert pair["one_to_one_b"] == row["one_to_one_b"]
        assert pair["distance_in_theta_b"] == pytest.approx(row["distance_in_theta_b"], abs=1e-9)
    introduced = [(row["b"]["region"], row["a"]["region"]) for row in rows if row["verdict"] == "introduced"]
    expected = found.introduced_table().to_pylist()
    assert sorted(introduced) == sorted((row["region_b"], row["region_a"]) for row in expected)


def test_histograms_hold_every_match_beside_as_many_without_correspondence(site, built):
    a, b = built[1][:2]
    answer, found = get(f"{site}/match?a={A}&b={B}"), ep.match(a, b)
    for way, k, null in (("to_b", a.k, found.null.to_b), ("to_a", b.k, found.null.to_a)):
        h = answer["histograms"][way]
        assert sum(h["counts"]) == k
        assert sum(h["null"]) == pytest.approx(k, abs=0.5)
        assert len(h["counts"]) == len(h["null"])
        assert h["start"] + len(h["counts"]) * h["width"] == pytest.approx(1)
        below = sum(h["null"][: round((0.5 - h["start"]) / h["width"])])
        assert below / k == pytest.approx((null < 0.5).mean(), abs=0.01)


def test_verdicts_are_filters_that_part_the_pairs(site):
    whole, url = get(f"{site}/match?a={A}&b={B}"), f"{site}/{PAIRS}"
    shown = {show: every(url, show=show) for show in ("persisted", "dropped", "introduced")}
    assert {show: len(rows) for show, rows in shown.items()} == {show: whole[show] for show in shown}
    assert all(row["verdict"] == show for show, rows in shown.items() for row in rows)
    assert all(row["cosine"] > whole["cutoff_to_b"] for row in shown["persisted"])
    assert all(row["cosine"] <= whole["cutoff_to_b"] for row in shown["dropped"])


VALUES = {
    "cosine": lambda row: row["cosine"],
    "distance": lambda row: row["distance_in_theta_a"],
    "a": lambda row: row["a"]["region"],
    "b": lambda row: row["b"]["region"],
    "label_a": lambda row: row["a"]["label"].lstrip().casefold(),
    "label_b": lambda row: row["b"]["label"].lstrip().casefold(),
}


@pytest.mark.parametrize("sort", VALUES)
@pytest.mark.parametrize("desc", [0, 1])
def test_pairs_come_in_every_order(site, sort, desc):
    values = [VALUES[sort](row) for row in every(f"{site}/{PAIRS}", sort=sort, desc=desc)]
    assert values == sorted(values, reverse=bool(desc))
    assert len(values) == 150


def test_pairs_are_found_by_the_text_of_either_region(site, built):
    def found(**asked):
        return {(row["a"]["region"], row["b"]["region"]) for row in every(f"{site}/{PAIRS}", **asked)}

    a, b = (d.regions["token"].to_pylist() for d in built[1][:2])
    assert found(q="MO", **{"in": "token"}) == {(i, j) for i, j in found() if "mo" in a[i] or "mo" in b[j]}
    assert found(q="<script>", **{"in": "token"}) == {(i, j) for i, j in found() if 0 in (i, j)}
    labels = [[label.text for label in Labels.read(d).every()] for d in built[1][:2]]
    assert found(q="pol", **{"in": "label"}) == {(i, j) for i, j in found() if "pol" in labels[0][i] + labels[1][j]}
    assert {(i, j) for i, j in found() if 137 in (i, j)} <= found(q="137")
    assert found(q="nothing has this") == set()


def test_without_a_text_nothing_is_known_of_shared_members(site):
    assert get(f"{site}/match?a={A}&b={B}")["text"] is None
    rows = every(f"{site}/{PAIRS}", sort="f1")
    assert {row["jaccard"] for row in rows} == {row["f1"] for row in rows} == {None}


def test_other_widths_have_key_numbers_and_a_way_out(site):
    answer = get(f"{site}/compare?a={A}&b={WIDE}")
    assert (answer["a"]["k"], answer["b"]["k"]) == (150, 20)
    assert answer["caveat"] is None
    status, _, text = request(f"{site}/match?a={A}&b={WIDE}")
    assert status == 400
    for words in (answer["why_not"], json.loads(text)["error"]):
        assert "16" in words and "24" in words
        assert "`ep transport`" in words and "`ep roundtrip`" in words
    assert get(f"{site}/compare?a={A}&b={B}")["why_not"] is None
    assert "centres differ" in get(f"{site}/compare?a={A}&b={OTHER}")["caveat"]


def test_a_dictionary_matches_itself_and_a_single_region_can_be_matched(tmp_path, built):
    d = built[1][0]
    one = ep.Dictionary(d.center, d.exemplars[:1], d.threshold)
    ep.save(
        tmp_path / "one",
        d.config.model_copy(update={"build": d.config.build.model_copy(update={"k": 1})}),
        one,
        d.regions.slice(0, 1),
    )
    with served(d.path, tmp_path / "one") as address:
        keys = [entry["key"] for entry in get(f"{address}/api/dictionaries")["dictionaries"]]
        same = get(f"{address}/api/match?a={keys[0]}&b={keys[0]}")
        assert (same["persisted"], same["dropped"], same["introduced"], same["same"]) == (150, 0, 0, 1)
        assert get(f"{address}/api/match?a={keys[1]}&b={keys[1]}")["regions"] == [1, 1]
        (pair,) = every(f"{address}/api/match/pairs?a={keys[1]}&b={keys[1]}", show="all")[:1]
        assert (pair["a"]["region"], pair["b"]["region"], pair["one_to_one_b"]) == (0, 0, 0)


@pytest.fixture(scope="module")
def shared(tiny_folder, text_file, tmp_path_factory):
    """A real build, and what `ep match --text --out` writes about its two dictionaries."""
    root = tmp_path_factory.mktemp("shared")
    out = build_tiny(tiny_folder, text_file, root / "out")
    a, b = (ep.load(out, percentile=percentile) for percentile in (5, 20))
    found = ep.match(a, b, text=[text_file], model_a=str(tiny_folder), model_b=str(tiny_folder), max_tokens=500)
    write_tables(root / "match", found.summary(), {"regions": found.table()}, csv=False)
    return out, root / "match", found


def test_members_shared_on_a_text_come_with_its_cutoff(shared):
    out, folder, found = shared
    overlaps = read_overlaps(folder, Library([out]))
    with served(out, overlaps=[overlaps]) as address:
        one, other = (entry["key"] for entry in get(f"{address}/api/dictionaries")["dictionaries"])
        there, back = (get(f"{address}/api/match?a={a}&b={b}") for a, b in ((one, other), (other, one)))
        rows = every(f"{address}/api/match/pairs?a={one}&b={other}", sort="f1")
        turned = every(f"{address}/api/match/pairs?a={other}&b={one}")
    summary = found.summary()
    assert there["decided_by"] == "random exemplars"
    assert [there[name] for name in ("persisted", "dropped", "introduced")] == [
        summary[name] for name in ("persisted", "dropped", "introduced")
    ]
    assert there["cutoff_to_a"] == back["cutoff_to_b"] == summary["nulls"][1]["cutoff_to_a"]
    assert there["text"]["adjusted_rand"] == summary["text"]["adjusted_rand"]
    expected = {row["region_a"]: row for row in found.table().to_pylist()}
    for row in rows:
        if row["verdict"] != "introduced":
            f1, jaccard = (expected[row["a"]["region"]][name] for name in ("f1", "jaccard"))
            assert (row["f1"], row["jaccard"]) == (None, None) if f1 != f1 else (f1, jaccard)
    known = [row["f1"] is not None for row in rows]
    assert any(known) and known == sorted(known, reverse=True)
    both = {(row["a"]["region"], row["b"]["region"]): row["f1"] for row in rows}
    assert any(both.get((row["b"]["region"], row["a"]["region"])) == row["f1"] is not None for row in turned)


def test_a_match_folder_that_does_not_fit_is_refused(shared, built, tmp_path):
    out, folder, found = shared
    with pytest.raises(EPError, match="other dictionaries than those on show"):
        read_overlaps(folder, Library([built[0] / "build"]))
    with pytest.raises(EPError, match="cannot be read"):
        read_overlaps(tmp_path, Library([out]))
    summary = found.summary()
    for said, words in (
        ({name: value for name, value in summary.items() if name != "text"}, "without a text"),
        (summary | {"basis": "mean"}, "by mean directions"),
        (summary | {"false_alarms": 2}, "less than 1"),
        (summary | {"decided_by": "a guess"}, "names no null that decided"),
        (summary | {"nulls": [summary["nulls"][0] | {"cutoff_to_b": float("inf")}]}, "finite number"),
    ):
        (tmp_path / "summary.json").write_text(json.dumps(said))
        with pytest.raises(EPError, match=words):
            read_overlaps(tmp_path, Library([out]))
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    table = found.table()
    write_tables(tmp_path / "new", summary, {"regions": table.drop_columns("f1")}, csv=False)
    for content in (None, b"PAR1 and nothing more"):
        if content is not None:
            (tmp_path / "new" / "regions.parquet").write_bytes(content)
        with pytest.raises(EPError, match=r"regions.parquet cannot be read .*without --csv"):
            read_overlaps(tmp_path / "new", Library([out]))
    (tmp_path / "new" / "summary.json").unlink()
    at = table.column_names.index("f1")
    write_tables(
        tmp_path / "new", summary, {"regions": table.set_column(at, "f1", [np.full(len(table), np.inf)])}, csv=False
    )
    with pytest.raises(EPError, match="not between 0 and 1"):
        read_overlaps(tmp_path / "new", Library([out]))


@pytest.fixture
def gate(monkeypatch, tmp_path):
    """Matchings wait until this is opened; how many have begun."""
    opened, begun = threading.Event(), []

    def slow(*given, tell):
        begun.append(1)
        tell(0.25)
        assert opened.wait(30)
        return ep.match(*given, tell=tell)

    monkeypatch.setattr(computed, "match", slow)
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(background, "PATIENCE", 0.05)
    opened.begun = begun
    yield opened
    opened.set()


def test_while_a_matching_is_computed_other_questions_are_answered(built, gate):
    with served(built[0] / "build") as address:
        for _ in range(60):  # more than the server has threads
            status, _, text = request(f"{address}/api/match?a={A}&b={B}")
            assert status == 202
            assert 0 <= json.loads(text)["computing"] < 30
            assert json.loads(text)["share"] in (0, 0.25)
        assert request(f"{address}/api/match?a={B}&b={A}")[0] == 202
        assert get(f"{address}/api/dictionaries/{A}/regions/3")["region"] == 3
        assert get(f"{address}/api/dictionaries/{A}/regions/3/partners")["partners"] == []
        gate.set()
        assert get(f"{address}/api/match?a={A}&b={B}")["regions"] == [150, 75]
        assert get(f"{address}/api/match?a={B}&b={A}")["regions"] == [75, 150]
    assert len(gate.begun) == 2  # one for each pair, once


def test_a_matching_that_is_stopped_ends_and_can_be_begun_anew(built, gate):
    with served(built[0] / "build") as address:
        asked = f"?a={A}&b={B}"
        stop = f"{address}/api/match/stop{asked}"
        assert json.loads(request(stop, {})[2]) == {"stopped": False}
        assert request(f"{address}/api/match{asked}")[0] == 202
        assert request(f"{address}/api/match?a={B}&b={A}")[0] == 202  # waits for its turn
        assert json.loads(request(stop, {})[2]) == {"stopped": True}
        assert json.loads(request(stop.replace(asked, f"?a={B}&b={A}"), {})[2]) == {"stopped": True}
        gate.set()
        assert get(f"{address}/api/match{asked}")["regions"] == [150, 75]
    assert len(gate.begun) == 2  # the one that waited never began


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_what_is_told_how_far_it_is_can_end_it(built, share):
    told = []

    def tell(done):
        told.append(done)
        if done >= share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ep.match(*built[1][:2], tell=tell)
    assert told == sorted(told) and told[0] > 0 and told[-1] <= 1


def test_a_matching_and_a_tree_are_computed_once_for_all_servers(built, gate, monkeypatch):
    gate.set()
    asked = (
        f"match?a={A}&b={B}",
        f"match/pairs?a={A}&b={B}",
        f"dictionaries/{A}/tree",
        f"dictionaries/{A}/regions/3/tree",
    )
    answers = []
    for _ in range(2):
        with served(built[0] / "build") as address:
            answers.append([get(f"{address}/api/{path}") for path in asked])
        monkeypatch.setattr(computed, "tree", None)  # not called again
    assert answers[0] == answers[1]
    assert len(gate.begun) == 1


def test_an_interrupt_does_not_wait_for_a_matching(tmp_path):
    """Nor does the interpreter abort with the thread that is in the middle of it."""
    annotated(tmp_path, k=6000, d=256, percentiles=(2,), annotate=False)
    command = [sys.executable, "-m", "exemplar_partitioning", "explore", str(tmp_path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split(" at ")[1].split()[0]
        assert request(f"{address}api/match?a={A}&b={A}")[0] in (200, 202)  # done already on a fast machine
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_what_failed_is_told_and_tried_anew():
    tasks, tries = Background(), []

    def compute(tell):
        tries.append(1)
        if len(tries) == 1:
            raise EPError("not now")
        return "done"

    with pytest.raises(EPError, match="not now"):
        tasks.get("key", compute)
    assert tasks.peek("key") is None
    assert tasks.get("key", compute) == tasks.get("key", compute) == tasks.peek("key") == "done"
    assert len(tries) == 2


def test_computations_wait_for_each_other(monkeypatch):
    monkeypatch.setattr(background, "PATIENCE", 0.05)
    tasks, first, order = Background(), threading.Event(), []
    with pytest.raises(StillComputing, match="ask again"):
        tasks.get("first", lambda _: first.wait(30) and order.append("first"))
    with pytest.raises(StillComputing):
        tasks.get("second", lambda _: order.append("second"))
    first.set()
    monkeypatch.setattr(background, "PATIENCE", 30)
    tasks.get("second", list)
    assert order == ["first", "second"]


def test_a_region_has_a_partner_in_the_other_build_alone(site, built):
    a, b = built[1][0], ep.load(built[0] / "twin" / "build")
    cosine = (a.exemplars @ b.exemplars.T).numpy()
    for region in (0, 7, 140):
        (found,) = get(f"{site}/dictionaries/{A}/regions/{region}/partners")["partners"]
        partner = int(cosine[region].argmax())
        assert (found["key"], found["build"], found["region"]["region"]) == (OTHER, "build", partner)
        assert found["cosine"] == pytest.approx(cosine[region].max(), abs=1e-6)
        assert found["mutual"] == (cosine[:, partner].argmax() == region)
        assert "centres differ" in found["caveat"]
    back = get(f"{site}/dictionaries/{OTHER}/regions/5/partners")["partners"]
    assert [partner["key"] for partner in back] == [A, B, "resid_post.1-p8"]
    assert back[0]["verdict"] is None
    get(f"{site}/match?a={OTHER}&b={A}")
    found = get(f"{site}/dictionaries/{OTHER}/regions/5/partners")["partners"][0]["verdict"]
    assert found == next(
        row["verdict"] for row in every(f"{site}/match/pairs?a={OTHER}&b={A}") if row["a"]["region"] == 5
    )
    assert get(f"{site}/dictionaries/{WIDE}/regions/5/partners")["partners"] == []


def test_builds_of_one_name_do_not_mix(site):
    """Percentiles of one site are relatives in a build only, whatever its folder is called."""
    keys = [other["key"] for other in get(f"{site}/dictionaries/{A}/regions/3/relatives")["relatives"]]
    assert keys == [B, "resid_post.1-p8"]
    assert get(f"{site}/dictionaries/{OTHER}/regions/3/relatives")["relatives"] == []


def test_levels_are_told_from_coarse_to_fine(site, built):
    expected = ep.tree(list(built[1]))
    for key in (A, B):
        answer = get(f"{site}/dictionaries/{key}/tree?limit=500")
        assert [row["key"] for row in answer["levels"]] == ["resid_post.1-p8", B, A]
        for row, level in zip(answer["levels"], expected.summary(), strict=True):
            assert {name: row[name] for name in level} == level
        sizes = built[1][2].annotation.regions["members"].to_pylist()
        assert [row["size"] for row in answer["regions"]] == sorted(sizes, reverse=True)
        assert answer["total"] == len(answer["regions"]) == 38


def test_families_are_the_trees(site, built):
    """Every region of a level is the child of one of the level above, and knows its ancestors."""
    found = ep.tree(list(built[1]))
    for level, (key, finer) in enumerate((("resid_post.1-p8", B), (B, A))):
        below = []
        for region in range(found.levels[level].k):
            answer = get(f"{site}/dictionaries/{key}/regions/{region}/tree?limit=500")
            children = [row["region"] for row in answer["regions"]]
            assert sorted(children) == found.children(level, region)
            assert answer["region"]["children"] == answer["total"] == len(children)
            assert [row["region"] for row in answer["ancestors"]] == found.ancestors(level, region)[::-1]
            assert {row["key"] for row in answer["regions"]} <= {finer}
            same = [row["region"] for row in answer["regions"] if row["same_exemplar"]]
            assert same == ([region] if region in children else [])  # the levels share their first exemplars
            below += children
        assert sorted(below) == list(range(found.levels[level + 1].k))
    leaf = get(f"{site}/dictionaries/{A}/regions/149/tree")
    assert (leaf["total"], leaf["regions"], leaf["region"]["children"]) == (0, [], 0)
    assert [row["key"] for row in leaf["ancestors"]] == ["resid_post.1-p8", B]
    pages = [get(f"{site}/dictionaries/{A}/tree?limit=15&offset={at}")["regions"] for at in (0, 15, 30)]
    assert sorted(row["region"] for rows in pages for row in rows) == list(range(38))


def test_paths_are_the_trees_on_every_level(site, built):
    found, sure = ep.tree(list(built[1])), 0
    for start, end in ((3, 60), (7, 7), (1, 2), (40, 74)):
        answer = get(f"{site}/dictionaries/{B}/regions/{start}/paths?to={end}")["levels"]
        steps = paths(found, 1, start, end)
        assert [[row["region"] for row in level["regions"]] for level in answer] == steps
        for level, d, regions in zip(answer, found.levels, steps, strict=True):
            assert level["percentile"] == d.config.calibration.percentile
            if not regions:
                assert level["ends"] is None
                continue
            sure += 1
            e = d.exemplars[regions]
            walked = [row["cosine"] for row in level["regions"]]
            assert walked[0] is None
            np.testing.assert_allclose(walked[1:], (e[:-1] * e[1:]).sum(1), atol=1e-6)
            ends = (built[1][1].exemplars[[start, end]] * e[[0, -1]]).sum(1)
            np.testing.assert_allclose(level["ends"], ends, atol=1e-6)
    assert sure > 4


def test_hostile_tokens_are_told_as_they_are(site):
    tokens = {row["region"]: row["token"] for row in get(f"{site}/dictionaries/{A}/tree?limit=500")["regions"]}
    assert [tokens[i] for i in range(len(HOSTILE))] == HOSTILE


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("compare", 404, "no dictionary ''"),
        (f"match?a={A}", 404, "no dictionary ''"),
        (f"match?a={A}&b=nothing", 404, "no dictionary 'nothing'"),
        (f"{PAIRS}&show=beauty", 400, "show must be all, persisted, dropped, introduced; got 'beauty'"),
        (f"{PAIRS}&sort=beauty", 400, "sort must be one of cosine"),
        (f"{PAIRS}&in=heaven", 400, "in one of any, token"),
        (f"{PAIRS}&offset=-1", 400, "offset must be a whole number"),
        (f"dictionaries/{OTHER}/tree", 400, "at least two percentiles; got 1"),
        (f"dictionaries/{OTHER}/regions/3/tree", 400, "at least two percentiles; got 1"),
        ("dictionaries/nothing/tree", 404, "no dictionary 'nothing'"),
        (f"dictionaries/{A}/tree?limit=many", 400, "limit must be a whole number"),
        (f"dictionaries/{A}/regions/150/tree", 404, "region 150 does not exist"),
        (f"dictionaries/{A}/regions/150/partners", 404, "region 150 does not exist"),
        (f"dictionaries/{A}/regions/3/paths", 400, "add ?to="),
        (f"dictionaries/{A}/regions/3/paths?to=-1", 400, "to must be a whole number"),
        (f"dictionaries/{A}/regions/3/paths?to=150", 404, "region 150 does not exist"),
        (f"dictionaries/{A}/regions/150/paths?to=3", 404, "region 150 does not exist"),
    ],
)
def test_wrong_questions_get_a_message(site, path, status, words):
    answered, headers, text = request(f"{site}/{path}")
    assert answered == status, text
    assert headers["content-type"] == "application/json"
    assert words in json.loads(text)["error"]


def test_levels_of_other_centres_are_no_tree(tmp_path):
    annotated(tmp_path, k=60, percentiles=(2,))
    annotated(tmp_path, k=60, percentiles=(4,), seed=5)
    with served(tmp_path) as address:
        status, _, text = request(f"{address}/api/dictionaries/{A}/tree")
    assert status == 400
    assert "different centres" in json.loads(text)["error"]


def test_a_damaged_level_is_left_out(tmp_path):
    made = annotated(tmp_path, k=60, percentiles=(2, 4, 8))
    path = made[1].path / "exemplars.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with served(tmp_path) as address:
        levels = get(f"{address}/api/dictionaries/{A}/tree")["levels"]
    assert [level["percentile"] for level in levels] == [8, 2]
