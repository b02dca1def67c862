"""The build: one pass over the text serves all sites and percentiles.

The first activations calibrate. They are kept on disk and clustered first, so calibration neither
extracts twice nor changes the stream (law L6). Then the stream goes on until every dictionary has
saturated, the budget is spent or the text ends.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from ..core.calibration import BATCH, SAMPLE, calibrate, check_percentiles
from ..core.leader import LeaderClustering
from ..demo.corpus import documents_of
from ..errors import EPError, Interrupted
from ..files import write_new
from ..folder.dictionary import find, read_config, to_json
from ..folder.schema import ModelRecord
from ..models.admission import check_context, check_length
from ..models.capture import Extractor
from ..models.load import LoadedModel, bos_id, load_model, outline, search_device
from ..models.sites import Site, resolve_sites
from ..stream import Chunk, extract, text_chunks
from ..text.documents import DocumentSource
from .growing import Growing, Stopped, feed
from .settings import BuildResult, BuildSettings, DictionarySummary, Event
from .workspace import Spill, Workspace
from .write import write_dictionary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_PERCENTILES = (1.0, 2.0, 4.0, 8.0, 10.0)


class Stop(Exception):
    """Someone asked the build to stop; raised only between whole chunks of work."""


def build(
    model: str | PreTrainedModel | LoadedModel = DEFAULT_MODEL,
    text: str | Path | Iterable[str] | Iterable[Path] | None = None,
    *,
    out: str | Path,
    sites: str | Iterable[str] | None = None,
    percentiles: Iterable[float] = DEFAULT_PERCENTILES,
    max_tokens: int = 1_000_000,
    until_unseen: float | None = None,
    saturation_window: int = BATCH,
    calibration_batch: int = BATCH,
    calibration_sample: int = SAMPLE,
    context_size: int = 128,
    prepend_bos: bool = True,
    chat: bool = False,
    positions: Literal["all", "last"] = "all",
    shuffle_buffer: int = 10_000,
    seed: int = 0,
    batch_size: int = 16,
    dtype: str = "auto",
    device: str = "auto",
    field: str = "text",
    strict: bool = False,
    checkpoint_seconds: float = 60.0,
    resume: bool = False,
    on_event: Callable[[Event], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    ray: str | None = None,
    workers: int | None = None,
) -> BuildResult:
    """Build dictionaries of a model's activations on some text, and write them to a folder.

    Args:
        model: packaged name, hub id, path, or a model object.
        text: files, folders, globs, `hf:` dataset or any iterable of strings; None for the packaged text.
        out: folder to write, `<out>/<site>/p<percentile>/`.
        sites: names or globs, see `models.sites`; by default the residual stream half way up.
        percentiles: resolutions, each a dictionary; small is fine.
        max_tokens: budget in tokens of text.
        until_unseen: also stop a dictionary at this Good-Turing estimate of the unseen mass (law L5).
        saturation_window: activations without a new exemplar that end a dictionary.
        calibration_batch, calibration_sample: activations (law L6); both are part of what theta means.
        context_size, prepend_bos, shuffle_buffer, seed: how text becomes windows.
        chat: each document is a user's message, in the model's chat template (which has its own BOS).
        positions: tokens whose activations are clustered: "all", or the "last" of every window, which after a
            chat template is where the answer begins.
        batch_size: windows in one forward pass.
        dtype, device: of the forward pass; "auto" is float32 on a CPU, the model's own on a GPU.
        field: column or key that holds the text.
        strict: refuse activations without a direction (not finite) and undecodable text.
        checkpoint_seconds: at least so long between two checkpoints.
        resume: continue what an earlier call with the same arguments left unfinished.
        on_event: told how the build goes.
        stop: asked between batches; True saves a checkpoint and raises Interrupted.
        ray, workers: extract on a Ray cluster: `local` for one in this machine, `auto` for the one that runs here,
            or `host:port`; as many workers as there is room for, unless told. The result is the same, byte for byte.

    Raises:
        EPError: something given does not fit; its subclasses tell damaged files (DataError), lack of
            space or network (ResourceError) and a stop on request (Interrupted).
    """
    unread: Counter[str] = Counter()
    source = documents_of(text, field=field, strict=strict, on_skip=lambda _, why: unread.update([why]))
    architecture, bos = outline(model), prepend_bos and not chat  # what can be refused is, before weights are read
    chosen = resolve_sites(sites or f"resid_post.{architecture.n_layers // 2}", architecture)
    check_length(architecture, context_size, bos=bos)
    loaded = model if isinstance(model, LoadedModel) else load_model(model, dtype=dtype, device=device)
    check_context(loaded, context_size, bos=bos)
    try:
        settings = BuildSettings(
            model=ModelRecord(**asdict(loaded.info)),
            text=source.name,
            sites=tuple(str(site) for site in chosen),
            percentiles=check_percentiles(percentiles),
            max_tokens=max_tokens,
            saturation_window=saturation_window,
            until_unseen=until_unseen,
            calibration_batch=calibration_batch,
            calibration_sample=max(calibration_sample, calibration_batch),
            context_size=context_size,
            prepend_bos=bos,
            chat=chat,
            positions=positions,
            shuffle_buffer=shuffle_buffer,
            seed=seed,
            batch_size=batch_size,
            device=loaded.model.device.type,
            threads=torch.get_num_threads(),
            strict=strict,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise EPError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}; got {first['input']}") from error
    workspace = Workspace(Path(out), settings, resume=resume)
    try:
        given = loaded, chosen, source, unread, workspace, checkpoint_seconds, on_event or (lambda _: None), stop
        if ray is None:
            run = Run(*given)
        else:
            from ..ray.build import RayBuild
            from ..ray.team import Ray

            run = RayBuild(*given, ray=Ray(ray, workers))
        result = run.run()
    except BaseException:
        workspace.close()
        raise
    workspace.close(done=True)
    return result


class Run:
    def __init__(
        self,
        loaded: LoadedModel,
        sites: tuple[Site, ...],
        source: DocumentSource,
        unread: Counter[str],
        workspace: Workspace,
        checkpoint_seconds: float,
        on_event: Callable[[Event], None],
        stop: Callable[[], bool],
    ):
        self.loaded, self.sites, self.source, self.unread = loaded, sites, source, unread
        self.workspace, self.settings = workspace, workspace.settings
        self.checkpoint_seconds, self.on_event, self.stop = checkpoint_seconds, on_event, stop
        self.extractor = Extractor(loaded.model, sites, batch_size=self.settings.batch_size)
        self.bos = bos_id(loaded) if self.settings.prepend_bos else None
        self.core_device = search_device(loaded.model.device)
        self.started = time.monotonic()
        self.tokens = 0  # of text, in chunks extracted by any process
        self.extracted, self.extracting = 0, 0.0  # by this process: tokens, seconds
        self.saved = time.monotonic()

    def run(self) -> BuildResult:
        if self.workspace.finished:
            return self._finished()
        self.state = self.workspace.load(self.core_device)
        self.spill = Spill(
            self.workspace.work / "spill", self.settings.sites, self.loaded.info.d_model, self.state.spilled
        )
        self._tell("resume" if self.workspace.resumed else "start")
        stream = self._chunks()
        try:
            collected = self._collect(stream)
            if not self.state.growing:
                self._calibrate()
            self._cluster(collected, stream)
        except Stop:
            self._save()
            raise Interrupted(
                f"stopped after {self.tokens:,} tokens; everything so far is kept in {self.workspace.out}, "
                "go on with the same command and --resume"
            ) from None
        return self._finish()

    def _chunks(self) -> Iterator[Chunk]:
        return text_chunks(self.source, self.loaded, self.settings, self.settings.max_tokens)

    def _collect(self, stream: Iterator[Chunk]) -> list[Chunk]:
        """Extract and keep chunks until there are enough activations to calibrate on."""
        state, kept = self.state, []
        if not state.growing or state.clustered < len(state.spilled):
            self.spill.open(state.spill)
        for chunk in stream:
            kept.append(chunk)
            if len(kept) > len(state.spilled):
                self.spill.append(self._extract(chunk))
                state.digest = chunk.digest
                self._save_if_due()
            self._read(chunk, len(kept))
            enough = state.growing or self.spill.n >= self.settings.calibration_sample
            if chunk.last or (enough and len(kept) >= len(state.spilled)):
                break
        if not kept:
            raise EPError(
                f"{self.source.name} gave no text to read: no document with a token within "
                f"--max-tokens {self.settings.max_tokens:,}; documents skipped: {dict(self.unread) or 'none'}"
            )
        return kept

    def _calibrate(self) -> None:
        s, state = self.settings, self.state
        count = min(self.spill.n, s.calibration_sample) // s.calibration_batch
        if not count:
            raise EPError(
                f"{self.spill.n:,} activations from {self.tokens:,} tokens of text, but a calibration batch needs "
                f"{s.calibration_batch:,}: give more text, raise --max-tokens, or lower --calibration-batch"
            )
        self._tell("calibrating")
        for site in s.sites:
            if self.stop():
                raise Stop
            found = calibrate(self.spill.batches(site, s.calibration_batch, count), s.percentiles)
            state.sample = found.n_activations
            state.spread[site] = {str(p): spread for p, spread in found.spread.items()}
            for percentile, threshold in found.thresholds.items():
                clustering = LeaderClustering(found.center, threshold, device=self.core_device)
                state.growing.append(Growing(site, percentile, clustering, s))
        self._save()
        self._tell("calibrated")

    def _cluster(self, collected: list[Chunk], stream: Iterator[Chunk]) -> None:
        state = self.state
        for index, chunk in enumerate(itertools.chain(collected, stream)):
            if index >= state.clustered:
                if all(growing.stopped for growing in state.growing):
                    return
                if self.stop():
                    raise Stop
                held = index < len(state.spilled)
                activations = self.spill.chunk(index) if held else self._extract(chunk)
                self._add(chunk, activations)
                self._tell("progress")
                state.clustered = index + 1
                if not held:
                    state.digest = chunk.digest
                self._save_if_due()
            self._read(chunk, index + 1)
            if chunk.last:
                for growing in state.growing:
                    growing.end(cast(Stopped, chunk.last), chunk.digest)

    def _add(self, chunk: Chunk, activations: dict[str, Tensor]) -> None:
        for site, x_nd in activations.items():
            here = [growing for growing in self.state.growing if growing.site == site]
            for _ in feed(here, x_nd, chunk, device=self.core_device, strict=self.settings.strict):
                self._tell("dictionary")

    def _extract(self, chunk: Chunk) -> dict[str, Tensor]:
        begun, done, total = time.monotonic(), 0, sum(len(window.ids) for window in chunk.windows)

        def on_batch(ids: int) -> None:
            nonlocal done
            done += ids
            self._tell("progress", chunk.tokens * done // total, time.monotonic() - begun)
            if self.stop():
                raise Stop

        activations = extract(self.extractor, chunk, on_batch)
        self.extracted += chunk.tokens
        self.extracting += time.monotonic() - begun
        return {str(site): x_nd for site, x_nd in activations.items()}

    def _read(self, chunk: Chunk, number: int) -> None:
        """Count a chunk as read; a resumed build makes sure that it is the text it knew."""
        self.tokens = max(self.tokens, chunk.tokens_read)
        known = self.state.chunks
        if (number == known and chunk.digest != self.state.digest) or (chunk.last and number < known):
            raise EPError(
                f"{self.source.name} is not the text this build began with: its first {chunk.tokens_read:,} tokens "
                "are others, or the last there are. Restore the text, or choose another folder with --out"
            )

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved >= self.checkpoint_seconds:
            self._save()

    def _save(self) -> None:
        self.spill.flush()
        self.state.spill = self.spill.digests
        self.workspace.save(self.state)
        if self.state.growing and self.state.clustered >= len(self.state.spilled):
            self.spill.remove()
        self.saved = time.monotonic()
        self._tell("checkpoint")

    def _tell(self, kind: Any, tokens: int = 0, seconds: float = 0.0) -> None:
        elapsed = self.extracting + seconds
        self.on_event(
            Event(
                kind,
                self.tokens + tokens,
                self.settings.max_tokens,
                (self.extracted + tokens) / elapsed if elapsed else 0.0,
                tuple(growing.summary() for growing in self.state.growing),
            )
        )

    def _finish(self) -> BuildResult:
        for growing in self.state.growing:
            write_dictionary(growing, self.state, self.loaded, self.sites, self.settings, self.workspace.out, self.bos)
        result = BuildResult(
            self.workspace.out,
            tuple(growing.summary() for growing in self.state.growing),
            self.tokens,
            time.monotonic() - self.started,
            dict(self.unread),
        )
        record = {
            "format": "exemplar-partitioning/build",
            "settings": self.settings.model_dump(mode="json"),
            "tokens": self.tokens,
            "documents_skipped": result.documents_skipped,
            "seconds_of_last_process": round(result.seconds, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "dictionaries": [asdict(summary) for summary in result.dictionaries],
            **self._notes(),
        }
        write_new(self.workspace.out / "build.json", to_json(record))
        self._tell("done")
        return result

    def _notes(self) -> dict[str, Any]:
        """What else to write about how the build went."""
        return {}

    def _finished(self) -> BuildResult:
        """The result of a build that was already whole."""
        summaries = [DictionarySummary.of(read_config(folder)) for folder in find(self.workspace.out)]
        return BuildResult(self.workspace.out, tuple(summaries), 0, 0.0, {})
