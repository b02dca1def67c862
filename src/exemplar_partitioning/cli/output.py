"""What commands print for programs, and the files they write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..files import known

if TYPE_CHECKING:
    import pyarrow as pa


def json_text(value: Any, indent: int | None = None) -> str:
    """Plain values as JSON in UTF-8."""
    return json.dumps(known(value), ensure_ascii=False, allow_nan=False, indent=indent)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json_text(value, indent=2))


def write_tables(
    out: Path, summary: Mapping[str, Any], tables: dict[str, pa.Table], *, csv: bool, **pictures: bytes
) -> None:
    """Tables, pictures (SVG) and summary.json, which says that they are there, in a folder that may be there."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    from ..files import disk_errors, to_json, write_together

    files = {out / f"{name}.svg": picture for name, picture in pictures.items()}
    for name, table in tables.items():
        content = pa.BufferOutputStream()
        (pyarrow.csv.write_csv if csv else pyarrow.parquet.write_table)(table, content)
        files[out / f"{name}.{'csv' if csv else 'parquet'}"] = content.getvalue().to_pybytes()
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    write_together(files | {out / "summary.json": to_json(known(summary))})
