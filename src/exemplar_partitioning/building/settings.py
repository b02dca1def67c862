"""What a build is asked to do, and what it tells while it does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from ..folder.schema import ModelRecord
from ..folder.summary import DictionarySummary
from ..stream import ProgressEvent
from ..text.windowing import Settings
from .options import BuildOptions


class GivenRecord(BaseModel):
    """What is known of activations that were given."""

    context_size: int | None = Field(description="tokens of a window; null: activations stand alone")
    bos_id: int | None


class BuildSettings(BuildOptions):
    """Everything that decides the bytes of a build. A resumed build must have the same."""

    made_by: ClassVar[str] = "build"

    model: ModelRecord
    given: GivenRecord | None = Field(
        default=None, exclude_if=lambda given: given is None, description="of activations that no model gives here"
    )
    text: str = Field(description="where the documents come from")
    sites: tuple[str, ...] = Field(description="canonical names, in the order of execution")
    percentiles: tuple[float, ...]
    device: str
    threads: int = Field(ge=1, description="threads of the forward pass on a CPU; they may change its last bits")


class ExtendSettings(Settings):
    """Everything that decides the bytes of dictionaries that grow on. To go on, it must be the same."""

    made_by: ClassVar[str] = "extend"

    model: ModelRecord
    text: str = Field(description="where the new documents come from")
    sources: tuple[str, ...] = Field(description="content ids of the dictionaries")
    max_tokens: int = Field(ge=1, description="budget: tokens of the new text")
    device: str
    threads: int


def differences(here: BaseModel, there: BaseModel) -> Iterator[str]:
    """`name: ours here, theirs there` for each setting that differs."""
    ours, theirs = _flat(here.model_dump()), _flat(there.model_dump())
    return (
        f"{name}: {ours.get(name)} here, {theirs.get(name)} there"
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name)
    )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {f"model.{name}": value for name, value in settings.pop("model").items()}


@dataclass(frozen=True)
class BuildEvent(ProgressEvent):
    """News of a running build.

    kind: `start`, `resume`, `progress`, `calibrating`, `calibrated`, `checkpoint`, `dictionary` (one ended) or `done`.

    Attributes:
        disk_bytes: that activations on disk take at most, until they are no longer needed.
    """

    dictionaries: tuple[DictionarySummary, ...]
    disk_bytes: int = 0


@dataclass(frozen=True)
class BuildResult:
    """A finished build: its folder, and what is in it.

    Attributes:
        tokens: of text read, over all processes that had a part.
        seconds: taken by this one, 0 if all was there.
        documents_skipped: reason -> count.
    """

    path: Path
    dictionaries: tuple[DictionarySummary, ...]
    tokens: int
    seconds: float
    documents_skipped: dict[str, int]
