"""GGUF files to transformers models, with what its reader leaves out put right."""

from __future__ import annotations

import mmap
import struct
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..quiet import first_line, quiet


def read_gguf(path: Path) -> tuple[Any, Any, dict[str, Any]]:
    """A model in float32, de-quantised exactly, its tokenizer, and what transformers reports of loading it.

    Raises:
        DataError: not a GGUF file, a damaged one, or an architecture transformers cannot read from GGUF.
    """
    import transformers

    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    unpack = {}
    if hasattr(transformers, "GgufConfig"):  # newer versions may otherwise keep the weights packed
        unpack = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    try:
        _check_lengths(path)
        pre_tokenizer = _pre_tokenizer_name(path)
        # Its progress bar cannot be switched off; it goes where the redirection sends it.
        with quiet(), redirect_stderr(StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **options)
            read: Any = transformers.AutoModelForCausalLM.from_pretrained(
                path.parent, dtype=torch.float32, output_loading_info=True, **options, **unpack
            )
    except Exception as error:  # whatever a damaged header provokes, from three libraries
        raise DataError(
            f"{path} cannot be read as a GGUF model: {first_line(error)}. Expected a complete single-file GGUF "
            "of an architecture that transformers supports."
        ) from error
    model, report = read
    if pre_tokenizer == "smollm":
        _split_digits(tokenizer)
    # The weights are plain tensors now; as long as these say otherwise, the model cannot be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.name_or_path = ""
    return model, tokenizer, report


_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a scalar, by its type
_STRING, _ARRAY = 8, 9


def _check_lengths(path: Path) -> None:
    """Raise ValueError where the header counts more than the file holds: its reader would count to the end.

    Knows as much of the format as that takes: names and values, one after the other.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        order = "<" if int.from_bytes(data[4:8], "little") & 0xFFFF else ">"

        def number(at: int, kind: str) -> tuple[int, int]:
            return struct.unpack_from(order + kind, data, at)[0], at + struct.calcsize(kind)

        def value(at: int, kind: int) -> int:
            if kind in _SIZES:
                return at + _SIZES[kind]
            if kind == _STRING:
                length, at = number(at, "Q")
                return at + length
            if kind != _ARRAY:
                raise ValueError(f"a value of unknown type {kind}")
            kind, at = number(at, "I")
            count, at = number(at, "Q")
            if count > len(data) - at:
                raise ValueError(f"an array of {count:,} values in {len(data) - at:,} bytes")
            if kind in _SIZES:
                return at + count * _SIZES[kind]
            for _ in range(count):
                at = value(at, kind)
            return at

        pairs, at = number(16, "Q")
        for _ in range(pairs):
            kind, at = number(value(at, _STRING), "I")
            at = value(at, kind)
        if number(8, "Q")[0] > len(data):
            raise ValueError("more tensors than bytes")


def _pre_tokenizer_name(path: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    return None if field is None else field.contents()


def _split_digits(tokenizer: Any) -> None:
    """SmolLM splits text at every digit before byte-level BPE; transformers' GGUF reader forgets that.

    It shows in runs of spaces before a digit ("a  1"), which would get tokens the model never saw there.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
