"""The build: one pass over the text serves all sites and percentiles.

The first activations calibrate. They are kept on disk and clustered first, so calibration neither
extracts twice nor changes the stream (law L6). Then the stream goes on until every dictionary has
saturated, the budget is spent or the text ends.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..core.calibration import calibrate, check_percentiles
from ..core.leader import LeaderClustering
from ..demo.corpus import documents_of
from ..errors import EPError, Interrupted
from ..files import to_json, write_new
from ..folder.activations import FOLDER
from ..folder.listing import find, read_config
from ..folder.schema import ModelRecord
from ..folder.summary import DictionarySummary
from ..models.admission import check_context, check_length
from ..models.answers import answered
from ..models.architecture import Architecture
from ..models.capture import Extractor
from ..models.load import load_model, outline, search_device
from ..models.loaded import LoadedModel
from ..models.sites import Site, resolve_sites
from ..stream import Chunk, Extraction, Here, Progress, Stop, text_chunks
from ..text.chat import template_date
from .growing import Growing, all_stopped, decided
from .options import BuildOptions, BuildRequest, RunRequest
from .settings import BuildEvent, BuildResult, BuildSettings, ExtendSettings
from .workspace import State, Workspace, check_place, check_room
from .write import Places, write_dictionary

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_LEAST = 2  # activations that have a distance


class Deciding(Protocol):
    """How chunks beyond those that calibrate are decided."""

    def __call__(self, chunks: Iterator[Chunk], growing: Sequence[Growing]) -> Iterator[Chunk]:
        """The chunks in their order, each once the dictionaries are what they are after it."""
        ...


@dataclass(frozen=True)
class Crew:
    """Who does the work of a build. notes: what to write of it in build.json, asked for at the end."""

    extraction: Extraction
    deciding: Deciding
    notes: Callable[[], dict[str, Any]] = dict


Crews = Callable[[LoadedModel, BuildSettings, Progress], AbstractContextManager[Crew]]


@contextmanager
def this_process(loaded: LoadedModel, settings: BuildSettings, progress: Progress) -> Iterator[Crew]:
    """A crew of one: this process extracts and decides a chunk, then the next."""
    sites = resolve_sites(list(settings.sites), loaded.architecture)
    extraction = Here(Extractor(loaded.model, sites, batch_size=settings.batch_size), progress)
    device = search_device(loaded.model.device)
    yield Crew(extraction, lambda chunks, growing: decided(extraction(chunks), growing, device))


def check_request(asked: BuildRequest, architecture: Architecture) -> tuple[Site, ...]:
    """The sites that are meant; EPError for whatever else of a request can be refused without the model's weights."""
    check_place(Path(asked.out))
    if asked.ray is not None and asked.keep_activations == "all":
        raise EPError(
            "on a cluster activations stay with the workers that extract them, so not all can be kept; leave out ray, "
            "or keep those that calibrate"
        )
    check_length(architecture, asked.context_size, bos=asked.prepend_bos)
    return resolve_sites(asked.sites or f"resid_post.{architecture.n_layers // 2}", architecture)


def build(
    model: str | PreTrainedModel | LoadedModel, text: Any, request: BuildRequest, crews: Crews = this_process
) -> BuildResult:
    """Build dictionaries; `api.build` tells of all that can be asked.

    Args:
        model: packaged name, hub id, path, or a model object.
        text: what to read, as `documents_of` takes it.
        request: all else.
        crews: who does the work.

    Raises:
        EPError: something given does not fit; its subclasses tell damaged files (DataError), lack of
            space or network (ResourceError) and a stop on request (Interrupted).
    """
    asked, unread = request, Counter[str]()
    source = documents_of(
        text,
        field=asked.field,
        strict=asked.strict,
        on_skip=lambda _, why: unread.update([why]),
        mask=asked.mask,
        limit=asked.documents,
    )
    sites = check_request(asked, outline(model))  # what can be refused is, before weights are read
    loaded = model if isinstance(model, LoadedModel) else load_model(model, dtype=asked.dtype, device=asked.device)
    widths = check_context(loaded, asked.context_size, sites, bos=asked.prepend_bos)
    settings = _settings(request, loaded, sites, source.name)
    with Workspace(Path(asked.out), settings, resume=asked.resume) as workspace:
        if workspace.finished:
            return finished(workspace.out)
        settings = workspace.settings
        assert isinstance(settings, BuildSettings)
        if settings.generate:
            source = answered(
                source,
                loaded,
                settings.generate,
                date=settings.template_date,
                file=workspace.answers,
                keep=True,
                on_skip=lambda _, why: unread.update([why]),
            )
        job = BuildJob(
            chunks=lambda: text_chunks(source, loaded, settings, settings.max_tokens),
            source=source.name,
            places=Places.of(loaded, widths, settings),
            settings=settings,
            workspace=workspace,
            device=search_device(loaded.model.device),
            unread=unread,
            keep=asked.keep_activations,
        )
        run = BuildRun.begin(job, asked)
        return run.through(crews(loaded, settings, run.progress))


