"""Bytes of files: sound archives of every make are read whole, and nothing takes more memory than is stated."""

import bz2
import gzip
import io
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exemplar_partitioning.errors import DataError
from exemplar_partitioning.text.documents import read_documents, read_prompts
from exemplar_partitioning.text.raw import DOCUMENT_BYTES, RECORD_VALUES, decoded_lines
from exemplar_partitioning.text.tables import _unpacked

ROWS = [f"row {i} " + "x" * 40 for i in range(2000)]
LINES = "".join(json.dumps({"text": row}) + "\n" for row in ROWS).encode()
PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True)}
# A frame that decoders are to pass over: RFC 8878, 3.1.2.
SKIPPABLE = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"hello"


def texts(path: Path) -> list[str]:
    return [document.text for document in read_documents(path)]


@pytest.mark.parametrize("suffix", PACK)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(LINES)), max_size=6), zeros=st.integers(0, 600))
def test_members_may_be_cut_anywhere_be_empty_and_zeros_may_follow(tmp_path, suffix, cuts, zeros):
    at = [0, *sorted(cuts), len(LINES)]
    members = [PACK[suffix](LINES[a:b]) for a, b in pairwise(at)]
    between = SKIPPABLE if suffix == ".zst" else b""
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(between + between.join(members) + (between or b"\0" * zeros))
    assert texts(path) == ROWS


@pytest.mark.parametrize("suffix", PACK)
def test_a_file_of_no_bytes_has_no_documents_and_another_compression_is_damage(tmp_path, suffix):
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(b"")
    assert texts(path) == []
    for raw in (LINES, *(pack(LINES) for other, pack in PACK.items() if other != suffix)):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"line 1: damaged or cut short"):
            texts(path)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the zstd command")
@pytest.mark.parametrize("window", [27, 28, 31])
def test_zstd_with_long_windows(tmp_path, window):
    path = tmp_path / "rows.jsonl.zst"
    command = ["zstd", "--ultra", "-22", f"--long={window}", "-q", "-o", str(path)]
    subprocess.run(command, input=LINES, check=True)  # from a stream, so that the frame tells no size
    assert texts(path) == ROWS


@pytest.mark.parametrize("name", ["p.txt", "p.TXT", "p.txt.gz", "p.Txt.ZST", "p.txt.bz2"])
def test_prompts_are_lines_of_text_files_whatever_their_names(tmp_path, name):
    raw = "\ufeffTell me.\r\n\nOne\u2028line\u2029of\x0cfour\x85parts\x1c.\n \t\nLast".encode()
    path = tmp_path / name
    suffix = path.suffix.lower()
    path.write_bytes(PACK[suffix](raw) if suffix in PACK else raw)
    assert read_prompts(path) == ["Tell me.", "One\u2028line\u2029of\x0cfour\x85parts\x1c.", "Last"]


@given(lines=st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), min_size=1))
def test_lines_end_at_newlines_alone(lines):
    raw = io.BytesIO("\ufeff".encode() + "\n".join(lines).encode())
    expected = "\n".join(lines).split("\n")
    if not expected[-1]:  # the end of the last line, or of the mark
        expected = expected[:-1] or ([""] if raw.getvalue() else [])
    assert [line.removesuffix("\n") for line in decoded_lines(raw, "x")] == expected


