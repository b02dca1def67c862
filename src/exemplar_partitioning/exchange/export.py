"""Dictionaries for other tools: files that these load as they are, or a module to put into them.

None of the tools is imported here; each export is tried on the tool's real package by `make test-peers`
(docs/peers.md).
"""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

from ..errors import EPError
from ..files import new_folder
from ..folder.dictionary import StoredDictionary

TARGETS = ("saelens", "sparsify", "neuronpedia", "interp-engine", "saebench", "mib", "axbench")


def export(dictionary: StoredDictionary, to: str, path: str | Path) -> str:
    """Write a dictionary as a new folder that another tool takes.

    Returns a line of code or two by which the tool takes it.

    Raises:
        EPError: unknown tool, a folder that exists, or evidence that is missing (neuronpedia).
        ResourceError: the disk is full, or the folder must not be written.
    """
    if to not in TARGETS:
        raise EPError(f"there is no export to {to!r}; expected one of {', '.join(TARGETS)}")
    path = Path(path)
    if path.exists():
        raise EPError(f"{path} exists already; name a new folder")
    module = import_module(f".to_{to.replace('-', '_')}", __package__)
    with new_folder(path) as folder:
        module.write(dictionary, folder)
    return module.HOW.format(path=path)


def copy_template(name: str, folder: Path) -> None:
    """Put a module that needs nothing of this package into a folder."""
    shutil.copyfile(Path(__file__).parent / "templates" / name, folder / name)
