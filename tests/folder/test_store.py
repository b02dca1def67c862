"""The folder: golden bytes of schema 1.0, and nothing damaged, foreign or newer ever loads."""

import json
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
import torch

import exemplar_partitioning as ep
from conftest import tree
from exemplar_partitioning.errors import DataError, EPError, ResourceError
from exemplar_partitioning.files import disk_errors, new_folder
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder import schema as records
from exemplar_partitioning.folder.invariants import content_ids
from exemplar_partitioning.folder.listing import find
from made_up import model_record, text_record

GOLDEN = Path(__file__).parents[1] / "golden" / "schema-1.0"
SCHEMA = Path(__file__).parents[2] / "docs" / "config.schema.json"


def example(path, k=5, percentile=2.5, layer=1):
    """A small dictionary with awkward text in it, the same whenever it is written."""
    d = 8
    base = np.arange(k * d, dtype=np.float32).reshape(k, d) % 7 - 3
    exemplars = torch.from_numpy(base / np.sqrt((base**2).sum(axis=1, keepdims=True)))
    dictionary = ep.Dictionary(torch.arange(d) / 4, exemplars, 0.25)
    texts = ["plain", "line\nbreak\x00", "\u202eright to left", "<b>&amp;</b>", "\U0001f600"]
    regions = pa.table(
        {
            "region": range(k),
            "content_id": content_ids(exemplars.numpy()),
            "document": [f"file.jsonl:{i}" for i in range(k)],
            "position": [i * i for i in range(k)],
            "token_id": [10 + i for i in range(k)],
            "token": [texts[i % 5] for i in range(k)],
            "context": [texts[(i + 1) % 5] for i in range(k)],
            "raw_norm": [0.5 + i for i in range(k)],
            "arrival_index": [3 * i for i in range(k)],
            "arrivals": [2**33 + i for i in range(k)],
            "window_tokens": [[1, *range(10, 11 + i)] for i in range(k)],
        },
        schema=records.REGIONS_SCHEMA,
    )
    config = records.Config(
        model=model_record("example", d_model=d, vocab_size=100),
        site=records.SiteRecord(
            name=f"resid_post.{layer}",
            transformer_lens=f"blocks.{layer}.hook_resid_post",
            module_path=f"model.layers.{layer}",
        ),
        text=text_record("file.jsonl"),
        calibration=records.CalibrationRecord(
            percentile=percentile, threshold=0.25, spread=0.001, batch=100, n_activations=200, center_norm=2.9580398915
        ),
        build=records.BuildRecord(
            k=k,
            n_activations=1000,
            skipped=1,
            stopped="saturated",
            saturation_window=500,
            until_unseen=None,
            unseen=records.UnseenRecord(estimate=0.002, low=0.0, high=0.005),
            growth=[(500, 4), (1000, k)],
            device="cpu",
        ),
        versions={"exemplar-partitioning": "0", "torch": "0", "transformers": "0"},
    )
    store.save(path, config, dictionary, regions)
    return dictionary, regions


def test_golden_bytes(tmp_path):
    """L8: the very bytes of schema 1.0. A change here is a new schema version with a migration."""
    example(tmp_path / "p2.5")
    written, golden = tree(tmp_path / "p2.5"), tree(GOLDEN)
    assert written["exemplars.safetensors"] == golden["exemplars.safetensors"]
    written_config, golden_config = (json.loads(files["config.json"]) for files in (written, golden))
    for files in (written_config, golden_config):
        files["files"].pop("regions.parquet")
    assert written_config == golden_config
    if version("pyarrow") == "26.0.1":  # parquet files name the version of their writer
        assert {name: written[name] for name in golden} == golden  # the seal came later


def test_what_was_written_is_what_is_read(tmp_path):
    dictionary, regions = example(tmp_path / "p2.5", k=2500)
    loaded = ep.load(tmp_path / "p2.5")
    assert torch.equal(loaded.exemplars, dictionary.exemplars) and torch.equal(loaded.center, dictionary.center)
    assert loaded.threshold == dictionary.threshold
    assert loaded.regions.equals(regions)
    for index in (0, 1023, 1024, 2499):
        assert loaded.region(index) == regions.slice(index, 1).to_pylist()[0]
    with pytest.raises(EPError, match="numbered 0 to 2499"):
        loaded.region(2500)


def test_saved_then_loaded_assigns_the_same(tmp_path):
    """P10: assignments before saving and after loading are the same bytes."""
    dictionary, _ = example(tmp_path / "p2.5", k=40)
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    for before, after in zip(dictionary.assign(x), ep.load(tmp_path / "p2.5").assign(x), strict=True):
        assert before.tobytes() == after.tobytes()


def test_golden_folder_still_loads():
    loaded = ep.load(GOLDEN)
    assert (loaded.k, loaded.d_model, loaded.config.site.name) == (5, 8, "resid_post.1")
    assert loaded.region(2)["token"] == "\u202eright to left"
    assert "resid_post.1, percentile 2.5, k=5" in repr(loaded)


def test_committed_json_schema_is_the_models(tmp_path):
    committed = json.loads(SCHEMA.read_bytes())
    assert committed == records.json_schema(), "run `make schema` and commit docs/config.schema.json"
    jsonschema.validate(json.loads((GOLDEN / "config.json").read_bytes()), committed)


