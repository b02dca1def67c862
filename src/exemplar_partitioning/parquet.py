"""Parquet read in the calling thread: our tables are small, and Arrow waits for ever where it cannot start threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole file, or some of its columns. Raises OSError or pa.ArrowException if it cannot be read."""
    with pq.ParquetFile(path) as file:
        return file.read(columns, use_threads=False)


def read_groups(file: pq.ParquetFile, groups: Sequence[int]) -> pa.Table:
    """Some row groups of an open file, one after the other."""
    return file.read_row_groups(groups, use_threads=False)
