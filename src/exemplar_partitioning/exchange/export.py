"""Dictionaries for other tools: files that these load as they are, or a module to put into them.

None of the tools is imported here; each export is tried on the tool's real package by `make test-peers`
(docs/peers.md).
"""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Literal

from ..core.dictionary import Basis
from ..errors import EPError
from ..files import new_folder
from ..folder.dictionary import StoredDictionary

TARGETS = ("saelens", "sparsify", "neuronpedia", "interp-engine", "saebench", "mib", "axbench")


def export(
    dictionary: StoredDictionary,
    to: str,
    path: str | Path,
    *,
    readout: Literal["topk", "pursuit"] = "topk",
    k: int = 32,
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
    if to not in TARGETS:
        raise EPError(f"there is no export to {to!r}; expected one of {', '.join(TARGETS)}")
    if readout not in ("topk", "pursuit") or basis not in ("exemplar", "mean"):
        raise EPError(f"readout is 'topk' or 'pursuit', basis 'exemplar' or 'mean'; got {readout!r} and {basis!r}")
    if to != "saelens" and (readout, basis) != ("topk", "exemplar"):
        raise EPError(f"only saelens has a form for readout 'pursuit' and basis 'mean'; {to} takes neither")
    if readout == "pursuit" and not 1 <= k <= min(dictionary.k, dictionary.d_model):
        most = min(dictionary.k, dictionary.d_model)
        raise EPError(f"k must lie between 1 and {most}, the smaller of d_model and regions; got {k}")
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
