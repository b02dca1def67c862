"""Blocks of activations, and tables that hold some in a column of lists.

`field` names the array, tensor or column that is meant where a file holds several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, EPError

BYTES = 1 << 24  # read at once
IDS = ("token_ids", "input_ids", "tokens", "ids")
_DOCUMENTS = ("document", "document_id", "doc_id", "doc")


@dataclass(frozen=True)
class Block:
    """Consecutive entries of a file.

    x: [m, d], an activation an entry, or [m, s, d], a sequence an entry; in any dtype.  ids: of tokens, shaped as x
    without its last axis.  documents: of entries.  name: of the array or column.
    """

    x: Any
    ids: np.ndarray | None = None
    documents: list[str] | None = None
    name: str = ""


def chosen(kinds: Mapping[str, tuple[int, str]], name: str, field: str | None) -> tuple[str, str | None]:
    """Which of several arrays, by axes and kind, holds the activations, and which token ids, if one does."""
    ids = next((key for key in IDS if key in kinds and kinds[key][1] in "iu" and key != field), None)
    floats = [key for key, (axes, kind) in kinds.items() if axes >= 2 and kind in "fV"]
    if field is not None:
        if field not in kinds:
            raise EPError(f"{name} has no {field!r}; it has {', '.join(kinds) or 'nothing'}")
        return field, ids
    if len(floats) != 1:
        raise EPError(
            f"{name} holds {', '.join(floats) or 'no matrix of real numbers'}; expected activations [n, d]. Say which "
            f"with --field (field=), of {', '.join(kinds) or 'nothing'}"
        )
    return floats[0], ids


def read_parquet(path: Path, name: str, field: str | None) -> Iterator[Block]:
    """A column with a list of numbers, or a list of such lists, a row."""
    with pq.ParquetFile(path, pre_buffer=False) as table:
        columns = _columns(table.schema_arrow, name, field)
        size = sum(
            group.column(i).total_uncompressed_size
            for group in map(table.metadata.row_group, range(table.metadata.num_row_groups))
            for i in range(group.num_columns)
        )
        rows = max(1, BYTES * table.metadata.num_rows // max(1, size))
        wanted = [column for column in columns if column]
        yield from _blocks_of_batches(table.iter_batches(rows, columns=wanted, use_threads=False), columns, name)


def read_arrow(path: Path, name: str, field: str | None) -> Iterator[Block]:
    """The same in an IPC file, or in a stream as `datasets` writes it."""
    with pa.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            table = pa.ipc.open_file(file)
            batches = (table.get_batch(i) for i in range(table.num_record_batches))
        else:
            file.seek(0)
            table = batches = pa.ipc.open_stream(file)
        yield from _blocks_of_batches(batches, _columns(table.schema, name, field), name)


_Columns = tuple[str, str | None, str | None]


def _columns(schema: pa.Schema, name: str, field: str | None) -> _Columns:
    kinds = {column.name: kind_of(column.type) for column in schema}
    x, ids = chosen(kinds, name, field)
    strings = (column for column in _DOCUMENTS if column in kinds and pa.types.is_string(schema.field(column).type))
    return x, ids, next(strings, None)


def kind_of(kind: pa.DataType) -> tuple[int, str]:
    """Axes of a column of lists in lists, and f, i or O: what they hold."""
    depth = 1
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind, depth = kind.value_type, depth + 1
        else:
            return depth, "f" if pa.types.is_floating(kind) else "i" if pa.types.is_integer(kind) else "O"


def _blocks_of_batches(batches: Any, columns: _Columns, name: str) -> Iterator[Block]:
    x_column, ids_column, documents_column = columns
    first = 0
    for batch in batches:
        entry = max(1, batch.column(x_column).nbytes // max(1, len(batch)))
        step = max(1, BYTES // entry)
        for start in range(0, len(batch), step):
            part = batch.slice(start, step)
            ids = None if ids_column is None else part.column(ids_column)
            documents = None if documents_column is None else part.column(documents_column).to_pylist()
            where = f"{name}, rows from {first + start:,}"
            for block in _dense(part.column(x_column), ids, documents, where):
                yield replace(block, name=x_column)
        first += len(batch)


def _dense(column: pa.Array, ids: pa.Array | None, documents: list[str] | None, where: str) -> Iterator[Block]:
    """Lists as arrays: all rows at once where they are of one length, else row after row."""
    values, lengths = flat(column, where)
    if not lengths:
        raise DataError(f"{where}: single numbers; expected a list of numbers, an activation, a row")
    widths = np.unique(lengths[-1])
    if len(widths) > 1:
        raise DataError(f"{where}: activations of {widths[0]} and of {widths[-1]} numbers; expected one width")
    x_nd = values.reshape(-1, int(widths[0]) if len(widths) else 1)
    tokens, _ = (None, []) if ids is None else flat(ids, where)
    if tokens is not None and len(tokens) != len(x_nd):
        raise DataError(f"{where}: {len(tokens):,} token ids for {len(x_nd):,} activations; expected one each")
    if len(lengths) == 1:
        yield Block(x_nd, tokens, documents)
        return
    ends = np.cumsum(lengths[0])
    if len(np.unique(lengths[0])) == 1:
        shape = len(column), int(lengths[0][0])
        yield Block(x_nd.reshape(*shape, -1), None if tokens is None else tokens.reshape(shape), documents)
        return
    for i, (start, stop) in enumerate(zip(ends - lengths[0], ends, strict=True)):
        part = slice(int(start), int(stop))
        yield Block(
            x_nd[part][None],
            None if tokens is None else tokens[part][None],
            None if documents is None else [documents[i]],
        )


def flat(column: pa.Array, where: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """All numbers of nested lists, and at each depth the lengths of the lists."""
    lengths = []
    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if column.null_count:
            raise DataError(f"{where}: {column.null_count:,} nulls; expected numbers everywhere. Drop such rows")
        if pa.types.is_fixed_size_list(column.type):
            lengths.append(np.full(len(column), column.type.list_size))
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lengths.append(np.asarray(column.value_lengths()).astype(np.int64))
        else:
            return column.to_numpy(zero_copy_only=False), lengths
        column = column.flatten()