def test_choosing_in_a_build(tmp_path):
    root = tmp_path / "builds" / "first"
    for p in (1, 2.5, 10):
        example(root / "resid_post.1" / f"p{p:g}", percentile=p)
    example(root / "resid_post.10" / "p10", percentile=10, layer=10)
    assert ep.load(root, site="resid_post.1", percentile=2.5).config.calibration.percentile == 2.5
    assert ep.load(root, site="resid_post.10").config.calibration.percentile == 10
    assert [folder.name for folder in find(root)] == ["p1", "p2.5", "p10", "p10"]
    with pytest.raises(EPError, match=r"several dictionaries fit .*resid_post.1/p10, resid_post.10/p10"):
        ep.load(root, percentile=10)
    with pytest.raises(EPError, match=r"no dictionary for site resid_pre.0.*resid_post.1/p1,"):
        ep.load(root, site="resid_pre.0")
    with pytest.raises(EPError, match="no folder"):
        ep.load(tmp_path / "elsewhere")
    with pytest.raises(EPError, match=r"is the folder of a site; give .* and --site resid_post.10"):
        ep.load(root / "resid_post.10")
    with pytest.raises(EPError, match=f"builds are in it: give {re.escape(str(root))}$"):
        ep.load(root.parent)
    (root / "resid_post.10" / "p10" / "annotation").mkdir()
    with pytest.raises(EPError, match=r"it lies in the folder of one: give .*p10$"):
        ep.load(root / "resid_post.10" / "p10" / "annotation")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EPError, match="holds no dictionary: it is empty"):
        ep.load(tmp_path / "empty")
    (tmp_path / "empty" / ".build").mkdir()
    with pytest.raises(EPError, match="its build has not finished; continue it with --resume"):
        ep.load(tmp_path / "empty")


@pytest.mark.parametrize("name", ["config.json", "exemplars.safetensors", "regions.parquet"])
def test_damage_is_found(tmp_path, name):
    """Truncated, altered by a bit, emptied or gone: one clear error each, at load or at first use."""
    rng = np.random.default_rng(0)
    example(tmp_path / "good", k=30)
    whole = (tmp_path / "good" / name).read_bytes()
    damages = [None, b"", whole[:-1], whole[: len(whole) // 2], whole + b"\0"]
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        damages.append(bytes(flipped))
    for damage in damages:
        if damage is None:
            (tmp_path / "good" / name).unlink()
        else:
            (tmp_path / "good" / name).write_bytes(damage)
        with pytest.raises(EPError, match=re.escape(str(tmp_path))):
            ep.load(tmp_path / "good").regions  # noqa: B018


def test_the_seal_of_a_config(tmp_path):
    """Another digit of the threshold is well-formed; what was written before there were seals has none."""
    example(tmp_path / "p")
    config, seal = tmp_path / "p" / "config.json", tmp_path / "p" / "config.json.sha256"
    done = subprocess.run(["sha256sum", "-c", seal.name], cwd=seal.parent, capture_output=True, text=True, check=False)
    assert done.stdout == "config.json: OK\n"
    config.write_text(config.read_text().replace('"threshold": 0.25', '"threshold": 0.26'))
    with pytest.raises(DataError, match=r"config\.json is altered"):
        ep.load(tmp_path / "p")
    seal.unlink()
    assert ep.load(tmp_path / "p").threshold == 0.26


def test_json_that_nests_without_end(tmp_path):
    example(tmp_path / "p")
    (tmp_path / "p" / "config.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match="cannot be read as JSON"):
        ep.load(tmp_path / "p")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "2.0"}, "schema version 2.0; this package reads 1.0 and 1.1: if it comes from a newer"),
        ({"format": "something"}, "does not describe a dictionary"),
        ({"extra": 1}, "damaged: extra"),
        ({"files": {}}, "does not list exemplars.safetensors"),
    ],
)
def test_foreign_and_newer_configs(tmp_path, change, message):
    example(tmp_path / "p")
    path = tmp_path / "p" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    path.with_name("config.json.sha256").unlink()
    with pytest.raises(DataError, match=re.escape(message)):
        ep.load(tmp_path / "p")


def test_a_config_of_another_dictionary(tmp_path):
    example(tmp_path / "a", k=5)
    example(tmp_path / "b", k=6)
    (tmp_path / "b" / "config.json").write_bytes((tmp_path / "a" / "config.json").read_bytes())
    with pytest.raises(DataError, match="altered"):
        ep.load(tmp_path / "b")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("written")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    example(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError):
        example(tmp_path / "out")
    assert tree(tmp_path) == before


def test_a_full_disk_is_said_as_such(tmp_path):
    """/dev/full takes no byte: the error a full disk really gives."""
    with pytest.raises(ResourceError, match=r"no space left while writing .*--resume"), disk_errors(tmp_path):
        Path("/dev/full").write_bytes(b"x")


def test_content_ids_follow_from_the_bytes():
    rows = np.eye(3, dtype=np.float32)
    ids = content_ids(rows)
    assert len(set(ids)) == 3 and ids[::-1] == content_ids(rows[::-1])
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in ids)
