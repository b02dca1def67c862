"""Held-out text with its activations: documents that a dictionary was not built from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..demo.corpus import documents_of
from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..models.capture import Extractor
from ..models.loaded import LoadedModel
from ..models.sites import resolve_sites
from ..stream import Chunk, text_chunks
from ..text.documents import Sources
from ..text.windows import Window

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Passage:
    """A window: its tokens, which of them are text (not special), and their activations in order."""

    window: Window
    text_s: Int64[Tensor, " s"]
    x_sd: Float32[Tensor, "s d"]


@dataclass(frozen=True)
class HeldOut:
    """passages: to evaluate on.  pool_nd: activations of other documents, from which nulls are drawn."""

    source: str
    passages: list[Passage]
    pool_nd: Float32[Tensor, "n d"]

    @property
    def x_nd(self) -> Float32[Tensor, "n d"]:
        """All activations."""
        return torch.cat([passage.x_sd for passage in self.passages])

    @property
    def document_p(self) -> Int64[np.ndarray, " p"]:
        """The document of each passage, numbered from 0."""
        return np.unique([passage.window.document for passage in self.passages], return_inverse=True)[1]

    @property
    def document_n(self) -> Int64[np.ndarray, " n"]:
        """The document of each activation."""
        return np.repeat(self.document_p, [len(passage.text_s) for passage in self.passages])


def held_out(
    dictionary: StoredDictionary,
    loaded: LoadedModel,
    text: Sources | None,
    *,
    max_tokens: int,
    field: str = "text",
    report: Report = lambda what, done, total: None,
) -> HeldOut:
    """Read text as the dictionary's build did: first enough for a pool of activations, then what to evaluate on.

    Args:
        dictionary: says how text becomes windows, and how many activations a null needs.
        loaded: its model.
        text: documents that it was not built from; None for the packaged text after the part that it was built
            from, whole documents of it left out.
        max_tokens: text tokens to evaluate on.
        field: column or key that holds the text.
        report: called with what is done, how far, and of how much.

    Raises:
        EPError: the text is shorter.
    """
    (site,) = resolve_sites(dictionary.config.site.name, loaded.architecture)
    extractor = Extractor(loaded.model, [site])
    documents = documents_of(text, field=field)
    built_from_it = text is None and documents.name == dictionary.config.text.source
    seen = dictionary.config.build.n_activations if built_from_it else 0
    of_build: set[str] = set()
    of_pool: set[str] = set()
    pool: list[Tensor] = []
    passages: list[Passage] = []
    rows = tokens = 0
    for chunk in text_chunks(documents, loaded, dictionary.config.text.windowing, 2**62):
        report("reading held-out text", min(rows, 2 * dictionary.k) + tokens, 2 * dictionary.k + max_tokens)
        if seen > 0:
            seen -= len(chunk.kept)
            of_build |= {window.document for window in chunk.windows}
            continue
        filling = rows < 2 * dictionary.k
        for passage in _passages(chunk, extractor, of_build if filling else of_build | of_pool):
            if filling:
                pool.append(passage.x_sd)
                rows += len(passage.x_sd)
                of_pool.add(passage.window.document)
            elif (tokens := tokens + len(passage.text_s)) <= max_tokens:
                passages.append(passage)
        if tokens >= max_tokens:
            break
    if tokens < max_tokens or not passages:
        raise EPError(
            f"{documents.name} has {tokens:,} tokens to evaluate on besides the documents with {rows:,} for nulls; "
            f"{max_tokens:,} are asked for: give more documents that the dictionary was not built from, or a smaller "
            "--max-tokens"
        )
    return HeldOut(documents.name, passages, torch.cat(pool))


def _passages(chunk: Chunk, extractor: Extractor, without: set[str]) -> Iterator[Passage]:
    starts = np.cumsum([0, *(len(window.ids) for window in chunk.windows)])
    wanted = [i for i, window in enumerate(chunk.windows) if window.document not in without]
    if not wanted:
        return
    (x_nd,) = extractor.extract([chunk.windows[i].ids for i in wanted]).values()
    ends = np.cumsum([0, *(len(chunk.windows[i].ids) for i in wanted)])
    for i, (first, last) in zip(wanted, pairwise(ends), strict=True):
        inside = chunk.kept[(chunk.kept >= starts[i]) & (chunk.kept < starts[i + 1])] - starts[i]
        text_s = torch.from_numpy(inside)
        yield Passage(chunk.windows[i], text_s, x_nd[first:last][text_s])
