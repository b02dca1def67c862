"""What `ep show` prints: regions with their evidence, texts token by token; safe on any terminal."""

import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from functools import partial

import pytest
from rich.cells import cell_len

import exemplar_partitioning as ep
from annotated import EMPTY, HOSTILE, annotated
from conftest import sentences
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.folder.model import model_of
from exemplar_partitioning.reading import read

SAFE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


@pytest.fixture
def show(ep_main):
    return partial(ep_main, "show", columns=80)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    annotated(root)
    return root


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    root = tmp_path_factory.mktemp("bare")
    annotated(root, annotate=False)
    return root


@pytest.fixture(scope="module")
def built(tiny_folder, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    options = {"calibration_batch": 500, "calibration_sample": 2000, "saturation_window": 4000, "context_size": 32}
    ep.build(str(tiny_folder), [text_file], out=out, sites="resid_post.1", percentiles=[2, 10], **options)
    return out


def check_safe(out, columns):
    for line in out.splitlines():
        assert not [c for c in line if unicodedata.category(c) in SAFE], line
        assert cell_len(line.rstrip()) <= columns, line


@pytest.mark.parametrize("columns", [80, 120])
def test_every_view_fits_and_steers_no_terminal(synthetic, bare, show, columns):
    d = store.load(synthetic, percentile=2)
    for arguments in [(), ("--percentile", 2), *(("--percentile", 2, "--region", i) for i in range(len(HOSTILE)))]:
        code, out, _ = show(synthetic, *arguments, columns=columns)
        assert code == 0
        check_safe(out.replace(str(synthetic), ""), columns)
    for region in range(0, d.k, 17):
        check_safe(show(bare, "--percentile", 2, "--region", region, columns=columns)[1].rpartition("\n\n")[0], columns)


def test_a_region_with_its_evidence(synthetic, show):
    d, region = store.load(synthetic, percentile=2), 30
    Labels.read(d).set(region, "my own words")
    out = show(synthetic, "--percentile", 2, "--region", region, "--top", 2, columns=120)[1]
    row, exemplar = d.annotation.region(region), d.region(region)
    assert f"region {region} of {d.k}" in out and f"theta {d.threshold:.3f}" in out
    assert "my own words  (hand)" in out and re.search(r"\(tokens(, detection \d\.\d\d)?\)", out)
    assert f"{row['members']:,}, {row['members'] / d.annotation.record.n_activations:.2%} of all" in out
    assert f"{row['coherence']:.3f}" in out and f"{row['stability']:.3f}" in out
    assert f"{exemplar['document']} @{exemplar['position']}" in out and f"«{exemplar['token'].strip()}»" in out
    lines = out.splitlines()
    for kind in ("nearest", "random", "farthest"):
        first = next(i for i, line in enumerate(lines) if line.startswith(kind))
        for line, example in zip(lines[first:], d.annotation.examples(region, kind)[:2], strict=False):
            assert f"{example['distance']:.3f}" in line and f"«{example['tokens'][example['at']].strip()}»" in line
    for name, column in (("promotes", "lens_top"), ("suppresses", "lens_bottom")):
        first = row[column][0]
        share = f"{first['probability']:.1%}" if first["probability"] >= 0.0005 else "<0.1%"
        assert f"{name:<11}“{first['token']}” {share} ×" in out
    assert f"“{row['top_tokens'][0]['token']}” {row['top_tokens'][0]['count'] / row['members']:.0%} ×" in out


def test_the_nearest_regions_are_those_of_largest_cosine(synthetic, show):
    d, region = store.load(synthetic, percentile=2), 30
    shown = json.loads(show(synthetic, "--percentile", 2, "--region", region, "--json")[1])
    cosine_k = d.exemplars.numpy() @ d.exemplars[region].numpy()
    others = [i for i in cosine_k.argsort()[::-1].tolist() if i != region][:6]
    assert [row["region"] for row in shown["nearest_regions"]] == others
    assert [row["label"] for row in shown["nearest_regions"]] == [Labels.read(d).best(i).text for i in others]
    out = show(synthetic, "--percentile", 2, "--region", region)[1]
    assert f"neighbours cosine {cosine_k[others[0]]:.3f}   region {others[0]}" in out


def test_json_of_a_region_is_what_is_stored(synthetic, show):
    d, region = store.load(synthetic, percentile=2), 30
    shown = json.loads(show(synthetic, "--percentile", 2, "--region", region, "--json")[1])
    assert shown["exemplar"] == d.region(region)
    assert shown["evidence"] == d.annotation.region(region)
    assert shown["examples"] == d.annotation.examples(region)
    assert sum(shown["histogram"]) == shown["evidence"]["members"]


def test_the_histogram_has_a_bar_per_bin_and_theta_below_its_own(synthetic, show):
    d = store.load(synthetic, percentile=2)
    region = int(d.annotation.regions.column("members").to_numpy().argmax())
    lines = show(synthetic, "--percentile", 2, "--region", region)[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("distances"))
    bars = [line.ljust(80)[11:].replace("distances", "") for line in lines[first : first + 4]]
    counts = d.annotation.histogram[region]
    heights = [sum(" ▁▂▃▄▅▆▇█".index(line[2 * i]) for line in bars) for i in range(30)]
    assert heights[int(counts.argmax())] == 32
    assert [height > 0 for height in heights] == (counts[:30] > 0).tolist()
    assert lines[first + 4].index("↑") == 11 + 2 * int(d.threshold * 40)


def test_a_region_without_members(synthetic, show):
    out = show(synthetic, "--percentile", 2, "--region", EMPTY)[1]
    assert "members    none" in out and "neighbours" in out and "\nnearest" not in out and "promotes" in out


def test_without_annotation_it_shows_what_there_is(bare, show):
    d = store.load(bare, percentile=2)
    code, out, _ = show(bare, "--percentile", 2, "--region", 12)
    assert (
        code == 0 and f"online     {d.region(12)['arrivals']:,} activation" in out and d.region(12)["document"] in out
    )
    assert "neighbours" in out and f"ep annotate {d.path}" in out
    shown = json.loads(show(bare, "--percentile", 2, "--region", 12, "--json")[1])
    assert shown["evidence"] is None and shown["labels"][0]["source"] == "tokens"


def test_the_list_is_by_members_with_labels_once_there_are_any(synthetic, bare, show):
    d = store.load(synthetic, percentile=8)
    (shown,) = json.loads(show(synthetic, "--percentile", 8, "--top", 4, "--json")[1])
    rows = shown["biggest_regions"]
    assert [row["members"] for row in rows] == sorted(d.annotation.regions.column("members").to_pylist())[::-1][:4]
    assert [row["label"] for row in rows] == [Labels.read(d).best(row["region"]).text for row in rows]
    out = show(synthetic, "--percentile", 8)[1]
    assert "members" in out and "label" in out and "online count" not in out
    out = show(bare)[1]
    assert "online count" in out and "label" not in out
    assert "percentile 2: biggest" in out and "percentile 8: biggest" in out


def test_of_many_dictionaries_the_regions_of_one_are_listed(built, show, monkeypatch):
    code, out, _ = show(built)
    assert (code, out.count("biggest of"), "of the other" in out) == (0, 2, False)
    monkeypatch.setattr("exemplar_partitioning.cli.show._LISTED", 1)
    code, out, _ = show(built)
    assert (code, out.count("biggest of"), "Regions of the other 1 " in out) == (0, 1, True)


def test_a_text_token_by_token(built, tiny_folder, show):
    text = sentences(1, seed=3)[0]
    d = store.load(built, percentile=2)
    (expected,) = read([d], model_of(d, str(tiny_folder)), text)
    shown = json.loads(show(built, "--percentile", 2, "--text", text, "--model", tiny_folder, "--json")[1])
    assert [{**token, "label": None} for token in shown["tokens"]] == [
        {**token.as_json(), "label": None} for token in expected
    ]
    assert "".join(token["text"] for token in shown["tokens"]) == text
    labels = Labels.read(d)
    assert all(token["label"] == labels.best(token["region"]).text for token in shown["tokens"])
    assert shown["summary"]["tokens"] == len(expected)
    assert shown["summary"]["within"] == sum(token.distance <= d.threshold for token in expected)
    assert shown["summary"]["regions"] == len({token.region for token in expected})
    out = show(built, "--percentile", 2, "--text", text, "--model", tiny_folder)[1]
    lines = out.splitlines()
    for line, token in zip(lines[1:], expected, strict=False):
        assert line.split()[0] == str(token.position)
        assert f"{token.distance:.3f}  {'within' if token.within else 'beyond'}" in line
    share = sum(token.within for token in expected) / len(expected)
    assert f"{len(expected)} tokens; " in lines[-1] and f"{share:.1%}" in lines[-1]


def test_a_hostile_text_from_a_file(built, tiny_folder, show, tmp_path):
    file = tmp_path / "hostile.txt"
    file.write_text("the dog \x1b[31m\x07 \u202e fox\r\n\x00 \U0001f469\u200d\U0001f52c" + "x" * 400)
    for columns in (80, 120):
        code, out, error = show(built, "--percentile", 2, "--file", file, "--model", tiny_folder, columns=columns)
        assert code == 0, error
        check_safe(out, columns)
    assert "tokens; " in out


def test_errors(synthetic, built, tiny_folder, show, tmp_path):
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "long.txt").write_bytes(b"a" * 1_000_001)
    cases = [
        ([synthetic, "--region", 1], 2, "choose one by site and percentile: resid_post.1/p2, resid_post.1/p8"),
        ([synthetic, "--percentile", 2, "--region", 120], 2, "regions are numbered 0 to 119"),
        ([synthetic, "--percentile", 2, "--region", -1], 2, "regions are numbered 0 to 119"),
        ([synthetic, "--percentile", 2, "--region", 1, "--text", "x"], 2, "give one of them"),
        ([synthetic, "--percentile", 2, "--text", "x"], 2, "--model"),
        ([built, "--percentile", 2, "--text", "", "--model", tiny_folder], 2, "no tokens"),
        ([built, "--percentile", 2, "--file", tmp_path / "none.txt"], 2, "none.txt"),
        ([built, "--percentile", 2, "--file", tmp_path / "latin.txt"], 3, "not UTF-8"),
        ([built, "--percentile", 2, "--file", tmp_path / "long.txt"], 2, "1,000,001 bytes"),
    ]
    for arguments, expected, word in cases:
        code, _, error = show(*arguments)
        assert (code, word in error) == (expected, True), (arguments, code, error)


def test_on_a_terminal_tokens_are_shaded_and_not_marked(synthetic):
    """A real terminal, as large as one: colours there, marks in a pipe."""
    d, region = store.load(synthetic, percentile=2), 30
    command = [sys.executable, "-m", "exemplar_partitioning", "show", d.path, "--region", str(region)]
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    leader, follower = pty.openpty()
    with subprocess.Popen(
        list(map(str, command)),
        stdout=follower,
        env=plain | {"TERM": "xterm-256color", "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
    ) as process:
        os.close(follower)
        out = b""
        while piece := _read(leader):
            out += piece
        assert process.wait() == 0
    os.close(leader)
    said = out.decode()
    assert "\x1b[" in said and "\u00ab" not in said and "\x1b[1;7m" in said
    assert "38;5;" in said or "48;5;" in said


def _read(leader):
    try:
        return os.read(leader, 65536)
    except OSError:  # the other end is closed
        return b""
