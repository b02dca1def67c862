"""Pickles and containers that ask for much: each is refused or read in memory and time proportional to its size.

Every file is read in a process of its own, which may not allocate more than the bound, nor take longer.
"""

import io
import json
import math
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are set by POSIX calls")

SECONDS, FACTOR, FLOOR = 10, 3, 8 << 20  # by byte of the file, and in any case; pages of the interpreter included

READ = """
import json, os, resource, signal, sys, time
from pathlib import Path
from exemplar_partitioning.errors import DataError
from exemplar_partitioning.exchange.from_paper import import_published
from exemplar_partitioning.exchange.from_sae import load_sae
from exemplar_partitioning.exchange.pickles import read_pickle
import exemplar_partitioning as ep, torch, pyarrow.parquet
torch.set_num_threads(1)

def child(path, bound, seconds):
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + bound, pages + bound))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of this process, whatever else runs
    try:
        if path.is_dir():
            load_sae(path)
        elif path.name.startswith("import"):
            import_published(path, path.parent / f"out-{path.stem}", site="resid_post.1", percentile=2.0)
        else:
            read_pickle(path)
        return "read"
    except DataError as error:
        return f"refused: {error}"

for path, bound in json.loads(sys.argv[1]):
    out, into = os.pipe()
    if not (pid := os.fork()):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        answer = "failed"
        try:
            answer = child(Path(path), bound, SECONDS)
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(into, answer[:1000].encode())
        os._exit(0)
    os.close(into)
    _, status = os.waitpid(pid, 0)
    print(json.dumps([Path(path).stem, os.read(out, 2000).decode() or f"killed by {status}"]), flush=True)
    os.close(out)
""".replace("SECONDS", str(SECONDS))


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def raw(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def long(value: int) -> bytes:
    content = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def mapping(n: int) -> bytes:
    return b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(n)) + b"u"


START, RECORD = b"\x80\x04", name("ep", "R")
F4 = name("numpy", "dtype") + text("f4") + b"\x85R"
BUFFER = name("numpy._core.numeric", "_frombuffer")
LAST_KEY = (1 << 61) - 1  # integers that differ by it have one hash
TUPLES = b")" + b"q\x00h\x00\x86" * 200  # of itself: 2**200 leaves

READS = {
    "a dict copied into every record": START + mapping(20_000) + b"q\0"
    + (RECORD + b"q\1](" + b"h\1)\x81h\0b" * 20_000 + b"e."),
    "a state of long tuples": START + mapping(20_000) + b"q\0" + RECORD + b")\x81(" + b"h\0" * 20_000 + b"tb.",
    "a dtype that grows": START + b"(K\3X\1\0\0\0<NNNK\0K\0K\0tq\0" + F4 + b"h\0b" * 300_000 + b".",
    "keys of one hash": START + b"}(" + b"".join(long(i * LAST_KEY) + b"N" for i in range(1, 40_000)) + b"u.",
    "members of one hash": START + b"\x8f(" + b"".join(long(i * LAST_KEY) for i in range(1, 40_000)) + b"\x90.",
    "floats of one hash": START
    + (b"}(" + b"".join(b"G" + struct.pack(">d", 2.0**i) + b"N" for i in range(-900, 900)) * 20 + b"u."),
    "one set again and again": START
    + (b"](" + b"N" * 1000 + b"eq\0" + name("builtins", "set") + b"q\1](" + b"h\1h\0\x85R" * 50_000 + b"e."),
    "one array seen again and again": START + raw(bytes(1 << 18)) + b"q\0" + F4 + b"q\1" + BUFFER + b"q\2]("
    + (b"h\2(h\0h\1J\0\0\1\0\x85X\1\0\0\0CtR" * 30_000 + b"e."),
    "one text encoded again and again": START + name("_codecs", "encode") + b"q\0"
    + (text("x" * 100_000) + b"q\1" + b"h\0h\1\x85R" * 20_000 + b"."),
    "a list put into itself": START + b"]q\0" + b"(h\0h\0h\0e" * 50_000 + b".",
    "a list that doubles": START + b"]q\0" + b"(" + b"N" * 1000 + b"e" + b"(" + b"h\0" * 200_000 + b"e.",
    "tuples of tuples as a key": START + b"}" + TUPLES + b"Ns.",
    "tuples of tuples in a set": START + b"\x8f(" + TUPLES + b"\x90.",
    "tuples of tuples called": START + TUPLES + b")R.",
    "empty lists": START + b"](" + b"]" * 1_000_000 + b"e.",
    "empty dicts": START + b"](" + b"}" * 1_000_000 + b"e.",
    "empty sets": START + b"](" + b"\x8f" * 1_000_000 + b"e.",
    "tuples of one": START + b"N" + b"\x85" * 1_000_000 + b".",
    "nothing but None": START + b"](" + b"N" * 2_000_000 + b"e.",
    "nothing but marks": START + b"(" * 2_000_000 + b".",
    "memos": START + b"N" + b"\x94" * 1_000_000 + b".",
    "small numbers": START + b"](" + b"M\xff\x7f" * 500_000 + b"e.",
    "records": START + RECORD + b"q\0](" + b"h\0)\x81" * 300_000 + b"e.",
    "a class of a long name": START + b"\x8c\2epq\0" + text("x" * 500_000) + b"q\1](" + b"h\0h\1\x93" * 20_000 + b"e.",
    "a class of a long name, by line": START + name("ep", "x" * 100_000) * 5 + b".",
    "wide text": START + b"](" + text("\U0001f600" + "x" * 400_000) * 2 + b"e.",
    "a number of many digits": b"I" + b"1" * 2_000_000 + b"\n.",
    "a float of many digits": b"F" + b"1" * 2_000_000 + b"\n.",
    "a key of many bytes": START + b"}\x8b" + struct.pack("<i", 2_000_000) + b"\x7f" * 2_000_000 + b"Ns.",
    "an array of an infinite length": START
    + (BUFFER + b"(C\4aaaa" + F4 + b"(G" + struct.pack(">d", float("inf")) + b"tX\1\0\0\0CtR."),
    "an array whose length wraps": START + BUFFER + b"(" + raw(b"") + F4 + b"(" + long(1 << 32) * 2 + b"tX\1\0\0\0CtR.",
    "a fixed state for a call": START + name("builtins", "set") + b"(N}tb.",
    "a class as state": START + RECORD + b")\x81}X\x09\0\0\0__class__cbuiltins\nobject\nsb.",
    "a million calls": START + name("builtins", "set") + b"q\0](" + b"h\0)R" * 300_000 + b"e.",
}  # fmt: skip


