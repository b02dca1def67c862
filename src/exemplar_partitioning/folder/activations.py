"""Activations of a stream on disk: those that calibrate a build, and those kept for whoever reads the same text again.

<site>.f32         float32 [n, d], chunk after chunk; d its width, d_model in the stream
activations.json   which model and text they are of, rows of every chunk; there once a build is done
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..files import disk_errors, flush, sealed, unsealed, write_new

FOLDER = "activations"
_RECORD = "activations.json"
_READ = 1 << 24  # bytes at a time


class Spill:
    """Activations on disk, one file a site, chunk after chunk.

    Attributes:
        widths: of the activations at each site.
        rows: activations of each chunk.
        digests: of the stream up to the end of each.
        tokens: of text, in all of them.
        known: sha256 of each site's, as far as a checkpoint knew of them.
    """

    def __init__(
        self,
        folder: Path,
        widths: Mapping[str, int],
        *,
        rows: Sequence[int] = (),
        known: Mapping[str, str] | None = None,
        digests: Sequence[str] = (),
        tokens: int = 0,
    ):
        self.folder, self.widths, self.rows, self._known = folder, dict(widths), list(rows), known or {}
        self.digests, self.tokens = list(digests), tokens
        self.paths = {site: folder / f"{site}.f32" for site in widths}
        self._hashes = {site: hashlib.sha256() for site in widths}

    def open(self) -> None:
        """Make the files hold exactly the chunks that the last checkpoint knew of.

        Raises:
            DataError: they are shorter, or others.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.paths.values():
                path.touch()
            self.check(f"remove {self.folder.parent} and build again")
            for site, path in self.paths.items():
                os.truncate(path, self._bytes(site))

    def check(self, remedy: str) -> None:
        """Raise DataError, naming a remedy, unless the files begin with what is known of them."""
        for site, path in self.paths.items():
            if (size := path.stat().st_size) < (known := self._bytes(site)):
                raise DataError(f"{path} has {size:,} bytes, its checkpoint knows {known:,}; {remedy}")
            digest = self._hashes[site] = hashlib.sha256()
            with path.open("rb") as file:
                for start in range(0, known, _READ):
                    digest.update(file.read(min(_READ, known - start)))
            if known and digest.hexdigest() != self._known.get(site):
                raise DataError(f"{path} is not what its checkpoint knows; {remedy}")

    def _bytes(self, site: str) -> int:
        return self.n * self.widths[site] * 4

    def record(self) -> dict[str, Any]:
        """What a checkpoint knows of it."""
        known = {site: sha.hexdigest() for site, sha in self._hashes.items()}
        return {"rows": self.rows, "known": known, "digests": self.digests, "tokens": self.tokens}

    @property
    def there(self) -> bool:
        """Whether it has all it ever had: nothing was given back."""
        return bool(self.rows) and self.folder.is_dir()

    @property
    def n(self) -> int:
        """Activations held."""
        return sum(self.rows)

    def append(self, activations: dict[str, Tensor], digest: str = "", tokens_read: int = 0) -> None:
        """Add a chunk, known by the digest of the stream up to its end, which has so many tokens."""
        with disk_errors(self.folder):
            for site, x_nd in activations.items():
                data = x_nd.contiguous().numpy().data
                with self.paths[site].open("ab") as file:
                    file.write(data)
                self._hashes[site].update(data)
        self.rows.append(len(next(iter(activations.values()))))
        self.digests.append(digest)
        self.tokens = tokens_read

    def flush(self) -> None:
        """Have it on the disk before a checkpoint says so."""
        with disk_errors(self.folder):
            for path in self.paths.values():
                if path.exists():
                    flush(path)

    def read(self, site: str, start: int, stop: int) -> Tensor:
        """Activations start..stop-1 of a site."""
        d = self.widths[site]
        x = np.fromfile(self.paths[site], np.float32, (stop - start) * d, offset=start * d * 4)
        return torch.from_numpy(x.reshape(stop - start, d))

    def by_site(self, index: int, sites: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Activations of one chunk at some sites, by default at every site, each read when it is asked for."""
        start = sum(self.rows[:index])
        return ((site, self.read(site, start, start + self.rows[index])) for site in sites or self.paths)

    def batches(self, site: str, size: int, count: int) -> Batches:
        """The first `count` batches of a site, read one at a time however often they are iterated."""
        return Batches(self, site, size, count)

    def remove(self) -> None:
        """Give the space back."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep(self, place: Path, of: Mapping[str, Any]) -> None:
        """Move to a place where others find it, with what is to be known of it."""
        self.flush()
        apart = len(set(self.widths.values())) > 1
        width = self.widths if apart else next(iter(self.widths.values()))
        record = {"format": "exemplar-partitioning/activations", "d_model": width, "sites": list(self.paths), **of}
        write_new(self.folder / _RECORD, sealed(record | self.record()))
        with disk_errors(place):
            shutil.rmtree(place, ignore_errors=True)
            self.folder.rename(place)


@dataclass(frozen=True)
class Kept:
    """Activations that a build left beside its dictionaries.

    Attributes:
        model: fingerprint.
        lasting: whether they stay once they have been used.
    """

    spill: Spill
    model: str
    lasting: bool

    @classmethod
    def beside(cls, path: Path) -> Self | None:
        """Those of the folder of a build; None where there are none.

        Raises:
            DataError: they are damaged.
        """
        if not (place := path / FOLDER).is_dir():
            return None
        record = unsealed(place / _RECORD)
        try:
            known = {name: record[name] for name in ("rows", "known", "digests", "tokens")}
            width: Any = record["d_model"]
            widths: Any = width if isinstance(width, dict) else dict.fromkeys(record["sites"], width)
            return cls(Spill(place, widths, **known), record["model"], record["lasting"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{place} is damaged ({error}); remove it") from error

    def serves(self, model: str, sites: Collection[str]) -> bool:
        """Whether they are of this model at all these sites.

        Raises:
            DataError: they are, but were altered.
        """
        if model != self.model or not set(sites) <= set(self.spill.paths):
            return False
        with disk_errors(self.spill.folder):
            self.spill.check(f"remove {self.spill.folder}, and the model runs in its place")
        return True

    def used(self) -> None:
        """Remove them, if they were kept for this use alone."""
        if not self.lasting:
            self.spill.remove()

    def read(self, digest: str, rows: int, sites: Iterable[str]) -> dict[str, Tensor] | None:
        """Activations at some sites of the chunk that ends where the stream has this digest, if it is there."""
        if digest not in self.spill.digests or self.spill.rows[at := self.spill.digests.index(digest)] != rows:
            return None
        return dict(self.spill.by_site(at, sites))


@dataclass(frozen=True)
class Batches:
    """Activations of a site in batches of one size, read when they are asked for."""

    spill: Spill
    site: str
    size: int
    count: int

    def __iter__(self) -> Iterator[Tensor]:
        for i in range(self.count):
            yield self.spill.read(self.site, i * self.size, (i + 1) * self.size)