def test_pointers_of_git_lfs_are_told(tmp_path):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"
    for name in ("a.parquet", "a.jsonl", "a.txt", "a.jsonl.gz", "a.arrow", "a.csv.zst", "a.json"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(DataError, match=rf"{name}: is a pointer of Git LFS.*git lfs pull"):
            texts(tmp_path / name)


# Reads a file and tells how many megabytes it held. Address space is limited loosely: allocators reserve it.
READ = """
import resource, sys
from exemplar_partitioning.errors import DataError
from exemplar_partitioning.text.documents import read_documents
import pyarrow.parquet
kilobytes = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
limit = (kilobytes << 10) + (3 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print(sum(1 for _ in read_documents(sys.argv[1])))
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, file=sys.stderr)
"""


def members(suffix: str, parts: list[tuple[bytes, int]]) -> bytes:
    """Parts, each so often, as members of their own: gigabytes made in no time."""
    return b"".join((PACK[suffix](part) if suffix else part) * count for part, count in parts)


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("a.txt.gz", b"", b""),
        ("a.txt.bz2", b"", b""),
        ("a.jsonl.gz", b'{"text": "', b'"}\n'),
        ("a.jsonl.zst", b'{"text": "', b'"}\n'),
        ("a.json.gz", b'[{"text": "', b'"}]'),
        ("a.csv.gz", b'n,text\n1,"', b'"\n'),
        ("a.tsv.zst", b"n\ttext\n1\t", b"\n"),
    ],
)
def test_a_document_of_gigabytes_is_refused_in_little_memory(tmp_path, name, start, end):
    path = tmp_path / name
    path.write_bytes(members(path.suffix, [(start, 1), (b"word " * 209_715, 1500), (end, 1)]))
    assert path.stat().st_size < 3_000_000
    assert_refused(path)


def assert_refused(path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "longer than 32 MB" in run.stdout
    assert int(run.stderr.split()[-1]) < 400


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
@pytest.mark.parametrize("others", [0, 100])
def test_a_long_document_in_parquet_is_refused_in_little_memory(tmp_path, others):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": ["short"] * others + ["word " * 20_000_000]}),
        path,
        use_dictionary=False,
        write_statistics=False,
    )
    assert_refused(path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("writer", [pa.ipc.new_file, pa.ipc.new_stream])
def test_a_long_document_in_arrow_is_refused_in_little_memory(tmp_path, writer, dictionary):
    texts = pa.array(["short", "word " * 20_000_000])
    table = pa.table({"text": texts.dictionary_encode() if dictionary else texts})
    path, packed = tmp_path / "a.arrow", pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as file, writer(file, table.schema, options=packed) as stream:
        stream.write_table(table)
    assert path.stat().st_size < 100_000
    assert_refused(path)


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.text(max_size=9), max_size=4) | st.none(), max_size=30))
def test_the_size_of_a_packed_batch_is_that_of_its_columns(compression, rows):
    columns = {"a": pa.array(rows, pa.list_(pa.string())), "b": pa.array(range(len(rows)), pa.int32())}
    batch, file = pa.record_batch(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(file, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_batch(batch)
    _, message = pa.ipc.MessageReader.open_stream(file.getvalue())
    size, n = _unpacked(message)
    assert n == len(rows)
    assert (size == 0) if compression is None else batch.nbytes <= size <= batch.get_total_buffer_size() + 64 * 8


VALUES = [("a.jsonl", '{"text": "a", "rest": [%s1]}\n', "{},"), ("a.json", '["a", [%s1]]', "{},")]


@pytest.mark.parametrize(("name", "around", "value"), [*VALUES, ("a.csv", "text,rest\na,%s1\n", "ab,")])
def test_many_values_are_no_record_though_a_text_may_hold_as_many_marks(tmp_path, name, around, value):
    path = tmp_path / name
    path.write_text(around % (value * RECORD_VALUES))
    with pytest.raises(DataError, match=r"holds more than 1,000,000 values"):
        list(read_documents(path))
    marks = f'"{value * RECORD_VALUES}",'
    path.write_text(around % marks if name != "a.json" else f"[{marks[:-1]}]")
    assert len(list(read_documents(path))) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_many_documents_however_long_together_take_little_memory(tmp_path):
    item = json.dumps({"text": "word " * 50_000}).encode()
    for name, start, between, end in [("a.jsonl.gz", b"", b"\n", b""), ("a.json.gz", b"[", b",", b"null]")]:
        path = tmp_path / name
        path.write_bytes(members(".gz", [(start, 1), ((item + between) * 10, 100), (end, 1)]))  # 250 MB
        run = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
        assert run.stdout == "1000\n"
        assert int(run.stderr.split()[-1]) < 60


def test_the_longest_document_is_read_whole(tmp_path):
    for name in ("a.txt", "a.jsonl"):
        path = tmp_path / name
        text = "x" * (DOCUMENT_BYTES - 20)
        path.write_text(text if name == "a.txt" else json.dumps({"text": text}))
        assert texts(path) == [text]