PAD = 2_000_000  # bytes, so that what is read costs little beside the file


def published(regions: bytes, d: int = 4, before: bytes = b"") -> bytes:
    """A dictionary with this list of regions; memo 0 is an array of d numbers, 1 the class of a region."""
    vector = np.eye(1, d, dtype="<f4").tobytes()
    array = BUFFER + b"(" + raw(vector) + F4 + b"J" + struct.pack("<i", d) + b"\x85X\1\0\0\0CtRq\0"
    fields = text("center") + b"h\0" + text("threshold") + b"G" + struct.pack(">d", 0.5) + text("pad") + raw(bytes(PAD))
    fields += text("regions")
    return START + b"](" + array + RECORD + b"q\1" + before + b"e" + RECORD + b")\x81}(" + fields + regions + b"ub."


def region(*more: bytes) -> bytes:
    return b"h\1)\x81}(" + text("exemplar_direction") + b"h\0" + b"".join(more) + b"ub"


PROMPT = b"(G" + bytes(8) + b"K\1" + text("a prompt") + b"K\2t"
IMPORTS = {
    "one array for all regions": published(b"](" + region() * 3000 + b"e", d=1 << 17),
    "one region many times": published(
        b"](" + region(*(text(f"f{i}") + b"N" for i in range(5000))) + b"q\7" + b"h\7" * 50_000 + b"e"
    ),
    "one list of prompts for all regions": published(
        b"](" + region(text("near") + b"h\5") * 8000 + b"e", before=b"](" + PROMPT * 8000 + b"eq\5"
    ),
    "one prompt for all regions": published(
        b"](" + region(text("near") + b"](h\6e") * 8000 + b"e",
        before=b"(G" + bytes(8) + b"K\1" + text("x" * 200_000) + b"K\2tq\6",
    ),
    "prompts of many parts": published(
        b"](" + region(text("near") + b"](" + b"h\6" * 20 + b"e") * 400 + b"e",
        before=b"(" + b"G" + bytes(8) + b"K\1" * 200_000 + b"tq\6",
    ),
    "counts beyond any": published(b"](" + region(text("member_count") + long(1 << 70)) + b"e"),
}  # fmt: skip


def npy(shape: tuple[int, ...], content: bytes = b"", dtype: str = "<f4") -> bytes:
    header = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


def npz(**members: bytes) -> dict[str, bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(f"{member}.npy", content)
    return {"params.npz": file.getvalue()}


def weights(dtype: str = "F32", item: int = 4, **shapes: tuple[int, ...]) -> bytes:
    """A safetensors file of ones."""
    header, end = {}, 0
    for key, shape in shapes.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end := end + math.prod(shape) * item]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0\0\x80\x3f" * (end // 4) + bytes(end % 4)


def saelens(config: object, content: bytes) -> dict[str, bytes]:
    return {"cfg.json": json.dumps(config).encode(), "sae_weights.safetensors": content}


