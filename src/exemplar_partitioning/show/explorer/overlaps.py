"""Members that two dictionaries share on a text, from the folder that `ep match --text --out` writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import DataError, EPError
from ...files import read_table, sha256
from .library import Library

_COLUMNS = {"region_a": pa.int64(), "region_b": pa.int64(), "jaccard": pa.float64(), "f1": pa.float64()}


class _Record(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _Side(_Record):
    content_id: str


class _Null(_Record):
    name: str
    cutoff_to_b: float
    cutoff_to_a: float


class _Text(_Record):
    source: str
    tokens: int
    aligned: int
    adjusted_rand: float


class _Summary(_Record):
    """What is read of summary.json."""

    a: _Side
    b: _Side
    basis: str
    false_alarms: float = Field(gt=0, lt=1)
    nulls: list[_Null]
    decided_by: str
    text: _Text | None = None


@dataclass(frozen=True, eq=False)
class Overlaps:
    """What a text has told about two dictionaries.

    Attributes:
        content_a, content_b: content ids of the dictionaries.
        shared: Jaccard and F1 of the members of regions of a and b; NaN where neither has any.
        cutoffs: for each null, cosines that the share of false alarms exceeds, to b and to a.
        decided_by: the null that counts.
        text: what was read, and how far the partitions agree.
    """

    content_a: str
    content_b: str
    shared: dict[tuple[int, int], tuple[float, float]]
    cutoffs: dict[str, tuple[float, float]]
    decided_by: str
    false_alarms: float
    text: dict[str, Any]

    def of(
        self, row_a: Int64[np.ndarray, " r"], row_b: Int64[np.ndarray, " r"]
    ) -> tuple[Float64[np.ndarray, " r"], Float64[np.ndarray, " r"]]:
        """Jaccard and F1 of pairs of regions; NaN where they are not known."""
        unknown = (np.nan, np.nan)
        shares = [self.shared.get(pair, unknown) for pair in zip(row_a.tolist(), row_b.tolist(), strict=True)]
        jaccard_r, f1_r = np.array(shares, dtype=np.float64).reshape(-1, 2).T
        return jaccard_r, f1_r

    def between(self, content_a: str, content_b: str) -> Overlaps | None:
        """The same for these two dictionaries, whichever comes first; None if it is about others."""
        if (content_a, content_b) == (self.content_a, self.content_b):
            return self
        if (content_a, content_b) != (self.content_b, self.content_a):
            return None
        return replace(
            self,
            content_a=content_a,
            content_b=content_b,
            shared={(b, a): both for (a, b), both in self.shared.items()},
            cutoffs={name: (to_a, to_b) for name, (to_b, to_a) in self.cutoffs.items()},
        )


def read_overlaps(folder: Path, library: Library) -> Overlaps:
    """What `ep match --text TEXT --out FOLDER` wrote about two of the dictionaries on show.

    Raises EPError if there is nothing such, it lacks a text or is about others, DataError if it is damaged.
    """
    record = _summary(folder / "summary.json")
    if record.text is None or record.basis != "exemplar":
        raise EPError(
            f"{folder} holds a matching by {record.basis} directions {'with' if record.text else 'without'} a text; "
            "the explorer shows shared members of exemplars' regions: run `ep match A B --text TEXT --out DIR`"
        )
    shown = {sha256(entry.folder / "config.json") for entry in library.entries.values()}  # content ids
    if not {record.a.content_id, record.b.content_id} <= shown:
        raise EPError(
            f"{folder} matches other dictionaries than those on show, or they have changed since: run `ep match` on "
            "the folders that you explore"
        )
    return Overlaps(
        content_a=record.a.content_id,
        content_b=record.b.content_id,
        shared=_shared(folder / "regions.parquet"),
        cutoffs={null.name: (null.cutoff_to_b, null.cutoff_to_a) for null in record.nulls},
        decided_by=record.decided_by,
        false_alarms=record.false_alarms,
        text=record.text.model_dump(),
    )


def _summary(path: Path) -> _Summary:
    try:
        record = _Summary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EPError(
            f"{path} cannot be read ({error.strerror}): give the folder that `ep match A B --text TEXT --out DIR` wrote"
        ) from error
    except ValidationError as error:
        raise DataError(
            f"{path} is not what `ep match --out` writes: {error.errors()[0]['msg']}; write it anew"
        ) from error
    if record.decided_by not in {null.name for null in record.nulls}:
        raise DataError(f"{path} names no null that decided; write it anew with `ep match --out`")
    return record


def _shared(path: Path) -> dict[tuple[int, int], tuple[float, float]]:
    try:
        table = read_table(path, list(_COLUMNS))
        region_a, region_b, *both = (table[name].cast(kind).to_numpy() for name, kind in _COLUMNS.items())
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path} cannot be read ({reason}): write it anew with `ep match A B --text TEXT --out DIR`, without --csv"
        ) from error
    if any(((x < 0) | (x > 1)).any() for x in both):
        raise DataError(
            f"{path} holds a Jaccard or F1 that is not between 0 and 1; write it anew with `ep match --out`"
        )
    return dict(zip(zip(region_a.tolist(), region_b.tolist(), strict=True), zip(*both, strict=True), strict=True))
