"""The stream: windows in chunks, chunks to activations, every activation to its token; and how far a job on it is."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from .folder.activations import Kept
from .models.capture import Extractor
from .models.identity import special_token_ids
from .models.load import bos_id
from .models.loaded import LoadedModel
from .models.sites import Site
from .text.readers import Document
from .text.windowing import Windowing
from .text.windows import Window, by_document, special_mask, windows

_MOVED = 1024  # rows moved at once
WINDOWS_PER_CHUNK = 128  # windows extracted between two looks at the clock; part of the arithmetic's identity


@dataclass(frozen=True)
class Chunk:
    """A run of consecutive windows. Its activations are those of all tokens that count and are not special.

    Attributes:
        x_nd: these activations [n, d], of all tokens, where they were given and no model gives them.
        pooled: whether a document has one activation, the mean of these.
        tokens, tokens_read: text tokens in it, and in the stream up to its end; prepended BOS not counted.
        digest: sha256 over the token ids of the stream up to the end of this chunk.
        last: why no chunk follows, if none does: budget spent or text ended.
    """

    windows: list[Window]
    special_ids: frozenset[int]
    tokens: int
    tokens_read: int
    digest: str
    last: str | None
    x_nd: Tensor | None = None
    pooled: bool = False

    @cached_property
    def kept(self) -> np.ndarray:
        """Indices of the tokens that activations are of, into all ids of the windows one after another.

        A pooled activation is noted at the last token of its document that counts.
        """
        return self.counted[self._stops - 1] if self.pooled else self.counted

    @cached_property
    def _stops(self) -> np.ndarray:
        """Of pooled activations: where in `counted` each document's tokens stop."""
        windows = np.cumsum([len(part) for part in by_document(self.windows)])
        return np.unique(np.searchsorted(self.counted, self._starts[windows]))

    def pool(self, x_nd: Tensor) -> Tensor:
        """The mean of each document's rows, which are those of `counted`; the rows themselves unless it is pooled."""
        if not self.pooled:
            return x_nd
        starts = [0, *self._stops[:-1].tolist()]
        parts = (x_nd[a:b].numpy() for a, b in zip(starts, self._stops.tolist(), strict=True))
        return torch.from_numpy(np.stack([part.mean(axis=0, dtype=np.float64) for part in parts]).astype(np.float32))

    @cached_property
    def counted(self) -> np.ndarray:
        """Indices of the tokens that count, as in `kept`."""
        ids = np.concatenate([window.ids for window in self.windows])
        counts = ~special_mask(ids, self.special_ids)
        for window, start in zip(self.windows, self._starts[:-1], strict=True):
            if window.counts is not None:
                counts[start : start + len(window.ids)] &= window.counts
        return np.flatnonzero(counts)

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0] + [len(window.ids) for window in self.windows])

    def token(self, row: int) -> tuple[str, int, np.ndarray]:
        """Document, position in it, and window ids up to the token of an activation; none of those not known."""
        index = int(self.kept[row])
        at = int(np.searchsorted(self._starts, index, side="right")) - 1
        window, offset = self.windows[at], index - int(self._starts[at])
        ids = window.ids[: offset + 1]
        return window.document, int(window.positions[offset]), ids[ids >= 0]


def text_chunks(
    documents: Iterable[Document], loaded: LoadedModel, windowing: Windowing, max_tokens: int
) -> Iterator[Chunk]:
    """Chunks of the windows of some documents, as a build reads them."""
    bos, special = -1, special_token_ids(loaded.tokenizer)
    if windowing.prepend_bos:
        bos = bos_id(loaded)
        special |= {bos}
    cut = windows(documents, loaded.tokenizer, windowing, bos_id=bos, special_ids=special)
    return chunks(cut, special, max_tokens, pooled=windowing.pool is not None)


def chunks(
    windows: Iterable[Window], special_ids: frozenset[int], max_tokens: int, *, pooled: bool = False
) -> Iterator[Chunk]:
    """Chunks of windows within a budget of text tokens; the last one may be smaller. Pooled documents stay whole."""
    digest, tokens, pending = hashlib.sha256(), 0, []
    held: Chunk | None = None
    end = "text"

    def chunk() -> Chunk:
        before = held.tokens_read if held is not None else 0
        return Chunk(pending, special_ids, tokens - before, tokens, digest.hexdigest(), None, pooled=pooled)

    for part in by_document(windows) if pooled else ([window] for window in windows):
        length = sum(len(window.ids) - window.prefix for window in part)
        if tokens + length > max_tokens:
            end = "budget"
            break
        tokens += length
        pending += part
        for window in part:
            digest.update(np.ascontiguousarray(window.ids, dtype="<i4").tobytes())
        if len(pending) >= WINDOWS_PER_CHUNK:
            if held is not None:
                yield held
            held, pending = chunk(), []
    if pending:
        if held is not None:
            yield held
        held = chunk()
    if held is not None:
        yield replace(held, last=end)


