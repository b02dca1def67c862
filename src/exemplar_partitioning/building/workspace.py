"""The working folder of a build, `.build` inside its output: what a resumed build continues from (law L9).

settings.json          what was asked for
moves.json             there while finished dictionaries take their places (folder/group.py)
lock                   held while a process builds here
spill/<site>.f32       activations that calibrate, kept so that nothing is extracted twice
checkpoint-<chunks>/   state after so many chunks; appears whole or not at all
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..errors import DataError, EPError
from ..files import disk_errors, flush, write_new
from ..folder.checkpoints import Checkpoints, below
from ..folder.dictionary import to_json
from ..folder.group import JOURNAL, finish, move_in
from .growing import Growing
from .settings import BuildSettings, ExtendSettings, differences

_READ = 1 << 24  # bytes at a time


@dataclass
class State:
    """How far a job is.

    Attributes:
        clustered: chunks clustered.
        digest: of the stream up to the last chunk that was read.
    """

    spill: Spill
    growing: list[Growing] = field(default_factory=list)
    clustered: int = 0
    digest: str = ""

    @property
    def chunks(self) -> int:
        """Chunks of the stream that need not be extracted again."""
        return max(len(self.spill.rows), self.clustered)


def check_place(out: Path) -> None:
    """Raise EPError where nothing can be built, nor a build be continued: a file, a folder with other things in it."""
    if out.exists() and not out.is_dir():
        raise EPError(f"{out} is a file; choose a folder with --out")
    holds = out.is_dir() and any(path.name != ".build" for path in out.iterdir())
    if holds and not (out / "build.json").is_file() and not (out / ".build" / "settings.json").is_file():
        raise EPError(f"{out} is not empty and holds no build; choose another folder with --out")


class Workspace:
    """The output folder of a build, or of dictionaries that grow on, locked while open."""

    def __init__(self, out: Path, settings: BuildSettings | ExtendSettings, *, resume: bool):
        self.out, self.work, self.settings = out, out / ".build", settings
        self.checkpoints = Checkpoints(self.work)
        self.resumed = False
        check_place(out)
        finished, asked = out / "build.json", self.work / "settings.json"
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
            finish(self.work / JOURNAL, out)
            if not self.finished:
                write_new(asked, to_json(self.settings.model_dump(mode="json")))
        except BaseException:
            self.close()
            raise

    def _agree(self, path: Path, resume: bool) -> None:
        """See whether what the folder holds is this very build."""
        if (recorded := _read_settings(path, type(self.settings))) is None:
            return
        if not resume:
            what = "a finished" if path.name == "build.json" else "an unfinished"
            raise EPError(
                f"{self.out} already holds {what} build of {recorded.model.id} on {recorded.text}; "
                "continue it with --resume, or choose another folder with --out"
            )
        if isinstance(self.settings, BuildSettings) and isinstance(recorded, BuildSettings):
            # A chat template that was told another day goes on with that day.
            self.settings = self.settings.model_copy(update={"template_date": recorded.template_date})
        if others := "; ".join(differences(self.settings, recorded)):
            raise EPError(
                f"the build in {self.out} was made with other settings: {others}. "
                "Repeat the command as it was, or choose another folder with --out"
            )
        self.resumed = True

    def appear(self, places: Sequence[Path]) -> None:
        """Have finished dictionaries take their places; `find` knows none of them before the last has."""
        move_in(self.work / JOURNAL, self.out, places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(done=kind is None)

    def close(self, *, done: bool = False) -> None:
        """Release the folder; what a build needs to go on stays, where there is anything to go on from."""
        begun = bool(self.checkpoints) or (self.work / JOURNAL).is_file()
        if done or (self.out / "build.json").is_file() or not begun:
            shutil.rmtree(self.work, ignore_errors=True)
            if self._made and not any(self.out.iterdir()):
                self.out.rmdir()
        self._lock.release()

    def save(self, state: State) -> None:
        """Write a checkpoint; what it knows of the spill is on the disk before."""
        state.spill.flush()
        arrays = {f"{i}.{name}": a for i, growing in enumerate(state.growing) for name, a in growing.arrays().items()}
        record = {
            "spill": state.spill.record(),
            "clustered": state.clustered,
            "digest": state.digest,
            "dictionaries": [growing.record() for growing in state.growing],
        }
        self.checkpoints.save(arrays, record)

    def load(self, device: str, sites: Sequence[str] = (), d_model: int = 0) -> State:
        """The state to continue from; before the first checkpoint an empty one, for calibrating at `sites`."""
        folder = self.work / "spill"
        if (kept := self.checkpoints.load()) is None:
            return State(Spill(folder, sites, d_model))
        arrays, record = kept
        try:
            growing = [
                Growing.restored(entry, below(f"{i}.", arrays), device)
                for i, entry in enumerate(record["dictionaries"])
            ]
            spill = Spill(folder, sites, d_model, **record["spill"])
            return State(spill, growing, record["clustered"], record["digest"])
        except (ValueError, KeyError, TypeError) as error:
            raise self.checkpoints.damaged(error) from error


def _read_settings(path: Path, kind: type[Any]) -> Any:
    """The settings in settings.json, or under `settings` in build.json; None without the file."""
    try:
        raw = json.loads(path.read_bytes())
        return kind(**raw.get("settings", raw))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is damaged or of another version ({error}); choose another folder") from error


class Spill:
    """Activations on disk, one file a site, chunk after chunk.

    Attributes:
        rows: activations of each chunk.
        known: sha256 of each site's, as far as a checkpoint knew of them.
    """

    def __init__(
        self,
        folder: Path,
        sites: Sequence[str],
        d: int,
        rows: Sequence[int] = (),
        known: Mapping[str, str] | None = None,
    ):
        self.folder, self.d, self.rows, self._known = folder, d, list(rows), known or {}
        self.paths = {site: folder / f"{site}.f32" for site in sites}
        self._hashes = {site: hashlib.sha256() for site in sites}

    def open(self) -> None:
        """Make the files hold exactly the chunks that the last checkpoint knew of.

        Raises:
            DataError: they are shorter, or others.
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
                if size and self._hashes[site].hexdigest() != self._known.get(site):
                    raise DataError(
                        f"{path} is not what its checkpoint knows; remove {self.folder.parent} and build again"
                    )

    def record(self) -> dict[str, Any]:
        """What a checkpoint knows of it."""
        return {"rows": self.rows, "known": {site: sha.hexdigest() for site, sha in self._hashes.items()}}

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

    def batches(self, site: str, size: int, count: int) -> Batches:
        """The first `count` batches of a site, read one at a time however often they are iterated."""
        return Batches(self, site, size, count)

    def remove(self) -> None:
        """Give the space back."""
        shutil.rmtree(self.folder, ignore_errors=True)


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
