"""The annotated dictionary that ships with the package: something to open before anything is built."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeVar

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
    from .wheels import cache_dir, locked, staging

    checksum = (SHIPPED / "resid_post.15" / "p4" / "config.json.sha256").read_text()[:12]
    copy = cache_dir() / "dictionaries" / f"{NAME}-{checksum}"
    with locked(copy.name):
        if not copy.is_dir():
            with staging() as work:
                whole = shutil.copytree(SHIPPED, work / NAME)
                copy.parent.mkdir(parents=True, exist_ok=True)
                whole.rename(copy)
    return copy
