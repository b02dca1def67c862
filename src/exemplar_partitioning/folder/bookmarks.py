"""bookmarks.json beside a dictionary's config.json (docs/format.md): lists of regions, by name, that people keep."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import DataError, EPError
from ..files import alone_in, clear_partials, sealed, unsealed, write_new
from .labels import one_line
from .listing import OnDisk
from .schema import validated

FILE = "bookmarks.json"
_NAME = 60  # characters of a list's name
_MOST = 10_000  # regions of a list


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["exemplar-partitioning/bookmarks"] = "exemplar-partitioning/bookmarks"
    schema_version: Literal["1.0"] = "1.0"
    dictionary: str = Field(description="content id of the dictionary: sha256 of its config.json")
    lists: dict[str, list[int]]


def read(dictionary: OnDisk) -> dict[str, list[int]]:
    """Lists of regions by name, regions in the order they were put in; none kept is fine.

    Raises:
        DataError: the file is damaged, or another dictionary's.
    """
    path = dictionary.path / FILE
    if not path.exists():
        return {}
    file = validated(_File, unsealed(path), path)
    if file.dictionary != dictionary.content_id:
        raise DataError(f"{path} is of the dictionary {file.dictionary[:12]}; move it to that one's folder")
    if any(not 0 <= region < dictionary.k for regions in file.lists.values() for region in regions):
        raise DataError(f"{path} lists a region that does not exist; there are {dictionary.k:,}")
    for name, regions in file.lists.items():
        if name != one_line(name) or not 0 < len(name) <= _NAME or not 0 < len(set(regions)) == len(regions) <= _MOST:
            raise DataError(f"{path} is damaged: the list {name[:_NAME]!r} has no name of one line, or a region twice")
    return file.lists


def put(dictionary: OnDisk, name: str, region: int, kept: bool = True) -> dict[str, list[int]]:
    """Put a region into a list, or take it out; a list without regions is gone.

    Args:
        dictionary: whose region.
        name: of the list, on one line.
        region: its number.
        kept: whether it is to be in it.

    Returns:
        All lists as they are now.

    Raises:
        EPError: no such region, a name that is empty or too long, or a full list.
        ResourceError: the folder cannot be written.
    """
    name = one_line(name)
    if not 0 < len(name) <= _NAME:
        raise EPError(f"the name of a list has 1 to {_NAME} characters; this one has {len(name):,}")
    region = dictionary.check_region(region)
    with alone_in(dictionary.path):
        clear_partials(dictionary.path)
        lists = read(dictionary)
        regions = [each for each in lists.pop(name, []) if each != region] + [region] * kept
        if len(regions) > _MOST:
            raise EPError(f"the list {name!r} has {_MOST:,} regions, as many as a list may have; begin another")
        lists |= {name: regions} if regions else {}
        file = _File(dictionary=dictionary.content_id, lists=dict(sorted(lists.items())))
        write_new(dictionary.path / FILE, sealed(file.model_dump(mode="json")))
    return file.lists
