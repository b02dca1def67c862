"""Tables of columns: parquet, arrow, and folders that `datasets` saved, in bounded memory."""

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, EPError
from .raw import BUFFER_BYTES, COMPRESSIONS, DOCUMENT_BYTES, damage_named, open_binary, too_long

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
            if part.path_in_schema.split(".")[0] not in columns or size <= DOCUMENT_BYTES:
                continue
            if size > DOCUMENT_BYTES * group.num_rows or size > _EXPANSION * part.total_compressed_size:
                raise too_long(f"{name}, column '{part.path_in_schema}'")


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