RESCALED = {"architecture": "topk", "k": 2, "rescale_acts_by_decoder_norm": True}
MANY = 200_000
ZEROS = bytes(50_000_000)
NORMAL = {"W_enc": (6, 4), "b_enc": (4,), "W_dec": (4, 6), "b_dec": (6,)}
CONTAINERS: dict[str, dict[str, bytes]] = {
    "an npz of nothing but zeros": npz(
        **{name: npy((5000, 2500), ZEROS) for name in ("W_enc", "W_dec")}, b_enc=npy((2500,), bytes(10_000))
    ),
    "an npz of half precision zeros": npz(W_enc=npy((5000, 5000), ZEROS, "<f2")),
    "an npz of bytes": npz(W_enc=npy((5000, 10_000), ZEROS, "|u1")),
    "an npz of truth values": npz(W_enc=npy((50_000_000,), ZEROS, "|b1")),
    "an npz of complex numbers": npz(W_enc=npy((2500, 2500), bytes(50_000_000), "<c8")),
    "an npz of long texts": npz(W_enc=npy((1,), ZEROS, "<U12500000")),
    "an npz longer than it says": npz(W_enc=npy((4,), ZEROS)),
    "an npz of more than it has": npz(W_enc=npy((1 << 40,), bytes(64))),
    "an npz of a shape that wraps": npz(W_enc=npy((1 << 33, 1 << 33), bytes(64))),
    "an npz of records": npz(W_enc=npy((2, 2), bytes(64), "V1000000000")),
    "an npz of many arrays": npz(**{f"a{i}": npy((4,), bytes(16)) for i in range(3000)}),
    "an npz with a name many times": npz(**{"W_enc" + "x" * 60_000: npy((4,), bytes(16))}),
    "an npz in an npz": npz(W_enc=npz(a=npy((4,), ZEROS))["params.npz"]),
    "weights rescaled without end": saelens(
        RESCALED, weights(W_enc=(MANY, 1), b_enc=(1,), W_dec=(MANY, 1), b_dec=(MANY,))
    ),
    "a bias rescaled without end": saelens(
        RESCALED, weights(W_enc=(1, MANY), b_enc=(MANY, 1), W_dec=(MANY, 1), b_dec=(1,))
    ),
    "a threshold without end": saelens(
        {"architecture": "jumprelu"}, weights(**NORMAL, threshold=(MANY, 1))
    ),
    "weights of one byte": saelens({}, weights("U8", 1, W_enc=(2000, 2000), b_enc=(4,), W_dec=(4, 2000))),
    "weights of float8": saelens({}, weights("F8_E4M3", 1, W_enc=(2000, 2000), b_enc=(4,), W_dec=(4, 2000))),
    "weights of half precision": saelens(
        {}, weights("F16", 2, W_enc=(1000, 2000), b_enc=(2000,), W_dec=(2000, 1000), b_dec=(1000,))
    ),
    "many tensors": saelens({}, weights(**NORMAL, **{f"t{i}": (1,) for i in range(20_000)})),
    "tensors of no size": saelens({}, weights(**dict.fromkeys(NORMAL, (0,) * 60))),
    "a tensor of many dimensions": saelens({}, weights(W_enc=(1,) * 5000)),
    "k without end": saelens({"architecture": "topk", "k": 10**300}, weights(**NORMAL)),
    "a config that nests": {**saelens({}, weights(**NORMAL)), "cfg.json": b'{"a":' * 100_000},
    "a config of many keys": saelens({f"k{i}": i for i in range(50_000)}, weights(**NORMAL)),
    "a name without end": saelens({"model_name": "x" * 2_000_000}, weights(**NORMAL)),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return tried(tmp_path_factory.mktemp("bombs"))


def tried(folder, count=None):
    """Each bomb to what came of it: read, refused, or whatever else."""
    cases = []
    for kind, bombs in (("read", READS), ("import", IMPORTS)):
        for what, content in list(bombs.items())[:count]:
            path = folder / f"{kind} {what}.pkl"
            path.write_bytes(content)
            cases.append((str(path), FLOOR + FACTOR * len(content)))
    for what, files in list(CONTAINERS.items())[:count]:
        path = folder / f"hold {what}"
        path.mkdir()
        for file, content in files.items():
            (path / file).write_bytes(content)
        cases.append((str(path), FLOOR + FACTOR * sum(map(len, files.values()))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, json.dumps(cases)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert not done.returncode, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize(
    "what",
    [
        *(f"read {what}" for what in READS),
        *(f"import {what}" for what in IMPORTS),
        *(f"hold {what}" for what in CONTAINERS),
    ],
)
def test_memory_and_time_are_bounded_by_the_files_size(outcomes, what):
    assert outcomes[what].split(":")[0] in ("read", "refused"), outcomes[what]
    assert "Memory" not in outcomes[what]


@pytest.mark.parametrize("what", [f"import {what}" for what in IMPORTS if "prompts" not in what])
def test_what_no_dictionary_is_does_not_become_one(outcomes, what):
    assert outcomes[what].startswith("refused"), outcomes[what]
