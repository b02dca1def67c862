"""The front doors: where a folder or the hub, one process or a cluster is decided; everything below knows only one."""

from __future__ import annotations

from pathlib import Path

from .annotating.run import annotate as annotate
from .building.run import build as build
from .core.search import Prefilter
from .errors import EPError
from .folder import dictionary as local
from .folder import hub
from .folder.dictionary import StoredDictionary


def load(
    path: str | Path,
    *,
    site: str | None = None,
    percentile: float | None = None,
    revision: str | None = None,
    device: str = "cpu",
    prefilter: Prefilter | None = None,
) -> StoredDictionary:
    """Load a dictionary from its folder, or by site and percentile from the folder of a build.

    The folder may be a repository of the hub, `org/name`, at some revision; it is downloaded once.

    Raises:
        EPError: there is none, or several fit.
        DataError: files are missing, truncated, altered or of a newer schema.
        ResourceError: a repository is neither in the hub's cache nor to be reached.
    """
    if hub.is_repository(path):
        try:
            path = hub.pull(str(path), site=site, percentile=percentile, revision=revision)
        except EPError as error:
            raise type(error)(f"there is no folder {path}, and as a repository of the hub: {error}") from error
    elif revision is not None:
        raise EPError(f"{path} is a folder, which has no revision {revision!r}; leave it out")
    return local.load(path, site=site, percentile=percentile, device=device, prefilter=prefilter)
