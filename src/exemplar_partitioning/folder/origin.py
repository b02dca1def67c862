"""Where a dictionary came from that no build made: the file `origin.json` beside config.json.

Like labels it is no part of the dictionary. What config.json says of text and build then holds for its source.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..errors import DataError
from ..files import sealed, unsealed
from .dictionary import StoredDictionary
from .schema import validated

FILE = "origin.json"
_FORMAT = "exemplar-partitioning/origin"


class _Source(BaseModel):
    """As `describe` says it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    content_id: str = Field(pattern="^[0-9a-f]{64}$")
    model: str
    site: str
    percentile: float = Field(ge=0, le=100)
    threshold: float = Field(gt=0, le=2)
    k: int = Field(ge=1)


class _Origin(BaseModel):
    """What every operation says; each says more of its own."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: Literal["exemplar-partitioning/origin"]
    schema_version: Literal["1.0"]
    operation: Literal["transport", "union", "difference", "intersection", "merge"]
    sources: list[_Source]
    regions_of_a: int | None = Field(None, ge=0)
    regions_of_b: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> _Origin:
        assert len(self.sources) == (1 if self.operation == "transport" else 2), "another number of sources"
        return self

    def may_have(self, k: int) -> bool:
        """Whether so many regions can have come of it."""
        most = [source.k for source in self.sources]
        if self.operation == "transport":
            return [k] == most
        known = [count for count in (self.regions_of_a, self.regions_of_b) if count is not None]
        within = all(count <= limit for count, limit in zip(known, most, strict=False))
        return within and (k == sum(known) if len(known) == 2 else k <= sum(most))


def origin(operation: str, sources: list[StoredDictionary], **details: Any) -> dict[str, bytes]:
    """The file that says which operation on which dictionaries gave one, to be saved beside it."""
    record = {
        "format": _FORMAT,
        "schema_version": "1.0",
        "operation": operation,
        "sources": [describe(source) for source in sources],
        **details,
    }
    return {FILE: sealed(record)}


def read_origin(dictionary: StoredDictionary) -> dict[str, Any] | None:
    """What `origin` says; None for a dictionary that was built. Raises DataError if it cannot be read."""
    path = dictionary.path / FILE
    if not path.is_file():
        return None
    record = unsealed(path, always=True)
    if not validated(_Origin, record, path).may_have(dictionary.k):
        raise DataError(f"{path} is damaged: no {dictionary.k:,} regions can have come of what it says")
    return record


def describe(dictionary: StoredDictionary) -> dict[str, Any]:
    """Which dictionary it is, in a few plain values."""
    config = dictionary.config
    return {
        "content_id": dictionary.content_id,
        "model": config.model.id,
        "site": config.site.name,
        "percentile": config.calibration.percentile,
        "threshold": dictionary.threshold,
        "k": dictionary.k,
    }
