"""Documents as a dictionary sees them, one at a time: their tokens, and the scores of these.

Shapes: n tokens with a score, m tokens read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Int32, Int64

from ..folder.dictionary import StoredDictionary
from ..models.capture import Extractor
from ..models.loaded import LoadedModel
from ..models.sites import resolve_sites
from ..stream import Chunk, extract, text_chunks
from ..text.readers import Document
from .scores import Novelty, token_scores


@dataclass(frozen=True)
class Passage:
    """A document, or a window of one.

    Attributes:
        read_m: token ids as the model read them, window after window, with what was put before each.
        at_n, window_n: where each scored token stands in read_m, and where its window begins.
        position_n: offset of the token in the document, in tokens.
    """

    document: str
    read_m: Int32[np.ndarray, " m"]
    at_n: Int64[np.ndarray, " n"]
    window_n: Int64[np.ndarray, " n"]
    position_n: Int64[np.ndarray, " n"]
    novelty: Novelty

    @property
    def token_n(self) -> Int32[np.ndarray, " n"]:
        """Token id of each score."""
        return self.read_m[self.at_n]

    def prefix(self, row: int) -> Int32[np.ndarray, " s"]:
        """What the model had read when it computed an activation: its window up to the token itself."""
        return self.read_m[self.window_n[row] : self.at_n[row] + 1]


def passages(
    dictionary: StoredDictionary, loaded: LoadedModel, documents: Iterable[Document], max_tokens: int
) -> Iterator[Passage]:
    """Documents cut into windows as for the build, but in order; those without a token of text are left out."""
    for _, parts in groupby(_windows(dictionary, loaded, documents, max_tokens), lambda part: part.document):
        yield _joined(list(parts))


def _windows(
    dictionary: StoredDictionary, loaded: LoadedModel, documents: Iterable[Document], max_tokens: int
) -> Iterator[Passage]:
    (site,) = resolve_sites(dictionary.config.site.name, loaded.architecture)
    windowing = dictionary.config.text.windowing.model_copy(update={"shuffle_buffer": 0})
    extractor = Extractor(loaded.model, [site])
    for chunk in text_chunks(documents, loaded, windowing, max_tokens):
        novelty = token_scores(dictionary, extract(extractor, chunk, lambda _: None)[site])
        yield from _parts(chunk, novelty)


def _parts(chunk: Chunk, novelty: Novelty) -> Iterator[Passage]:
    start = np.cumsum([0, *(len(window.ids) for window in chunk.windows)])
    row = np.searchsorted(chunk.kept, start)
    for i, window in enumerate(chunk.windows):
        rows = slice(row[i], row[i + 1])
        at_n = chunk.kept[rows] - start[i]
        position_n = window.positions[at_n].astype(np.int64)
        yield Passage(window.document, window.ids, at_n, np.zeros_like(at_n), position_n, novelty[rows])


def _joined(parts: list[Passage]) -> Passage:
    shifts = np.cumsum([0, *(len(part.read_m) for part in parts)])[:-1]
    return Passage(
        parts[0].document,
        np.concatenate([part.read_m for part in parts]),
        np.concatenate([part.at_n + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.window_n + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.position_n for part in parts]),
        Novelty.joined([part.novelty for part in parts]),
    )
