"""Rows: nested and joined fields, folders as `datasets` and git leave them, subsets of hub datasets."""

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.text.documents import read_documents, read_prompts
from exemplar_partitioning.text.readers import Document, Reading

NESTED = [
    {
        "id": i,
        "title": f"T{i}",
        "body": None if i == 1 else f"B{i}",
        "meta": {"text": f"M{i}"},
        "parts": [{"t": f"P{i}"}],
    }
    for i in range(3)
]


def texts(sources, **options) -> list[str]:
    return [document.text for document in read_documents(sources, **options)]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet", ".arrow", None])
def test_fields_go_inside_and_join_in_every_format(tmp_path, kind):
    source = NESTED if kind is None else write(tmp_path / f"rows{kind}", NESTED)
    assert texts(source, field="meta.text") == ["M0", "M1", "M2"]
    assert texts(source, field="parts.0.t") == ["P0", "P1", "P2"]
    assert texts(source, field="title+body") == ["T0\n\nB0", "T1", "T2\n\nB2"]
    assert texts(source, field="title + meta.text")[0] == "T0\n\nM0"
    for field, message in [
        ("meta.body", r"no 'meta.body' among its fields at 'body' \(text\)"),
        ("parts.1.t", r"no 'parts.1.t' among its fields at '1' \(0\)"),
        ("title+text", r"no 'title\+text' among its (fields|columns)"),
        ("title+id", r"joins a number \(0\)"),
        ("id", r"the text is a number \(0\)"),
        ("meta", r"the text is an object"),
        ("text", r"no 'text' among its (fields|columns) \(id, title, body, meta, parts\)"),
    ]:
        with pytest.raises(EPError, match=message):
            texts(source, field=field)


@given(
    name=st.text(st.sampled_from("ab.+"), min_size=1, max_size=8),
    value=st.text(min_size=1).filter(lambda text: not text.isspace()),
)
def test_a_field_is_found_by_its_own_name_whatever_that_is(name, value):
    try:
        value.encode()
    except UnicodeEncodeError:
        return
    document = Reading(name, None, True).document("0", {"x": 1, name: value}, "row 0")
    assert document == Document("0", value)


def test_a_cloned_dataset_is_its_data_and_notes_keep_their_readme(tmp_path):
    for folder in ("cloned", "notes"):
        (tmp_path / folder / "data").mkdir(parents=True)
        (tmp_path / folder / "README.md").write_text("---\nlicense: mit\n---\n# Card\n")
    for name in ("LICENSE.txt", "data/licence.TXT", "CONTRIBUTING.md", "requirements.txt"):
        (tmp_path / "cloned" / name).write_text("d")
    write(tmp_path / "cloned" / "data" / "train.jsonl", [{"text": "a"}])
    (tmp_path / "cloned" / "dataset_infos.json").write_text("{}")
    (tmp_path / "cloned" / "more.md").write_text("b")
    (tmp_path / "notes" / "data" / "more.md").write_text("c")
    assert texts(tmp_path / "cloned") == texts(f"{tmp_path}/cloned/**") == ["a", "b"]
    assert len(texts(tmp_path / "notes")) == 2
    assert texts(tmp_path / "cloned" / "README.md")[0].startswith("---")
    (tmp_path / "cloned" / "security.jsonl").write_text('{"text": "A lock."}\n')
    assert "A lock." in texts(tmp_path / "cloned")  # rows, whatever they are about


def saved(folder: Path, rows: list[str], shards: int = 1) -> Path:
    """A folder as `datasets.save_to_disk` leaves it, and a cache that a later use of it left there."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        write(folder / name, [{"text": row} for row in rows[i::shards]])
    write(folder / "cache-1a2b.arrow", [{"text": "of a cache"}])
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def test_saved_datasets_are_their_shards_and_half_written_ones_are_told(tmp_path):
    one = saved(tmp_path / "one", ["a", "b", "c", "d"], 2)
    assert texts(one) == ["a", "c", "b", "d"]
    for split in ("train", "test"):
        saved(tmp_path / "splits" / split, [split])
    (tmp_path / "splits" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    assert texts(tmp_path / "splits") == ["test", "train"]
    assert texts(tmp_path / "splits" / "train") == ["train"]
    shard = one / "data-00001-of-00002.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow: damaged or cut short"):
        texts(one)
    shard.unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow: is missing.*state\.json names it"):
        texts(one)
    (one / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state\.json: damaged"):
        texts(one)


def test_prompts_are_not_made_of_conversations(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Why?", "response": "Because."}])
    with pytest.raises(EPError, match="holds conversations"):
        read_prompts(path)
    assert read_prompts(path, "prompt") == ["Why?"]


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")
def test_real_datasets_saved_and_of_several_subsets(tmp_path, monkeypatch):
    import datasets

    datasets.Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(tmp_path / "saved", num_shards=2)
    assert texts(tmp_path / "saved") == texts(datasets.load_from_disk(str(tmp_path / "saved"))) == ["one", "two"]
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / "owner" / "name" / name).mkdir(parents=True)
        for split in ("train", "test"):
            write(tmp_path / "owner" / "name" / name / f"{split}.jsonl", [{"text": f"{name} {split}"}])
    files = "\n".join(
        f"- config_name: {config}\n  data_files:\n  - split: train\n    path: {name}/train.jsonl\n"
        f"  - split: test\n    path: {name}/test.jsonl"
        for config, name in [("sample-10BT", "a"), ("other", "b")]
    )
    (tmp_path / "owner" / "name" / "README.md").write_text(f"---\nconfigs:\n{files}\n---\n")
    assert texts("hf:owner/name:sample-10BT") == ["a train"]
    assert texts("hf:owner/name:other:test") == ["b test"]
    assert [d.id for d in read_documents("hf:owner/name:other:test")] == ["hf:owner/name:other:test:0"]
    for source, message in [
        ("hf:owner/name", "sample-10BT"),
        ("hf:owner/name:test", r"name one of the dataset's subsets, sample-10BT, other"),
        ("hf:owner/name:other:dev", "Bad split"),
        ("hf:owner/name:a:b:c", r"expected hf:owner/name\[:subset\]\[:split\]"),
        ("hf:owner/name:", r"expected hf:owner/name\[:subset\]\[:split\]"),
    ]:
        with pytest.raises(EPError, match=message):
            texts(source)


CORPORA = Path(__file__).parents[3] / "shared" / "data" / "corpora"


@pytest.mark.skipif(not CORPORA.is_dir(), reason="needs the corpora")
def test_real_files_are_read_alike_in_another_format(tmp_path):
    for path in sorted(CORPORA.glob("*.jsonl.gz")):
        documents = [d for d, _ in zip(read_documents(path), range(50), strict=False)]
        rows = [{"text": d.text} for d in documents]
        for kind in (".parquet", ".arrow", ".json", ".jsonl"):
            assert texts(write(tmp_path / f"rows{kind}", rows)) == [d.text for d in documents]
