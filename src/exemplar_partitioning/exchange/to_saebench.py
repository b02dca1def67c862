"""SAEBench takes a SAELens object: the same folder, and a script that hands it over."""

from __future__ import annotations

from pathlib import Path

from ..folder.dictionary import StoredDictionary
from . import to_saelens as saelens
from .export import copy_template

HOW = "python {path}/run_saebench.py"


def write(dictionary: StoredDictionary, folder: Path) -> None:
    """The files for SAELens, and run_saebench.py."""
    saelens.write(dictionary, folder)
    copy_template("run_saebench.py", folder)
