"""Where a dictionary came from that no build made: the file `origin.json` beside config.json.

Like labels it is no part of the dictionary. What config.json says of text and build then holds for its source.
"""

from __future__ import annotations

from typing import Any

from ..errors import DataError
from ..files import sealed, unsealed
from .dictionary import StoredDictionary

FILE = "origin.json"
_FORMAT = "exemplar-partitioning/origin"


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
    if record.get("format") != _FORMAT or "operation" not in record:
        raise DataError(f"{path} does not say where a dictionary came from; remove it, or copy the folder again")
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
