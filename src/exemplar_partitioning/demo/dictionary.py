"""The annotated dictionary that ships with the package: something to open before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from ..errors import DataError

Named = TypeVar("Named", str, Path, str | Path)

NAME = "demo"
SHIPPED = Path(__file__).parent / "dictionary"
"""SmolLM2-135M-Instruct, block 15, percentiles 4 and 8; tools/demo_dictionary.py makes it, and says of what text."""


def packaged(path: Named) -> Named | Path:
    """For the name "demo", unless there is a folder of that name, a copy of the packaged one; else the path itself.

    The copy lies in the cache, where labels can be written beside it; it is made once.
    """
    if str(path) != NAME or Path(path).exists():
        return path
    from ..files import flush
    from .wheels import cache_dir, check_owner, locked, staging

    checksum = (SHIPPED / "resid_post.15" / "p4" / "config.json.sha256").read_text()[:12]
    copy = cache_dir() / "dictionaries" / f"{NAME}-{checksum}"
    with locked(copy.name):
        if not copy.is_dir():
            with staging() as work:
                whole = work / NAME
                for file in sorted(SHIPPED.rglob("*")):  # shutil.copytree gathers errors without saying which kind
                    if file.is_file():
                        place = whole / file.relative_to(SHIPPED)
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_bytes(file.read_bytes())
                for written in (*whole.rglob("*"), whole):
                    flush(written)
                copy.parent.mkdir(parents=True, exist_ok=True)
                whole.rename(copy)
                flush(copy.parent)
    check_owner(copy)
    for seal in SHIPPED.rglob("config.json.sha256"):  # which hold the hashes of all but the evidence
        held = copy / seal.relative_to(SHIPPED)
        if not held.is_file() or held.read_bytes() != seal.read_bytes():
            raise DataError(f"{copy} is not as it was shipped; remove it, and it is made again, without your labels")
    return copy
