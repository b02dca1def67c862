"""The working folder of a build, `.build` inside its output: what a resumed build continues from (law L9).

settings.json          what was asked for
moves.json             there while finished dictionaries take their places (folder/group.py)
lock                   held while a process builds here
answers.jsonl          what the model answered, of a build that asks for answers
spill/<site>.f32       activations that calibrate, kept so that nothing is extracted twice
checkpoint-<chunks>/   state after so many chunks; appears whole or not at all
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from filelock import FileLock, Timeout

from ..errors import DataError, EPError, ResourceError
from ..files import disk_errors, to_json, write_new
from ..folder.activations import FOLDER, Spill
from ..folder.checkpoints import Checkpoints, below
from ..folder.group import JOURNAL, finish, move_in
from ..folder.listing import find
from ..models.answers import FILE as ANSWERS
from .growing import Growing
from .settings import BuildSettings, ExtendSettings, differences


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


def check_room(out: Path, spill: Spill, most: int) -> None:
    """Raise ResourceError where the disk has no room for what activations will take, of which some are there."""
    needed, free = most - 4 * spill.n * sum(spill.widths.values()), shutil.disk_usage(out).free
    if needed > free:
        raise ResourceError(
            f"activations at {len(spill.widths)} sites will take up to {needed / 1e9:,.1f} GB in {out} until they are "
            f"no longer needed, and {free / 1e9:,.1f} GB are free there; choose another --out, fewer sites or a "
            "smaller --calibration-sample"
        )


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
        if (answers := self.work / ANSWERS).is_file():
            answers.replace(self.out / ANSWERS)

    @property
    def answers(self) -> Path:
        """Where the model's answers to documents are kept; with the dictionaries, once these are there."""
        done = self.out / ANSWERS
        return done if done.is_file() else self.work / ANSWERS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(done=kind is None)

    def close(self, *, done: bool = False) -> None:
        """Release the folder; what a build needs to go on stays, where there is anything to go on from."""
        begun = bool(self.checkpoints) or (self.work / JOURNAL).is_file() or bool(find(self.out))  # or only not logged
        if done or (self.out / "build.json").is_file() or not begun:
            for left in self.out.glob("*/.*.ready"):
                shutil.rmtree(left, ignore_errors=True)
            shutil.rmtree(self.work, ignore_errors=True)
            for folder in [*self.out.glob("*"), *([self.out] if self._made else [])]:
                with suppress(OSError):  # it holds something
                    folder.rmdir()
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

    def load(self, device: str, widths: Mapping[str, int] = MappingProxyType({})) -> State:
        """The state to continue from; before the first checkpoint an empty one, for calibrating at sites."""
        folder, kept = self.work / "spill", self.out / FOLDER
        if kept.is_dir() and not folder.exists():  # an earlier process was killed at its very end
            kept.rename(folder)
        if (kept := self.checkpoints.load()) is None:
            return State(Spill(folder, widths))
        arrays, record = kept
        try:
            growing = [
                Growing.restored(entry, below(f"{i}.", arrays), device)
                for i, entry in enumerate(record["dictionaries"])
            ]
            spill = Spill(folder, widths, **record["spill"])
            return State(spill, growing, record["clustered"], record["digest"])
        except (ValueError, KeyError, TypeError) as error:
            raise self.checkpoints.damaged(error) from error


def _read_settings(path: Path, kind: type[Any]) -> Any:
    """The settings in settings.json, or under `settings` in build.json; None without the file."""
    try:
        raw = json.loads(path.read_bytes())
        if (verb := raw.get("format", kind.made_by).rpartition("/")[2]) != kind.made_by:
            raise EPError(f"{path} is of `ep {verb}`, not of `ep {kind.made_by}`; choose another folder with --out")
        return kind(**raw.get("settings", raw))
    except EPError:
        raise
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is damaged or of another version ({error}); choose another folder") from error
