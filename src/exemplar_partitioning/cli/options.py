"""Reading numbers and lists the way people write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..folder.dictionary import StoredDictionary


Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Extract on a Ray cluster: local for one in this machine, auto for the one that runs here, or host:port. "
        "Same result, byte for byte.",
        show_default=False,
        rich_help_panel="Many machines",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Workers on the cluster, each with the threads, or the GPU, of this process.",
        show_default="as many as it has room for",
        rich_help_panel="Many machines",
    ),
]


def workers(ray: str | None, asked: int | None) -> None:
    """See that workers are only asked for on a cluster."""
    if asked is not None and ray is None:
        raise typer.BadParameter("--workers needs --ray: local, auto or host:port")


def count(text: str) -> int:
    """A positive whole number; `2_000_000` and `2e6` are fine."""
    try:
        value = float(text) if "e" in text.lower() else int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= 10**18 or value != int(value):
        raise typer.BadParameter(f"{text!r} is not a positive whole number such as 2_000_000")
    return int(value)


def percentile(text: str) -> float:
    """One percentile, strictly between 0 and 100."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise typer.BadParameter(f"{text!r} is not a percentile between 0 and 100")
    return value


def percentiles(text: str) -> list[float]:
    """Percentiles separated by commas."""
    return [percentile(part.strip()) for part in text.split(",")]


def region(text: str) -> int:
    """The number of a region."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not the number of a region") from None


def dictionaries(path: Path, site: str | None, percentile: float | None) -> list[StoredDictionary]:
    """All dictionaries that fit; EPError, saying which there are, if none does."""
    from ..api import load
    from ..folder.dictionary import find

    folders = find(path) if path.is_dir() else []
    every = [load(folder) for folder in folders]
    fitting = [
        d
        for d in every
        if (site is None or site in (d.config.site.name, d.config.site.transformer_lens, d.config.site.module_path))
        and (percentile is None or d.config.calibration.percentile == percentile)
    ]
    return fitting or [load(path, site=site, percentile=percentile)]


def one_dictionary(path: Path, site: str | None, wanted: str | None) -> StoredDictionary:
    """The one dictionary that fits; EPError, saying which there are, if none or several do."""
    from ..api import load

    return load(path, site=site, percentile=percentile(wanted) if wanted is not None else None)


def sources(names: list[str] | None) -> list[Path] | None:
    """Files, folders, globs and hub datasets named on the command line."""
    return [Path(name) for name in names] if names else None
