"""Files that hold activations, read from the first row to the last in bounded memory.

Every reader is a generator `(path, name, field) -> blocks`; `field` names the array, tensor or column that is meant
where a file holds several.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ..errors import DataError, EPError
from ..files import foreign
from ..text.tables import saved_shards
from .tables import BYTES, Block, chosen, read_arrow, read_parquet

Reader = Callable[[Path, str, str | None], Iterator[Block]]


def read_npy(path: Path, name: str, field: str | None) -> Iterator[Block]:
    """One array; not as a memory map, whose pages would count as the process's own."""
    with path.open("rb") as file:
        yield from _blocks_of_npy(file, name)


def read_npz(path: Path, name: str, field: str | None) -> Iterator[Block]:
    """Arrays by name, one of which holds activations and perhaps one token ids."""
    with zipfile.ZipFile(path) as archive:
        shapes = {}
        for member in archive.namelist():
            with archive.open(member) as file:
                shapes[member.removesuffix(".npy")] = _npy_header(file, name)
        x, ids = chosen({key: (len(shape), dtype.kind) for key, (shape, dtype, _) in shapes.items()}, name, field)
        known = None
        if ids is not None:
            with archive.open(f"{ids}.npy") as file:
                known = np.lib.format.read_array(file, allow_pickle=False)
        with archive.open(f"{x}.npy") as file:
            yield from _with_ids(_blocks_of_npy(file, name), known, name, of=x)


def _npy_header(file: Any, name: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects, which are not read; save numbers: np.save of a float array")
    return shape, dtype, fortran


def _blocks_of_npy(file: BinaryIO | Any, name: str) -> Iterator[Block]:
    shape, dtype, fortran = _npy_header(file, name)
    entry = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    if fortran and len(shape) > 1:
        raise EPError(f"{name} is stored column by column; save np.ascontiguousarray(x)")
    if not shape:
        raise DataError(f"{name} holds a single number; expected activations [n, d]")
    step, left = max(1, BYTES // max(1, entry)), shape[0]
    while left:
        count = min(step, left)
        data = file.read(count * entry)
        if len(data) < count * entry:
            raise DataError(
                f"{name} is half written: it ends {left - len(data) // max(1, entry):,} entries before the "
                f"{shape[0]:,} that it states. Write it again, or wait until it is whole"
            )
        yield Block(np.frombuffer(data, dtype).reshape(count, *shape[1:]))
        left -= count


def read_torch(path: Path, name: str, field: str | None) -> Iterator[Block]:
    """A tensor, tensors by name, or a list of tensors; nothing but tensors is unpickled."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # written before there were zip archives
        value = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(value, list | tuple):
        for part in value:
            yield from _blocks_of_tensor(part)
        return
    ids = None
    if isinstance(value, Mapping):
        tensors = {str(key): part for key, part in value.items() if isinstance(part, torch.Tensor)}
        x, named = chosen(
            {key: (t.ndim, "f" if t.is_floating_point() else "i") for key, t in tensors.items()}, name, field
        )
        value, ids = tensors[x], None if named is None else tensors[named].numpy()
    if not isinstance(value, torch.Tensor):
        raise DataError(f"{name} holds a {type(value).__name__}; expected a tensor, tensors by name, or a list of them")
    yield from _with_ids(_blocks_of_tensor(value), ids, name)


def _blocks_of_tensor(value: torch.Tensor) -> Iterator[Block]:
    step = max(1, BYTES // max(1, value[:1].numel() * value.element_size()))
    for start in range(0, len(value), step):
        yield Block(value[start : start + step])


def read_safetensors(path: Path, name: str, field: str | None) -> Iterator[Block]:
    """Tensors by name, one of which holds activations and perhaps one token ids."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        kinds = {}
        for key in file.keys():  # noqa: SIM118 - no mapping
            part = file.get_slice(key)
            kinds[key] = len(part.get_shape()), "f" if "F" in part.get_dtype() else "i"
        x, named = chosen(kinds, name, field)
        part, ids = file.get_slice(x), None if named is None else file.get_tensor(named).numpy()
        shape = part.get_shape()
        step = max(1, BYTES // max(1, 4 * int(np.prod(shape[1:]))))
        blocks = (Block(part[start : start + step]) for start in range(0, shape[0], step))
        yield from _with_ids(blocks, ids, name, of=x)


def _with_ids(blocks: Iterator[Block], ids: np.ndarray | None, name: str, of: str = "") -> Iterator[Block]:
    if ids is None:
        yield from (Block(block.x, name=of) for block in blocks)
        return
    at = 0
    for block in blocks:
        count = len(block.x)
        yield Block(block.x, ids[at : at + count], name=of)
        at += count
    if at != len(ids):
        raise DataError(f"{name}: token ids of {len(ids):,} entries for {at:,} of activations; expected one each")


FORMATS: dict[str, Reader] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".pt": read_torch,
    ".pth": read_torch,
    ".safetensors": read_safetensors,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}


def _is_real(x: Any) -> bool:
    return x.is_floating_point() if isinstance(x, torch.Tensor) else x.dtype.kind in "fV"


@dataclass(frozen=True)
class Shard:
    """One file. name: as rows are named by it."""

    path: Path
    name: str

    def blocks(self, field: str | None) -> Iterator[Block]:
        """Its entries in order. Raises DataError if it is damaged, or changes while it is read."""
        before = self._state()
        with foreign(self.path, "activations"):
            for block in FORMATS[self.path.suffix.lower()](self.path, self.name, field):
                if block.x.ndim < 2 or not _is_real(block.x):
                    raise EPError(
                        f"{self.name} holds {block.x.dtype} {list(block.x.shape)}; expected activations [n, d] of real "
                        "numbers; token ids are given with --tokens"
                    )
                yield block
        if self._state() != before:
            raise DataError(f"{self.name} changed while it was read; wait until it is whole, then begin anew")

    def _state(self) -> tuple[int, int]:
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns


def shards(paths: Sequence[str | Path]) -> list[Shard]:
    """The files meant by paths of files and folders, those of a folder in natural order: 2 before 10.

    Raises:
        EPError: nothing there, or another kind of file.
    """
    files = [file for path in paths for file in _files(Path(path).expanduser())]
    absolute = [file.absolute() for file in files]
    parts = [file.parts[:-1] for file in absolute]
    common = 0
    while all(len(each) > common and each[common] == parts[0][common] for each in parts):
        common += 1
    return [Shard(file, "/".join(file.absolute().parts[common:])) for file in files]


def _files(path: Path) -> list[Path]:
    kinds = ", ".join(FORMATS)
    if path.is_file():
        if path.suffix.lower() not in FORMATS:
            raise EPError(
                f"{path} is no file of activations that is known: expected {kinds}, or a folder of these. Others "
                "can be read in Python and given as arrays: ep.build_from_activations(x, out=...)"
            )
        return [path]
    if not path.is_dir():
        raise EPError(f"{path}: no such file or folder; expected activations in {kinds}, or a folder of these")
    listed = {folder: saved_shards(folder) for folder in {file.parent for file in path.rglob("state.json")}}
    files = [
        file
        for file in path.rglob("*")
        if file.suffix.lower() in FORMATS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and ((of := listed.get(file.parent)) is None or file in of)
    ]
    if not files:
        others = ", ".join(sorted({file.suffix or file.name for file in path.rglob("*") if file.is_file()})[:8])
        raise EPError(f"{path} holds no activations (it has: {others or 'nothing'}); expected files of {kinds}")
    return sorted(files, key=lambda file: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", file.as_posix())])
