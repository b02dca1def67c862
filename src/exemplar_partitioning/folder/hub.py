"""Dictionaries on the Hugging Face Hub: model repositories that hold the folder of a build, with a card.

    <repository>/README.md                      the card, written anew by every push
    <repository>/<site>/p<percentile>/          as on the disk (docs/format.md), with evidence and labels

Downloads go to the hub's cache and are found there again without a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EPError, ResourceError
from ..models.sites import named_site
from .sole_covers import FILE as SOLE_COVERS

if TYPE_CHECKING:
    from .dictionary import StoredDictionary

# Libraries beneath the hub's client, by its version; what they raise has no common name.
_TRANSPORTS = ("requests", "httpx", "httpx2")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_repository(name: object) -> bool:
    """Whether this is the name of a repository, `org/name`, rather than a folder."""
    return isinstance(name, str) and bool(_REPOSITORY.fullmatch(name)) and not Path(name).exists()


def push(path: str | Path, repository: str, *, private: bool = False, message: str = "Add dictionaries") -> str:
    """Upload all dictionaries in a folder, in one commit, with a card.

    Dictionaries hold excerpts of the text they were built from; the card says so.

    Args:
        path: folder of a build, or of one dictionary.
        repository: `owner/name`; made if there is none.
        private: whether one that is made here is private.
        message: of the commit.

    Returns:
        Address of the commit.

    Raises:
        EPError: no such folder, a name that is none, or no right to write there.
        ResourceError: no network.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from .dictionary import load
    from .listing import find

    if not _REPOSITORY.fullmatch(repository):
        raise EPError(f"{repository!r} is no repository; expected org/name")
    dictionaries = [load(folder) for folder in find(Path(path))]
    if not dictionaries:
        raise EPError(f"{path} holds no dictionary; give the folder that `ep build` wrote")
    operations = [CommitOperationAdd("README.md", card(repository, dictionaries).encode())]
    for dictionary in dictionaries:
        home = f"{dictionary.config.site.name}/{dictionary.path.name}"
        for file in _files(dictionary):
            operations.append(CommitOperationAdd(f"{home}/{file.relative_to(dictionary.path).as_posix()}", file))
    with _hub_errors(repository):
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return api.create_commit(repository, operations, commit_message=message).commit_url


def pull(
    repository: str,
    *,
    out: str | Path | None = None,
    site: str | None = None,
    percentile: float | None = None,
    revision: str | None = None,
) -> Path:
    """Download dictionaries, all or those of a site and percentile; returns their folder.

    Args:
        repository: `owner/name`.
        out: folder to write; default: the hub's cache, where they are found again without a network.
        site: such as resid_post.12; by the path of a module without its side, all sites are downloaded.
        percentile: of the dictionaries.
        revision: branch, tag or commit.

    Returns:
        The folder.

    Raises:
        EPError: no such repository or revision, or none that you may read.
        ResourceError: not in the cache, and no network.
    """
    from huggingface_hub import snapshot_download

    from .listing import percentile_name

    if not _REPOSITORY.fullmatch(repository):
        raise EPError(f"{repository!r} is no repository; expected org/name")
    known = None if site is None else named_site(site)
    sites = "*" if known is None else str(known)
    wanted = percentile_name(percentile) if percentile is not None else "p*"
    with _hub_errors(repository):
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=["README.md", f"{sites}/{wanted}/*"], local_dir=out
        )
    return Path(folder)


def card(repository: str, dictionaries: list[StoredDictionary]) -> str:
    """The README.md of a repository."""
    first = dictionaries[0].config
    rows = [
        f"| `{d.config.site.name}` | {d.config.calibration.percentile:g} | {d.k:,} | {d.threshold:.4f} "
        f"| {d.config.build.n_activations:,} | {'yes' if d.annotated else 'no'} "
        f"| `{d.content_id[:16]}` |"
        for d in dictionaries
    ]
    base = f"base_model: {first.model.id}\n" if _REPOSITORY.fullmatch(first.model.id) else ""
    site, percentile = first.site.name, f"{first.calibration.percentile:g}"
    model, fingerprint = _plain(first.model.id), first.model.fingerprint or "not known"
    return f"""---
library_name: exemplar-partitioning
tags: [interpretability, exemplar-partitioning]
{base}---

# Exemplar Partitioning dictionaries of {model}

Feature dictionaries of the model's activations: Voronoi partitions of the centred unit sphere, anchored by observed
activations. Each region knows the token it was observed at.

| site | percentile | regions | threshold | activations | annotated | content id |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

```python
import exemplar_partitioning as ep

d = ep.load("{repository}", site="{site}", percentile={percentile})
ids, distances = d.assign(activations)
```

- Model: {model} ({first.model.architecture or "not known"}, {first.model.dtype}), weights `{fingerprint[:16]}`
- Licence of the model: {_plain(first.model.license or "not known")}
- Text: {_plain(first.text.source)}. The files hold excerpts of it (contexts of exemplars and examples), which keep
  their own licence.
"""


def _plain(text: str) -> str:
    """Text of others within a page: no markup, on one line."""
    from html import escape

    from ..text.visible import visible

    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(visible(text), quote=False))


def _files(dictionary: StoredDictionary) -> Iterator[Path]:
    """What belongs to a dictionary, and nothing else that lies in its folder."""
    yield from dictionary.path.glob("config.json*")
    yield from (dictionary.path / name for name in dictionary.config.files)
    if dictionary.annotated:
        evidence = dictionary.annotation
        yield from evidence.path.glob("annotation.json*")
        yield from (evidence.path / name for name in evidence.record.files)
    yield from (file for name in ("labels.json", SOLE_COVERS) if (file := dictionary.path / name).is_file())


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """What the hub's client raises, said to the person who can mend it."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise EPError(
            f"the hub has no repository {repository} (or no such revision) that you may read; check the name, or log "
            "in with `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ResourceError(f"{repository} is not in the hub's cache, and the hub cannot be reached") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise EPError(f"the hub refuses you this for {repository}; log in with `hf auth login`") from error
        raise ResourceError(f"the hub answers {status} for {repository}; try again later") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _TRANSPORTS:
            raise
        raise ResourceError(f"the hub cannot be reached for {repository}: {error}") from error