def finished(out: Path) -> BuildResult:
    """What a build gave that had ended before."""
    summaries = [DictionarySummary.of(read_config(folder)) for folder in find(out)]
    return BuildResult(out, tuple(summaries), 0, 0.0, {})


def _settings(asked: BuildRequest, loaded: LoadedModel, sites: Sequence[Site], text: str) -> BuildSettings:
    options: dict[str, Any] = {name: getattr(asked, name) for name in BuildOptions.model_fields}
    if asked.chat and asked.template_date is None:
        options["template_date"] = template_date(loaded.tokenizer)
    options["calibration_sample"] = max(asked.calibration_sample, asked.calibration_batch)
    return BuildSettings(
        **options,
        model=ModelRecord(**asdict(loaded.info)),
        text=text,
        sites=tuple(str(site) for site in sites),
        percentiles=check_percentiles(asked.percentiles),
        device=loaded.model.device.type,
        threads=torch.get_num_threads(),
    )


def _write_log(settings: BuildSettings | ExtendSettings, result: BuildResult, notes: dict[str, Any]) -> None:
    record = {
        "format": f"exemplar-partitioning/{settings.made_by}",
        "settings": settings.model_dump(mode="json"),
        "tokens": result.tokens,
        "documents_skipped": result.documents_skipped,
        "seconds_of_last_process": round(result.seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "dictionaries": [asdict(summary) for summary in result.dictionaries],
        **notes,
    }
    write_new(result.path / "build.json", to_json(record))


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """What is to be done.

    Attributes:
        chunks: the stream from its start, perhaps with activations.
        source: where it comes from, for people.
        device: where exemplars are searched.
        unread: documents skipped, by reason.
        keep: activations to be left (`BuildRequest`).
    """

    chunks: Callable[[], Iterator[Chunk]]
    source: str
    places: Places
    settings: BuildSettings
    workspace: Workspace
    device: str
    unread: Counter[str] = field(default_factory=Counter)
    keep: str = "none"


class BuildRun:
    """A job on its way: dictionaries that follow the stream, saved now and then (law L9)."""

    def __init__(
        self,
        job: BuildJob,
        state: State,
        stop: Callable[[], bool],
        on_event: Callable[[BuildEvent], None] | None,
        checkpoint_seconds: float,
    ):
        self.job, self.state, self.on_event = job, state, on_event
        self.progress = Progress(self._report, stop, checkpoint_seconds)
        self.started = time.monotonic()

    @classmethod
    def begin(cls, job: BuildJob, asked: RunRequest) -> BuildRun:
        """A run from where an earlier one was stopped, or from the start."""
        d = job.settings.model.d_model
        widths = {site: job.places.sites[site].width or d for site in job.settings.sites}
        state = job.workspace.load(job.device, widths)
        return cls(job, state, asked.stop, asked.on_event, asked.checkpoint_seconds)

    def through(
        self, crew: AbstractContextManager[Crew], written: Callable[[Sequence[Path]], None] = lambda places: None
    ) -> BuildResult:
        """Do the whole job, to dictionaries that have taken their places. written: told of these before they do."""
        with crew as at_work:
            self.follow(at_work)
        workspace = self.job.workspace
        places = [write_dictionary(each, self.job.places, workspace.out) for each in self.state.growing]
        written(places)
        workspace.appear(places)
        result = BuildResult(
            path=workspace.out,
            dictionaries=tuple(each.summary() for each in self.state.growing),
            tokens=self.progress.tokens,
            seconds=time.monotonic() - self.started,
            documents_skipped=dict(self.job.unread),
        )
        if self._keeps:
            of = {"model": self.job.settings.model.fingerprint, "lasting": self.job.keep == "all"}
            self.state.spill.keep(workspace.out / FOLDER, of)
        _write_log(workspace.settings, result, at_work.notes())
        self.progress.report("done")
        self.state.growing.clear()  # what follows in this process has their room
        return result

    def _report(self, kind: str, tokens: int, rate: float) -> None:
        if self.on_event is not None:
            summaries = tuple(growing.summary() for growing in self.state.growing)
            self.on_event(BuildEvent(kind, tokens, self.job.settings.max_tokens, rate, summaries, self.disk_bytes))

    @property
    def disk_bytes(self) -> int:
        """That activations will take on disk at most."""
        s = self.job.settings
        kept = s.max_tokens if self.job.keep == "all" else min(s.max_tokens, s.calibration_sample)
        return 4 * kept * sum(self.state.spill.widths.values())

    def follow(self, crew: Crew) -> None:
        """Follow the stream to where every dictionary has stopped. Raises Interrupted, everything so far being kept."""
        state, known = self.state, self.state.clustered
        if not state.growing:
            check_room(self.job.workspace.out, state.spill, self.disk_bytes)
        self.progress.report("resume" if self.job.workspace.resumed else "start")
        try:
            stream = self._stream()
            collected = list(itertools.islice(stream, len(state.spill.rows)))
            if not state.growing:
                collected += self._collected(stream, crew.extraction)
                self._calibrate()
            elif state.clustered < len(collected) or self._keeps:
                state.spill.open()
            held = ((collected[i], state.spill.by_site(i)) for i in range(state.clustered, len(collected)))
            self._cluster(decided(held, state.growing, self.job.device))
            for _ in itertools.islice(stream, max(0, known - len(collected))):
                pass  # clustered by an earlier process
            if self.job.keep == "all" and self._keeps:
                self._cluster(decided(self._kept(crew.extraction(stream)), state.growing, self.job.device))
            else:
                self._cluster(crew.deciding(stream, state.growing))
        except Stop:
            self._save()
            raise Interrupted(
                f"stopped after {self.progress.tokens:,} tokens; everything so far is kept in "
                f"{self.job.workspace.out}, go on with the same command and --resume"
            ) from None

    def _stream(self) -> Iterator[Chunk]:
        """All chunks; raises EPError if there are none, or if the first are not those that a resumed job knows."""
        job, chunk = self.job, None
        known, digest = self.state.chunks, self.state.digest
        for number, chunk in enumerate(job.chunks(), 1):
            if (number == known and chunk.digest != digest) or (chunk.last and number < known):
                raise EPError(
                    f"{job.source} is not the text this build began with: its first {chunk.tokens_read:,} tokens are "
                    "others, or the last there are. Restore it, or choose another folder with --out"
                )
            if number <= known:
                self.progress.tokens = chunk.tokens_read
                chunk = replace(chunk, x_nd=None)  # they are in the spill, or clustered
            yield chunk
        if chunk is None:
            raise EPError(
                f"{job.source} gave no text to read: no document with a token within "
                f"--max-tokens {job.settings.max_tokens:,}; documents skipped: {dict(job.unread) or 'none'}"
            )

    def _collected(self, stream: Iterator[Chunk], extraction: Extraction) -> Iterator[Chunk]:
        """Extract and keep chunks until there are enough activations to calibrate on."""
        state = self.state
        state.spill.open()
        for chunk, activations in extraction(self._calibrating(stream)):
            state.spill.append(activations, chunk.digest, chunk.tokens_read)
            self._count(chunk)
            yield chunk

    @property
    def _keeps(self) -> bool:
        return self.job.keep != "none" and self.state.spill.there

    def _kept(self, extracted: Iterator[tuple[Chunk, dict[str, Tensor]]]) -> Iterator[tuple[Chunk, dict[str, Tensor]]]:
        """What is extracted, kept too; unless chunks before it are not, as an earlier process had not been asked to."""
        spill = self.state.spill
        for chunk, activations in extracted:
            if len(spill.rows) == self.state.clustered:
                spill.append(activations, chunk.digest, chunk.tokens_read)
            yield chunk, activations

    def _calibrating(self, stream: Iterator[Chunk]) -> Iterator[Chunk]:
        rows, wanted = self.state.spill.n, self.job.settings.calibration_sample
        while rows < wanted and (chunk := next(stream, None)) is not None:
            rows += len(chunk.kept)
            yield chunk

    def _calibrate(self) -> None:
        state, s = self.state, self.job.settings
        batch = min(s.calibration_batch, state.spill.n)  # of little data, all of it is one batch
        if batch < _LEAST:
            raise EPError(
                f"{state.spill.n:,} activations from {self.progress.tokens:,} tokens; distances need {_LEAST} or more"
            )
        count = min(state.spill.n, s.calibration_sample) // batch
        self.progress.report("calibrating")
        growing: list[Growing] = []
        for site in s.sites:
            self.progress.check()
            made = calibrate(state.spill.batches(site, batch, count), s.percentiles)
            for percentile, threshold in made.thresholds.items():
                clustering = LeaderClustering(made.center, threshold, device=self.job.device)
                of: dict[str, Any] = {"sample": made.n_activations, "spread": made.spread[percentile], "settings": s}
                growing.append(Growing(site=site, percentile=percentile, clustering=clustering, **of))
        state.growing = growing
        self._save()
        self.progress.report("calibrated")

    def _cluster(self, chunks: Iterator[Chunk]) -> None:
        """Follow chunks that are decided when they are asked for."""
        state = self.state
        while not all_stopped(state.growing):
            self.progress.check()
            open_ones = [growing for growing in state.growing if not growing.stopped]
            if (chunk := next(chunks, None)) is None:
                return
            state.clustered += 1
            for _ in (each for each in open_ones if each.stopped in ("saturated", "unseen")):
                self.progress.report("dictionary")
            self._count(chunk)

    def _count(self, chunk: Chunk) -> None:
        """Count a chunk that was extracted or clustered, and save if it is time."""
        if chunk.tokens_read > self.progress.tokens:
            self.progress.tokens, self.state.digest = chunk.tokens_read, chunk.digest
        self.progress.report("progress")
        if self.progress.due:
            self._save()

    def _save(self) -> None:
        state = self.state
        self.job.workspace.save(state)
        if state.growing and state.clustered >= len(state.spill.rows) and not self._keeps:
            state.spill.remove()
        self.progress.saved()
