"""The stream: windows in chunks, chunks to activations, every activation to its token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from .models.capture import Extractor
from .models.load import LoadedModel, bos_id, special_token_ids
from .models.sites import Site
from .text.readers import Document
from .text.windows import Window, WindowConfig, special_mask, windows

_MOVED = 1024  # rows moved at once
WINDOWS_PER_CHUNK = 128  # windows extracted between two looks at the clock; part of the arithmetic's identity


@dataclass(frozen=True)
class Chunk:
    """A run of consecutive windows. Its activations are those of all tokens that are not special.

    last_only: only of the last such token of each window.
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
    last_only: bool = False

    @cached_property
    def kept(self) -> np.ndarray:
        """Indices of the tokens that give activations, into all ids of the windows one after another."""
        ids = np.concatenate([window.ids for window in self.windows])
        ordinary = np.flatnonzero(~special_mask(ids, self.special_ids))
        if not self.last_only:
            return ordinary
        before = np.searchsorted(ordinary, self._starts)  # every window has an ordinary token
        return ordinary[before[1:] - 1]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0] + [len(window.ids) for window in self.windows])

    def token(self, row: int) -> tuple[str, int, np.ndarray]:
        """Document, position in it, and window ids up to the token of an activation."""
        index = int(self.kept[row])
        at = int(np.searchsorted(self._starts, index, side="right")) - 1
        window, offset = self.windows[at], index - int(self._starts[at])
        return window.document, int(window.positions[offset]), window.ids[: offset + 1]


class Windowing(Protocol):
    """How text becomes activations: what a build's settings say of it, and a dictionary's configuration."""

    @property
    def context_size(self) -> int: ...
    @property
    def prepend_bos(self) -> bool: ...
    @property
    def shuffle_buffer(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def chat(self) -> bool: ...
    @property
    def positions(self) -> Literal["all", "last"]: ...


def text_chunks(
    documents: Iterable[Document], loaded: LoadedModel, windowing: Windowing, max_tokens: int
) -> Iterator[Chunk]:
    """Chunks of the windows of some documents, as a build reads them."""
    w, special = windowing, special_token_ids(loaded.tokenizer)
    bos = bos_id(loaded) if w.prepend_bos else None
    if bos is not None:
        special |= {bos}
    config = WindowConfig(w.context_size, w.prepend_bos, shuffle_buffer=w.shuffle_buffer, seed=w.seed, chat=w.chat)
    cut = windows(documents, loaded.tokenizer, config, bos_id=-1 if bos is None else bos, special_ids=special)
    return chunks(cut, special, max_tokens, last_only=w.positions == "last")


def chunks(
    windows: Iterable[Window], special_ids: frozenset[int], max_tokens: int, *, last_only: bool = False
) -> Iterator[Chunk]:
    """Chunks of windows within a budget of text tokens; the last one may be smaller."""
    digest, tokens, pending = hashlib.sha256(), 0, []
    held: Chunk | None = None
    end = "text"

    def chunk() -> Chunk:
        before = held.tokens_read if held is not None else 0
        return Chunk(pending, special_ids, tokens - before, tokens, digest.hexdigest(), None, last_only)

    for window in windows:
        length = len(window.ids) - window.prefix
        if tokens + length > max_tokens:
            end = "budget"
            break
        tokens += length
        pending.append(window)
        digest.update(np.ascontiguousarray(window.ids, dtype="<i4").tobytes())
        if len(pending) == WINDOWS_PER_CHUNK:
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
    return {site: _compacted(x_nd, torch.from_numpy(chunk.kept)) for site, x_nd in captured.items()}


def _compacted(x_nd: Tensor, kept: Tensor) -> Tensor:
    """Some rows, in ascending order, moved to the front of where they are: a copy would cost as much again."""
    for start in range(0, len(kept), _MOVED):
        part = kept[start : start + _MOVED]
        x_nd[start : start + len(part)] = x_nd[part]
    return x_nd[: len(kept)]
