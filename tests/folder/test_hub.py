"""Dictionaries to a hub and back, with the real client against a server on this machine; and without any network."""

import json
import os
import subprocess
import sys

import pytest

import exemplar_partitioning as ep
from annotated import annotated
from exemplar_partitioning.folder.hub import card, is_repository
from exemplar_partitioning.folder.listing import find
from fake_hub import fake_hub

NAME = "someone/dictionaries"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub") / "out"
    dictionaries = annotated(root, k=60)
    (dictionaries[0].path / "labels.json").write_text("{}")
    (dictionaries[0].path / "private notes.txt").write_text("nobody's business")
    return root, dictionaries


@pytest.fixture(scope="module")
def hub():
    with fake_hub() as server:
        yield server


def run(hub, cache, code, token="right", **environment):
    """A fresh interpreter, since the client reads its settings when it is imported."""
    settings = {"HF_HOME": str(cache), "HF_ENDPOINT": hub.address, "HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1"}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *code],
        env={**os.environ, **settings, **quiet, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def pushed(built, hub, tmp_path_factory):
    """What `ep push` printed."""
    root, _ = built
    cache = tmp_path_factory.mktemp("push")
    done = run(hub, cache, ["-m", "exemplar_partitioning", "push", str(root), NAME])
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
import json, sys, exemplar_partitioning as ep
for site, percentile in zip(sys.argv[2::2], sys.argv[3::2]):
    try:
        d = ep.load(sys.argv[1], site=site, percentile=float(percentile))
        print(json.dumps([d.content_id, str(d.path), d.annotation.region(3)["members"]]))
    except ep.EPError as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""


def loads(hub, cache, name, *wanted, **environment):
    done = run(hub, cache, ["-c", LOAD, name, *wanted], **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_pushed_are_the_dictionaries_as_they_are_and_a_card(built, hub, pushed):
    root, (fine, _) = built
    assert f"{NAME}/commit/" in pushed
    sent = hub.repositories[NAME]
    assert sent["resid_post.1/p2/config.json"] == (fine.path / "config.json").read_bytes()
    assert "resid_post.1/p8/annotation/means.safetensors" in sent and "resid_post.1/p2/labels.json" in sent
    theirs = {path for path in sent if path != "README.md"}
    assert theirs == {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and "private" not in p.name}
    assert sent["README.md"].startswith(b"---\nlibrary_name: exemplar-partitioning\n")


def test_load_from_the_hub_and_then_without_a_network(built, hub, pushed, tmp_path):
    _, (fine, coarse) = built
    hub.served.clear()
    for environment in ({}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        ((content_id, path, members),) = loads(hub, tmp_path, NAME, "resid_post.1", "2", **environment)
        assert content_id == fine.content_id and members == fine.annotation.region(3)["members"]
        assert path.startswith(str(tmp_path))
    assert not [path for path in hub.served if "/p8/" in path]  # what was not asked for was not fetched

    here, not_here = loads(hub, tmp_path, NAME, "resid_post.1", "2", "resid_post.1", "8", HF_HUB_OFFLINE="1")
    assert here[0] == fine.content_id
    assert not_here.startswith("ResourceError") and "not in the hub's cache" in not_here
    ((content_id, *_),) = loads(hub, tmp_path, NAME, "blocks.1.hook_resid_post", "8")
    assert content_id == coarse.content_id


def test_pull_writes_a_folder_to_keep(built, hub, pushed, tmp_path):
    _, (_, coarse) = built
    out = tmp_path / "here"
    pull = ["-m", "exemplar_partitioning", "pull", NAME, "--out", str(out), "--percentile", "8"]
    done = run(hub, tmp_path / "cache", pull)
    assert done.returncode == 0 and done.stdout.strip() == str(out), done.stderr
    assert [folder.name for folder in find(out)] == ["p8"]
    assert ep.load(out).content_id == coarse.content_id


def test_errors_say_what_to_do(built, hub, tmp_path):
    root, _ = built
    (missing,) = loads(hub, tmp_path, "someone/else", "resid_post.1", "2")
    assert "there is no folder someone/else" in missing and "hf auth login" in missing
    refused = run(hub, tmp_path, ["-m", "exemplar_partitioning", "push", str(root), NAME], token="wrong")
    assert refused.returncode == 2 and "hf auth login" in refused.stderr
    with pytest.raises(ep.EPError, match="expected org/name"):
        ep.push(root, "no name")
    with pytest.raises(ep.EPError, match="holds no dictionary"):
        ep.push(tmp_path, NAME)


def test_a_card_is_plain_text_whatever_the_names_hold(built):
    _, dictionaries = built
    text = card(NAME, dictionaries)
    assert "<b>" not in text and "&lt;b&gt;" in text
    assert f'ep.load("{NAME}", site="resid_post.1", percentile=2)' in text
    assert text.count("| `resid_post.1` |") == 2
    assert "excerpts" in text


def test_folders_go_before_repositories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_repository("org/name") and is_repository("org/name.v2-x")
    for other in ("name", "a/b/c", "./a", "../a", "/tmp", "~/x", tmp_path / "x", "org/na me"):
        assert not is_repository(other)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert not is_repository("org/name")
    with pytest.raises(ep.EPError, match="has no revision"):
        ep.load("org/name", revision="v2")
