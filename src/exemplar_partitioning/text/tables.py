"""Tables of columns: parquet, arrow, and folders that `datasets` saved, in bounded memory."""

import json
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, EPError
from .raw import BUFFER_BYTES, COMPRESSIONS, DOCUMENT_BYTES, RECORD_VALUES, damage_named, open_binary, too_long

PARQUET_ROWS = 64
# Text is not compressed so much; one long text repeated is.
_EXPANSION = 50

# Records that `datasets` keeps beside its files.
METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json"})

Row = tuple[str, object, str]
Columns = Callable[[Collection[str], str], list[str]]


def read_parquet(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    """One document a row; a few rows in memory at a time."""
    _plain(path, name)
    with damage_named(name), pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as table:
        needed = columns(table.schema_arrow.names, name)
        _bounded(table.metadata, needed, name)
    # Repeated texts stay indices: a batch of them is no longer than the text.
    strings = [column for column in needed if pa.types.is_string(table.schema_arrow.field(column).type)]
    with (
        damage_named(name),
        pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False, read_dictionary=strings) as table,
    ):
        yield from _rows(table.iter_batches(PARQUET_ROWS, columns=needed, use_threads=False), name)


def read_arrow(path: Path, name: str, columns: Columns) -> Iterator[Row]:
    """One document a row of an IPC file, or of a stream as `datasets` writes it; a batch in memory at a time."""
    _plain(path, name)
    with damage_named(name), pa.memory_map(str(path)) as file:
        _batches_bounded(file, name)
        options = pa.ipc.IpcReadOptions(use_threads=False)
        if file.read(6) == b"ARROW1":
            with pa.ipc.open_file(file, options=options) as table:
                needed = columns(table.schema.names, name)
                batches = (table.get_batch(i) for i in range(table.num_record_batches))
                yield from _rows((batch.select(needed) for batch in batches), name)
        else:
            file.seek(0)
            with pa.ipc.open_stream(file, options=options) as table:
                needed = columns(table.schema.names, name)
                yield from _rows((batch.select(needed) for batch in table), name)


def _rows(batches: Iterator[pa.RecordBatch], name: str) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for i in range(len(batch)):
            where = f"{name}, row {number}"
            try:
                row: dict[str, Any] = {column: batch.column(column)[i].as_py() for column in batch.schema.names}
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{where}: not UTF-8 at byte {error.start} of the text. Write the file again with valid strings."
                ) from error
            yield f"{name}:{number}", row, where
            number += 1


def _plain(path: Path, name: str) -> None:
    """Raise unless the file is neither compressed around nor a pointer."""
    if path.suffix.lower() in COMPRESSIONS:
        raise EPError(
            f"{name}: expected a plain table, which is compressed inside and cannot be read in pieces from "
            f"{path.suffix}. Decompress it first."
        )
    open_binary(path, name).close()


def _bounded(metadata: pq.FileMetaData, columns: list[str], name: str) -> None:
    """Raise DataError for texts that are too long, as far as the sizes of columns tell before they are read."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for part in map(group.column, range(group.num_columns)):
            size = part.total_uncompressed_size
            if part.path_in_schema.split(".")[0] not in columns:
                continue
            if part.num_values > RECORD_VALUES * group.num_rows:
                raise too_long(f"{name}, column '{part.path_in_schema}'")
            if size <= DOCUMENT_BYTES:
                continue
            if size > DOCUMENT_BYTES * group.num_rows or size > _EXPANSION * part.total_compressed_size:
                raise too_long(f"{name}, column '{part.path_in_schema}'")


def _batches_bounded(file: pa.MemoryMappedFile, name: str) -> None:
    """Raise DataError for batches that are compressed texts much longer than the file; they are read as wholes."""
    file.seek(8 if file.read(6) == b"ARROW1" else 0)
    for message in pa.ipc.MessageReader.open_stream(file):
        if message.type in ("record batch", "dictionary"):
            size, rows = _unpacked(message)
            if size > DOCUMENT_BYTES and (size > DOCUMENT_BYTES * rows or size > _EXPANSION * message.body.size):
                raise too_long(name)
    file.seek(0)


def _unpacked(message: pa.Message) -> tuple[int, int]:
    """Bytes of a batch of records, or of a dictionary, once it is decompressed, 0 if it is not compressed; its rows.

    They are in the message's flatbuffer (Arrow's format/Message.fbs) and at the head of each compressed buffer.
    """
    data, body = memoryview(message.metadata), memoryview(message.body)

    def number(at: int, kind: str = "<I") -> int:
        return struct.unpack_from(kind, data, at)[0]

    def field(table: int, which: int) -> int:
        fields = table - number(table, "<i")
        at = number(fields + 4 + 2 * which, "<H") if 4 + 2 * which < number(fields, "<H") else 0
        return table + at if at else 0

    batch = field(number(0), 2)
    batch += number(batch)
    if message.type == "dictionary":
        batch = field(batch, 1)
        batch += number(batch)
    rows = field(batch, 0)
    buffers, compression = field(batch, 2), field(batch, 3)
    size = 0
    if compression and buffers:
        buffers += number(buffers)
        for each in range(buffers + 4, buffers + 4 + 16 * number(buffers), 16):
            start, length = number(each, "<q"), number(each + 8, "<q")
            if length >= 8:
                size += max(0, struct.unpack_from("<q", body, start)[0])
    return size, number(rows, "<q") if rows else 0


def saved_shards(folder: Path) -> list[Path] | None:
    """The files of a folder that `datasets.save_to_disk` wrote, in order; None for another folder.

    Raises DataError when its record is damaged or a shard is missing.
    """
    record = folder / "state.json"
    if not (record.is_file() and (folder / "dataset_info.json").is_file()):
        return None
    try:
        shards = [folder / Path(file["filename"]).name for file in json.loads(record.read_bytes())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record}: damaged ({type(error).__name__}: {error}). Save the dataset again.") from error
    for shard in shards:
        if not shard.is_file():
            raise DataError(f"{shard}: is missing, and {record} names it. Save the dataset again.")
    return shards
