"""The working folder of a build, `.build` inside its output: what a resumed build continues from (law L9).

settings.json          what was asked for
lock                   held while a process builds here
spill/<site>.f32       activations that calibrate, kept so that nothing is extracted twice
checkpoint-<chunks>/   state after so many chunks; appears whole or not at all
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError
from torch import Tensor

from ..core.leader import LeaderClustering
from ..errors import DataError, EPError
from ..files import disk_errors, flush, write_new
from ..folder.checkpoints import Checkpoints
from ..folder.dictionary import to_json
from .growing import Growing, Provenance
from .settings import BuildSettings

_READ = 1 << 24  # bytes at a time


@dataclass
class State:
    """How far a build is.

    spilled: activations of each chunk in the spill, in order.  spill: sha256 of each site's.
    clustered: chunks clustered.
    digest: of the stream up to the last chunk that was read.
    spread: per site and percentile, of the calibration.  sample: activations calibrated on.
    """

    spilled: list[int] = field(default_factory=list)
    clustered: int = 0
    digest: str = ""
    sample: int = 0
    spread: dict[str, dict[str, float]] = field(default_factory=dict)
    growing: list[Growing] = field(default_factory=list)
    spill: dict[str, str] = field(default_factory=dict)

    @property
    def chunks(self) -> int:
        """Chunks of the stream that need not be extracted again."""
        return max(len(self.spilled), self.clustered)


class Workspace:
    """One build's output folder, locked while open."""

    def __init__(self, out: Path, settings: BuildSettings, *, resume: bool):
        self.out, self.work, self.settings = out, out / ".build", settings
        self.checkpoints = Checkpoints(self.work)
        self.resumed = False
        if out.exists() and not out.is_dir():
            raise EPError(f"{out} is a file; choose a folder with --out")
        holds = out.is_dir() and any(path.name != ".build" for path in out.iterdir())
        finished, asked = out / "build.json", self.work / "settings.json"
        if holds and not finished.is_file() and not asked.is_file():
            raise EPError(f"{out} is not empty and holds no build; choose another folder with --out")
        self._made = not out.exists()
        with disk_errors(out):
            self.work.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.work / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise EPError(f"another process is building in {out}; wait for it, or choose another --out") from None
        try:
            self._agree(finished if finished.is_file() else asked, resume)
            self.finished = finished.is_file()
            if not self.finished:
                write_new(asked, to_json(settings.model_dump(mode="json")))
        except BaseException:
            self.close()
            raise

    def _agree(self, path: Path, resume: bool) -> None:
        """See whether what the folder holds is this very build."""
        if (found := _read_settings(path)) is None:
            return
        if not resume:
            what = "a finished" if path.name == "build.json" else "an unfinished"
            raise EPError(
                f"{self.out} already holds {what} build of {found.model.id} on {found.text}; "
                "continue it with --resume, or choose another folder with --out"
            )
        if differences := self.settings.differences(found):
            raise EPError(
                f"the build in {self.out} was made with other settings: {'; '.join(differences)}. "
                "Repeat the command as it was, or choose another folder with --out"
            )
        self.resumed = True

    def close(self, *, done: bool = False) -> None:
        """Release the folder; what a build needs to go on stays, where there is anything to go on from."""
        if done or (self.out / "build.json").is_file() or not self.checkpoints:
            shutil.rmtree(self.work, ignore_errors=True)
            if self._made and not any(self.out.iterdir()):
                self.out.rmdir()
        self._lock.release()

    def save(self, state: State) -> None:
        """Write a checkpoint."""
        arrays, dictionaries = {}, []
        for i, growing in enumerate(state.growing):
            arrays |= {f"{i}.{name}": array for name, array in growing.arrays().items()}
            arrays[f"{i}.center"] = growing.clustering.center.numpy(force=True)
            dictionaries.append(
                {
                    "site": growing.site,
                    "percentile": growing.percentile,
                    "threshold": growing.clustering.threshold,
                    "position": growing.clustering.position,
                    "skipped": growing.clustering.skipped,
                    "provenance": [[p.document, p.position, p.raw_norm] for p in growing.provenance],
                    "growth": growing.growth,
                    "stopped": growing.stopped,
                    "digest": growing.digest,
                }
            )
        record = {
            "spilled": state.spilled,
            "spill": state.spill,
            "clustered": state.clustered,
            "digest": state.digest,
            "sample": state.sample,
            "spread": state.spread,
            "dictionaries": dictionaries,
        }
        self.checkpoints.save(arrays, record)

    def load(self, device: str) -> State:
        """The state to continue from; an empty one before the first checkpoint."""
        if (found := self.checkpoints.load()) is None:
            return State()
        arrays, record = found
        try:
            growing = [self._growing(i, entry, arrays, device) for i, entry in enumerate(record["dictionaries"])]
            return State(
                record["spilled"],
                record["clustered"],
                record["digest"],
                record["sample"],
                record["spread"],
                growing,
                record["spill"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise self.checkpoints.damaged(error) from error

    def _growing(self, i: int, entry: dict[str, Any], arrays: dict[str, np.ndarray], device: str) -> Growing:
        clustering = LeaderClustering(torch.from_numpy(arrays[f"{i}.center"]), entry["threshold"], device=device)
        clustering.restore(
            torch.from_numpy(arrays[f"{i}.exemplars"]),
            arrays[f"{i}.arrivals"],
            arrays[f"{i}.soles"],
            arrays[f"{i}.births"],
            position=entry["position"],
            skipped=entry["skipped"],
        )
        ends = np.cumsum(arrays[f"{i}.window_lengths"])
        windows = np.split(arrays[f"{i}.window_tokens"], ends)[: len(ends)]
        return Growing(
            entry["site"],
            entry["percentile"],
            clustering,
            self.settings,
            [
                Provenance(document, position, window, raw_norm)
                for (document, position, raw_norm), window in zip(entry["provenance"], windows, strict=True)
            ],
            [(n, k) for n, k in entry["growth"]],
            entry["stopped"],
            entry["digest"],
        )


def _read_settings(path: Path) -> BuildSettings | None:
    """The settings in settings.json, or under `settings` in build.json; None without the file."""
    try:
        raw = json.loads(path.read_bytes())
        return BuildSettings.model_validate_json(json.dumps(raw.get("settings", raw)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise DataError(f"{path} is damaged or of another version ({error}); choose another folder") from error


class Spill:
    """Activations on disk, one file a site, chunk after chunk."""

    def __init__(self, folder: Path, sites: tuple[str, ...], d: int, rows: list[int]):
        self.folder, self.d, self.rows = folder, d, rows
        self.paths = {site: folder / f"{site}.f32" for site in sites}
        self._hashes = {site: hashlib.sha256() for site in sites}

    def open(self, digests: Mapping[str, str]) -> None:
        """Make the files hold exactly the chunks that the last checkpoint knew of, with the hashes it knew.

        Raises DataError if they are shorter or others.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for site, path in self.paths.items():
                size = self.n * self.d * 4
                with path.open("a+b") as file:
                    if file.tell() < size:
                        raise DataError(
                            f"{path} has {file.tell():,} bytes, its checkpoint knows {size:,}; "
                            f"remove {self.folder.parent} and build again"
                        )
                    file.truncate(size)
                    file.seek(0)
                    while part := file.read(_READ):
                        self._hashes[site].update(part)
                if size and self._hashes[site].hexdigest() != digests.get(site):
                    raise DataError(
                        f"{path} is not what its checkpoint knows; remove {self.folder.parent} and build again"
                    )

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of each site's activations."""
        return {site: found.hexdigest() for site, found in self._hashes.items()}

    @property
    def n(self) -> int:
        """Activations held."""
        return sum(self.rows)

    def append(self, activations: dict[str, Tensor]) -> None:
        with disk_errors(self.folder):
            for site, x_nd in activations.items():
                data = x_nd.contiguous().numpy().data
                with self.paths[site].open("ab") as file:
                    file.write(data)
                self._hashes[site].update(data)
        self.rows.append(len(next(iter(activations.values()))))

    def flush(self) -> None:
        """Have it on the disk before a checkpoint says so."""
        with disk_errors(self.folder):
            for path in self.paths.values():
                if path.exists():
                    flush(path)

    def read(self, site: str, start: int, stop: int) -> Tensor:
        """Activations start..stop-1 of a site."""
        x = np.fromfile(self.paths[site], np.float32, (stop - start) * self.d, offset=start * self.d * 4)
        return torch.from_numpy(x.reshape(stop - start, self.d))

    def chunk(self, index: int) -> dict[str, Tensor]:
        """Activations of one chunk at every site."""
        start = sum(self.rows[:index])
        return {site: self.read(site, start, start + self.rows[index]) for site in self.paths}

    def batches(self, site: str, size: int, count: int) -> _Batches:
        """The first `count` batches of a site, read one at a time however often they are iterated."""
        return _Batches(self, site, size, count)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class _Batches:
    spill: Spill
    site: str
    size: int
    count: int

    def __iter__(self) -> Iterator[Tensor]:
        for i in range(self.count):
            yield self.spill.read(self.site, i * self.size, (i + 1) * self.size)
