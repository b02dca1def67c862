"""Token ids that lie in files beside the activations, in the formats of these."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import EPError
from ..files import foreign
from .files import shards
from .tables import IDS, flat, kind_of


def read_ids(paths: Sequence[str | Path]) -> Iterator[np.ndarray]:
    """Token ids of files or folders of them, in the formats of activations, an array or more a file."""
    for shard in shards(paths):
        with foreign(shard.path, "token ids"):
            yield from _ids_of(shard.path, shard.path.suffix.lower())


def _ids_of(path: Path, suffix: str) -> Iterator[np.ndarray]:
    if suffix == ".npy":
        arrays = {"": np.load(path, allow_pickle=False)}
    elif suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    elif suffix in (".parquet", ".arrow"):
        yield from _ids_of_table(path, suffix)
        return
    else:
        if suffix == ".safetensors":
            from safetensors.torch import load_file

            value: Any = load_file(path)
        else:
            value = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(value, list | tuple):
            yield from (part.numpy() for part in value)
            return
        value = {"": value} if isinstance(value, torch.Tensor) else value
        arrays = {str(name): part.numpy() for name, part in value.items() if not part.is_floating_point()}
    yield arrays[_ids_named({name for name, array in arrays.items() if array.dtype.kind in "iu"}, path)]


def _ids_named(names: Collection[str], path: Path) -> str:
    known = next((name for name in IDS if name in names), None)
    if known is None and len(names) != 1:
        raise EPError(f"{path} holds {', '.join(names) or 'no whole numbers'}; expected token ids under {IDS[0]}")
    return known or next(iter(names))


def _ids_of_table(path: Path, suffix: str) -> Iterator[np.ndarray]:
    from pyarrow import dataset  # takes files of either kind of IPC, too

    whole = dataset.dataset(path, format=suffix[1:])
    schema = whole.schema
    column = _ids_named({field.name for field in schema if kind_of(field.type)[1] == "i"}, path)
    for part in whole.to_table([column], use_threads=False).column(column).chunks:
        values, lengths = flat(part, str(path))
        if lengths and len(set(lengths[0].tolist())) == 1:
            values = values.reshape(len(part), -1)
        yield values