def extract(extractor: Extractor, chunk: Chunk, on_batch: Callable[[int], None]) -> dict[Site, Tensor]:
    """Activations of a chunk at every site: float32 [rows, d_model], rows as in `chunk.kept`."""
    captured = extractor.extract([window.ids for window in chunk.windows], on_batch)
    counted = torch.from_numpy(chunk.counted)
    return {site: chunk.pool(_compacted(x_nd, counted)) for site, x_nd in captured.items()}


def _compacted(x_nd: Tensor, kept: Tensor) -> Tensor:
    """Some rows, in ascending order, moved to the front of where they are: a copy would cost as much again."""
    for start in range(0, len(kept), _MOVED):
        part = kept[start : start + _MOVED]
        x_nd[start : start + len(part)] = x_nd[part]
    return x_nd[: len(kept)]


class Stop(Exception):
    """Someone asked a job to stop; raised only where all chunks before are whole."""


@dataclass(frozen=True)
class ProgressEvent:
    """News of a running job.

    Attributes:
        tokens: of text read so far.
        tokens_per_second: since this process began to extract.
    """

    prefix: ClassVar[str] = ""  # of the kind, among events of other jobs

    kind: str
    tokens: int
    max_tokens: int
    tokens_per_second: float

    def as_json(self) -> dict[str, Any]:
        """The event as plain values, one line of the output of `--json`."""
        values = asdict(self)
        kind, rate = values.pop("kind"), round(self.tokens_per_second, 1)
        return {"event": self.prefix + kind, **values, "tokens_per_second": rate}


class Progress:
    """How far a job is, at which rate, when to save it and whether to stop it.

    Args:
        report: told the kind of news, tokens of text read, and tokens extracted a second.
        stop: asked between batches.
        checkpoint_seconds: at least so long between two checkpoints.

    Attributes:
        tokens: of text, in chunks that are done, by any process.
    """

    def __init__(
        self, report: Callable[[str, int, float], None], stop: Callable[[], bool], checkpoint_seconds: float = 60.0
    ):
        self._report, self.stop, self._checkpoint_seconds = report, stop, checkpoint_seconds
        self.tokens = 0
        self._extracted, self._seconds = 0, 0.0  # by this process
        self._saved = time.monotonic()

    def report(self, kind: str, ahead: int = 0) -> None:
        """Give news; `ahead` are tokens extracted that are not done yet."""
        rate = self._extracted / self._seconds if self._seconds else 0.0
        self._report(kind, self.tokens + ahead, rate)

    def extracted(self, tokens: int, seconds: float) -> None:
        """Count what was extracted, and the time it took."""
        self._extracted += tokens
        self._seconds += seconds

    def check(self) -> None:
        """Raise Stop if someone asks for it."""
        if self.stop():
            raise Stop

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved >= self._checkpoint_seconds

    def saved(self) -> None:
        """Tell of a checkpoint, from which the time to the next counts."""
        self._saved = time.monotonic()
        self.report("checkpoint")


class Extraction(Protocol):
    """Where the activations of chunks come from."""

    def __call__(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, dict[str, Tensor]]]:
        """Chunks in their order, each with its activations by the name of the site."""
        ...


class FromDisk:
    """Activations at some sites read where they lie on disk, and extracted where they do not."""

    def __init__(self, kept: Kept, sites: Sequence[str], otherwise: Extraction, progress: Progress):
        self.kept, self.sites, self.otherwise, self.progress = kept, sites, otherwise, progress

    def __call__(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, dict[str, Tensor]]]:
        for chunk in chunks:
            begun = time.monotonic()
            if (rows := self.kept.read(chunk.digest, len(chunk.kept), self.sites)) is None:
                yield from self.otherwise([chunk])
                continue
            self.progress.extracted(chunk.tokens, time.monotonic() - begun)
            self.progress.report("progress", chunk.tokens)
            self.progress.check()
            yield chunk, rows


class Here:
    """Activations extracted by this process, chunk after chunk. Raises Stop between two batches."""

    def __init__(self, extractor: Extractor, progress: Progress):
        self.extractor, self.progress = extractor, progress

    def __call__(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, dict[str, Tensor]]]:
        for chunk in chunks:
            yield chunk, self._extract(chunk)

    def _extract(self, chunk: Chunk) -> dict[str, Tensor]:
        done, counted, total = 0, 0, sum(len(window.ids) for window in chunk.windows)
        begun = time.monotonic()

        def on_batch(ids: int) -> None:
            nonlocal done, counted, begun
            done += ids
            part = chunk.tokens * done // total - counted
            self.progress.extracted(part, time.monotonic() - begun)
            begun, counted = time.monotonic(), counted + part
            self.progress.report("progress", counted)
            self.progress.check()

        return {str(site): x_nd for site, x_nd in extract(self.extractor, chunk, on_batch).items()}
