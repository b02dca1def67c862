"""What a build is asked to do, and what it tells while it does it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.calibration import BATCH, SAMPLE
from ..core.statistics import UnseenMass
from ..folder.schema import Config, ModelRecord


class BuildSettings(BaseModel):
    """Everything that decides the bytes of a build. A resumed build must have the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelRecord
    text: str = Field(description="where the documents come from")
    sites: tuple[str, ...] = Field(description="canonical names, in the order of execution")
    percentiles: tuple[float, ...]
    max_tokens: int = Field(ge=1, description="budget: tokens of text read by the model, BOS not counted")
    saturation_window: int = Field(BATCH, ge=1, description="activations without a new exemplar that end a build")
    until_unseen: float | None = Field(None, gt=0, lt=1, description="or end at this estimated unseen mass")
    calibration_batch: int = Field(BATCH, ge=2, description="activations")
    calibration_sample: int = Field(SAMPLE, ge=2, description="activations, used in whole batches")
    context_size: int = Field(128, ge=1, description="text tokens of a window")
    prepend_bos: bool = True
    chat: bool = Field(False, description="documents are users' messages in the model's chat template")
    positions: Literal["all", "last"] = Field("all", description="tokens of a window whose activations count")
    shuffle_buffer: int = Field(10_000, ge=0, description="windows")
    seed: int = Field(0, ge=0)
    batch_size: int = Field(16, ge=1, description="windows in one forward pass")
    device: str
    threads: int = Field(ge=1, description="threads of the forward pass on a CPU; they may change its last bits")
    strict: bool = Field(False, description="refuse activations without a direction instead of skipping them")

    def differences(self, other: BuildSettings) -> list[str]:
        """`name: mine, other's` for each setting that differs."""
        mine, theirs = self.model_dump(), other.model_dump()
        mine.update({f"model.{name}": value for name, value in mine.pop("model").items()})
        theirs.update({f"model.{name}": value for name, value in theirs.pop("model").items()})
        return [f"{name}: {mine[name]} here, {theirs[name]} there" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True)
class DictionarySummary:
    """One dictionary of a build: where it stands, or how it ended."""

    site: str
    percentile: float
    threshold: float
    k: int
    n_activations: int
    unseen: UnseenMass
    stopped: str | None

    @classmethod
    def of(cls, config: Config) -> DictionarySummary:
        """A written dictionary."""
        build = config.build
        return cls(
            config.site.name,
            config.calibration.percentile,
            config.calibration.threshold,
            build.k,
            build.n_activations,
            UnseenMass(build.unseen.estimate, build.unseen.low, build.unseen.high),
            build.stopped,
        )


@dataclass(frozen=True)
class Event:
    """News of a running build.

    kind: `start`, `resume`, `progress`, `calibrating`, `calibrated`, `checkpoint`, `dictionary` (one ended) or `done`.
    tokens: of text read so far; tokens_per_second: since this process began to extract.
    """

    kind: Literal["start", "resume", "progress", "calibrating", "calibrated", "checkpoint", "dictionary", "done"]
    tokens: int
    max_tokens: int
    tokens_per_second: float
    dictionaries: tuple[DictionarySummary, ...]

    def as_json(self) -> dict[str, Any]:
        """The event as plain values, one JSON line of `ep build --json`."""
        return {
            "event": self.kind,
            "tokens": self.tokens,
            "max_tokens": self.max_tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "dictionaries": [asdict(summary) for summary in self.dictionaries],
        }


@dataclass(frozen=True)
class BuildResult:
    """A finished build: its folder, and what is in it.

    tokens: of text read, over all processes that had a part.  seconds: taken by this one, 0 if all was there.
    documents_skipped: reason -> count.
    """

    path: Path
    dictionaries: tuple[DictionarySummary, ...]
    tokens: int
    seconds: float
    documents_skipped: dict[str, int]
