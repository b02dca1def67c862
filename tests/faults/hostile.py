"""Files made to do harm rather than damaged: huge lengths, nesting without end, code, numbers that are none."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import exemplar_partitioning as ep
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.from_paper import import_published
from exemplar_partitioning.exchange.from_sae import load_sae

from .foreign import published
from .pool import OTHER, REFUSED, WRONG, Work


def _header(header: object, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


def _tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


_SAFETENSORS = {
    "a header of 2^63 bytes": _header({}, 2**63),
    "a header longer than the file": _header({}, 10**6),
    "a header of 100 MB of nothing": struct.pack("<Q", 10**8) + b" " * 1000,
    "overlapping tensors": _header({"W_enc": _tensor([2, 2], [0, 16]), "b_enc": _tensor([2, 2], [8, 24])}),
    "a tensor beyond the end": _header({"W_enc": _tensor([10**9], [0, 4 * 10**9])}),
    "a shape whose product overflows": _header({"W_enc": _tensor([2**40, 2**40], [0, 64])}),
    "offsets in the wrong order": _header({"W_enc": _tensor([4], [16, 0])}),
    "negative offsets": _header({"W_enc": _tensor([4], [-16, 0])}),
    "no JSON": _header(b"{" * 200),
    "nesting": _header(b'{"a":' * 50_000),
    "not UTF-8": _header(b"\xff" * 30),
    "an unknown type": _header({"W_enc": _tensor([4], [0, 16], "F128")}),
    "a tensor of strings": _header({"W_enc": "weights"}),
}


def _npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def _npy(header: str, data: bytes = bytes(64)) -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


class _Runs:
    def __reduce__(self):
        return Path.touch, (Path("/tmp/ep-was-here"),)


def _objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([_Runs()], dtype=object), allow_pickle=True)
    return file.getvalue()


_NPZ = {
    "objects": _npz(W_enc=_objects()),
    "a shape of 2^60": _npz(W_enc=_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,)}")),
    "a negative shape": _npz(W_enc=_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}")),
    "code in the header": _npz(W_enc=_npy("__import__('os').abort()")),
    "a deep header": _npz(W_enc=_npy("(" * 100)),
    "a bomb of zeros": _npz(W_enc=_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}", bytes(10**8))),
    "strings": _npz(W_enc=_npy("{'descr': '<U4', 'fortran_order': False, 'shape': (4,)}")),
    "no archive": b"PK\x03\x04" + bytes(100),
    "empty": b"",
}

_PICKLES = {
    "a call": pickle.dumps(_Runs()),
    "a call by opcode": b"cos\nsystem\n(S'touch /tmp/ep-was-here'\ntR.",
    "an instance by opcode": b"(S'touch /tmp/ep-was-here'\nios\nsystem\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pabc\n.",
    "a memo of 2^31": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "a string of 2^62": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "bytes of 2^31": b"\x80\x04B" + struct.pack("<I", 2**31) + b"x.",
    "a frame of 2^63": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
    "a number of 2^31 bytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "a number of 100,000 digits": b"L" + b"9" * 100_000 + b"L\n.",
    "nesting": b"]" * 200_000 + b"a" * 199_999 + b".",
    "tuples in tuples": b")" + b"\x85" * 300_000 + b".",
    "itself": b"]q\x00h\x00a.",
    "many marks": b"(" * 500_000 + b".",
    "nothing but pops": b"0" * 100 + b".",
    "a dictionary that ends": published(4, 8)[:-200],
    "a threshold that is none": published(4, 8).replace(struct.pack("<f", 0.5), struct.pack("<f", float("nan"))),
}

_DEEP = "[" * 100_000
_BASE = {"architecture": "topk", "k": 2}
_CONFIGS = {
    "wrong types": json.dumps({"architecture": ["topk"], "k": {"a": 1}}),
    "huge numbers": json.dumps({**_BASE, "k": 10**300}),
    "a number of 100,000 digits": '{"architecture": "topk", "k": ' + "9" * 100_000 + "}",
    "NaN": '{"architecture": "topk", "k": NaN}',
    "infinity": '{"architecture": "topk", "k": 1e999}',
    "nesting": _DEEP,
    "nesting inside": '{"architecture": "topk", "k": 2, "metadata": ' + _DEEP,
    "a list": "[1]",
    "null": "null",
    "metadata that is a list": json.dumps({**_BASE, "metadata": [1]}),
    "keywords that are a number": json.dumps({"activation_fn": "topk", "activation_fn_kwargs": 3}),
    "NUL": '{"architecture": "\\u0000"}',
    "half a character": '{"architecture": "topk", "k": 2, "model_name": "\\ud800"}',
}
_METADATA = {
    "wrong types": json.dumps({"config": {"percentile": "two", "layer": []}}),
    "huge numbers": json.dumps({"config": {"percentile": 10**400, "layer": 10**400}}),
    "NaN": '{"config": {"percentile": NaN, "layer": 1}}',
    "infinity": '{"config": {"percentile": 2, "layer": 1e999}}',
    "nesting": _DEEP,
    "null": "null",
    "lists in place of objects": '{"config": [1, 2]}',
    "a path for a layer": json.dumps({"config": {"percentile": 2, "layer": "../../../tmp/x"}}),
    "a negative layer": json.dumps({"config": {"percentile": 2, "layer": -1}}),
    "text for numbers": json.dumps({"config": {"percentile": 2, "layer": 1, "ctx": "many", "seed": None}}),
}


def _gguf_string(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def _gguf(tensors: int, pairs: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest + bytes(64)


_ARRAY = _gguf_string(b"tokenizer.ggml.tokens") + struct.pack("<I", 9)
_GGUF = {
    "2^63 tensors": _gguf(2**63, 0),
    "2^63 pairs": _gguf(0, 2**63),
    "another version": _gguf(0, 0, version=99),
    "a key of 2^62 bytes": _gguf(0, 1, _gguf_string(b"a", 2**62)),
    "an array of 2^60": _gguf(0, 1, _ARRAY + struct.pack("<IQ", 4, 2**60)),
    "an array of arrays": _gguf(0, 1, _ARRAY + struct.pack("<IQ", 9, 2**31) * 2000),
    "an unknown type": _gguf(0, 1, _gguf_string(b"a") + struct.pack("<I", 77)),
    "a key that is not UTF-8": _gguf(0, 1, _gguf_string(b"\xff\xfe") + struct.pack("<II", 4, 1)),
    "nothing": _gguf(0, 0),
    "cut": b"GGUF\x03",
}


def _sae(name: str, data: bytes | str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        weights = {"W_enc": [6, 4], "b_enc": [4], "W_dec": [4, 6], "b_dec": [6]}
        if name == "cfg.json":
            from safetensors.torch import save_file

            torch.manual_seed(0)
            save_file({key: torch.rand(shape) for key, shape in weights.items()}, folder / "sae_weights.safetensors")
        elif name == "sae_weights.safetensors":
            (folder / "cfg.json").write_text(json.dumps({"architecture": "standard"}))
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return load_sae(folder)

    return read


def _pickled(data: bytes, metadata: str | None = None) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        (folder / "a.pkl").write_bytes(data)
        if metadata is None:
            return import_published(folder / "a.pkl", folder / "out", site="resid_post.1", percentile=2)
        (folder / "metadata.json").write_text(metadata)
        made = import_published(folder / "a.pkl", folder / "out")
        assert made.is_relative_to(folder / "out")
        return ep.load(made).regions

    return read


def _model(name: str, data: bytes) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        (folder / name).write_bytes(data)
        return ep.load_model(str(folder / name))

    return read


_NESTED = "".join(f"  , &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
_OPTIONS = {
    "a list that doubles": f"sites: [&a0 [x]\n{_NESTED}]",
    "nesting": "sites: " + "[" * 100_000,
    "an object": "sites: {a: 1}",
    "a day": "max_tokens: 2026-01-01",
    "lists in a list": "percentiles: [[1]]",
    "code": "seed: !!python/object/apply:os.system [touch /tmp/ep-was-here]",
    "a key that is a list": "? [a, b]\n: 1",
    "no end": "a" * (1 << 20),
    "no option": "colour: red",
    "NaN for a count": "max_tokens: .nan",
    "infinity for a count": "max_tokens: .inf",
    "a list": "- 1",
    "a number": "42",
    "not UTF-8": b"\xff\xfe",
    "two documents": "a: 1\n---\nb: 2",
}


def _options(data: bytes | str) -> Callable[[Path], object]:
    """What `ep build --config` makes of a file; the text has no words, so that nothing is built of what passes."""

    def read(folder: Path) -> object:
        from typer.testing import CliRunner

        from exemplar_partitioning.cli import app

        (folder / "empty.txt").write_text("")
        (folder / "a.yaml").write_bytes(data if isinstance(data, bytes) else data.encode())
        line = [
            "build",
            "nowhere",
            str(folder / "empty.txt"),
            "--config",
            str(folder / "a.yaml"),
            "--out",
            str(folder / "o"),
        ]
        ran = CliRunner().invoke(app, line)
        if isinstance(ran.exception, SystemExit) and ran.exit_code == 2:
            raise EPError(ran.output)  # by the parser of the command line
        raise ran.exception or AssertionError("it was built")

    return read


CASES: dict[str, Callable[[Path], object]] = {
    **{f"safetensors, {what}": _sae("sae_weights.safetensors", data) for what, data in _SAFETENSORS.items()},
    **{f"npz, {what}": _sae("params.npz", data) for what, data in _NPZ.items()},
    **{f"config of an autoencoder, {what}": _sae("cfg.json", data) for what, data in _CONFIGS.items()},
    **{f"pickle, {what}": _pickled(data) for what, data in _PICKLES.items()},
    **{f"metadata of a pickle, {what}": _pickled(published(4, 8), data) for what, data in _METADATA.items()},
    **{f"options, {what}": _options(data) for what, data in _OPTIONS.items()},
    **{f"GGUF, {what}": _model("a.gguf", data) for what, data in _GGUF.items()},
}


def prepare(home: str) -> Work:
    """Case to what reading it came to: refused, or read without doing anything else."""
    names, mark = list(CASES), Path("/tmp/ep-was-here")

    def work(case: int) -> tuple[str, str]:
        mark.unlink(missing_ok=True)
        folder = Path(home) / f"hostile-{case}"
        folder.mkdir()
        try:
            CASES[names[case]](folder)
            outcome = OTHER, "read"
        except EPError as error:
            outcome = REFUSED, str(error)[:200]
        return (WRONG, "it ran code") if mark.exists() else outcome

    return work
