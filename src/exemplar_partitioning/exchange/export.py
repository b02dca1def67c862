"""Dictionaries for other tools: files that these load as they are, or a module to put into them.

None of the tools is imported here; each export is tried on the tool's real package by `make test-peers`
(docs/peers.md).
"""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

from ..core.choices import STEPS, Basis
from ..errors import EPError, check_choice
from ..files import new_folder
from ..folder.dictionary import StoredDictionary

Readout = Literal["topk", "pursuit"]
TARGETS = ("saelens", "sparsify", "neuronpedia", "interp-engine", "saebench", "mib", "axbench")


def export(
    dictionary: StoredDictionary,
    to: str,
    path: str | Path,
    *,
    readout: Readout = "topk",
    k: int = STEPS,
    basis: Basis = "exemplar",
) -> str:
    """Write a dictionary as a new folder that another tool takes.

    Args:
        dictionary: what to write.
        to: the tool, one of TARGETS.
        path: a folder that does not exist, or that the same export wrote.
        readout: "pursuit" writes an autoencoder that decomposes by matching pursuit in k steps (saelens only).
        k: steps of "pursuit".
        basis: "mean" writes mean directions of members in place of the exemplars (saelens only).

    Returns:
        A line of code or two by which the tool takes it.

    Raises:
        EPError: unknown tool, another folder that exists, what the tool has no form for, or evidence that is missing.
        ResourceError: the disk is full, or the folder must not be written.
    """
    check_choice("to", to, TARGETS)
    check_choice("readout", readout, get_args(Readout))
    check_choice("basis", basis, get_args(Basis))
    if to != "saelens" and (readout, basis) != ("topk", "exemplar"):
        raise EPError(f"only saelens has a form for readout 'pursuit' and basis 'mean'; {to} takes neither")
    if readout == "pursuit":
        dictionary.check_pursuit(k, basis=basis)
    site = dictionary.config.site
    if to == "axbench" and site.width is not None:
        raise EPError(f"axbench steers and reads the residual stream; this dictionary is of {site.name}")
    if to == "saebench" and "@" in site.name:
        raise EPError(f"saebench knows places by their names in TransformerLens, of which {site.name} has none")
    path = Path(path)
    module = import_module(f".to_{to.replace('-', '_')}", __package__)
    options = {"basis": basis, "pursuit_k": k if readout == "pursuit" else None} if to == "saelens" else {}
    try:
        with new_folder(path, again=True) as folder:
            module.write(dictionary, folder, **options)
    except FileExistsError as error:
        raise EPError(f"{path} exists already and is not this export; name a new folder") from error
    return module.HOW.format(path=path)


def copy_template(name: str, folder: Path) -> None:
    """Put a module that needs nothing of this package into a folder."""
    shutil.copyfile(Path(__file__).parent / "templates" / name, folder / name)
