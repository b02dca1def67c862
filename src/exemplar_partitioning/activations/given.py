"""Activations as they were given, with what is known of their tokens, as chunks of a stream.

Shapes: n activations, d their width, s positions of a sequence.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.intake import Rows, intake
from ..errors import DataError, EPError
from ..models.source import find
from ..stream import Chunk, Progress
from ..text.windows import Window
from .files import shards
from .ids import read_ids
from .tables import Block

_ROWS = 16_384  # of a block, or of a chunk where they are narrow
_CHUNK_BYTES = 1 << 26
NO_TOKEN = -1  # stands for the id of a token that is not known

Sequences = Iterator[tuple[list[Window], torch.Tensor]]


@dataclass(frozen=True)
class Tokens:
    """What is known of tokens beside the activations.

    ids: of all activations in order, with the length of their sequences if they have one.  tokenizer: whose ids.
    context_size: tokens of a window where sequences have no end of their own.
    """

    ids: Any = None
    tokenizer: Any = None
    context_size: int = 128

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text, whose activations do not count."""
        return frozenset() if self.tokenizer is None else frozenset(self.tokenizer.all_special_ids)

    @property
    def bos_id(self) -> int | None:
        return getattr(self.tokenizer, "bos_token_id", None)

    def check(self, ids: np.ndarray | None) -> None:
        """Raise EPError for ids that are none of the tokenizer's, or below the one that stands for an unknown token."""
        most = np.iinfo(np.int32).max if self.tokenizer is None else len(self.tokenizer)
        if ids is not None and len(ids) and not NO_TOKEN <= ids.min() <= ids.max() < most:
            wrong = ids.max() if ids.max() >= most else ids.min()
            raise EPError(
                f"token id {wrong} is none of {'the' if self.tokenizer is None else f'the {most:,} of the'} tokenizer; "
                "give the one that cut the text (tokenizer=), and ids as it gave them"
            )

    @cached_property
    def flat(self) -> tuple[np.ndarray, int | None] | None:
        """All ids one after another, int32, and the length of the sequences if all have one."""
        if self.ids is None:
            return None
        parts = [_integers(block) for block in self._parts()]
        sizes = {part.shape[1] for part in parts if part.ndim == 2}
        same = len(sizes) == 1 and all(part.ndim == 2 for part in parts)
        return np.concatenate([part.reshape(-1) for part in parts]), sizes.pop() if same else None

    def _parts(self) -> Iterator[Any]:
        ids = self.ids
        if isinstance(ids, str | Path) or (isinstance(ids, list) and ids and isinstance(ids[0], str | Path)):
            yield from read_ids([ids] if isinstance(ids, str | Path) else ids)
        elif isinstance(ids, list | tuple) and ids and not isinstance(ids[0], int):
            yield from ids
        else:
            yield ids


def _integers(block: Any) -> np.ndarray:
    array = block.numpy(force=True) if isinstance(block, torch.Tensor) else np.asarray(block)
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        raise EPError(f"token ids are whole numbers [n] or [sequences, s]; got {array.dtype} {list(array.shape)}")
    return array.astype(np.int32)


@dataclass(frozen=True)
class Given:
    """Activations to be streamed from the start each time.

    name: for people; does not depend on where files lie.  start: gives blocks, each with the name of what it is of.
    """

    name: str
    start: Callable[[], Iterator[tuple[str, Block]]]
    tokens: Tokens = Tokens()

    @cached_property
    def _first(self) -> tuple[Rows, Block]:
        for _, block in self.start():
            if len(block.x):
                return intake(block.x), block
        raise EPError(f"{self.name} holds no activations")

    @property
    def width(self) -> int:
        return self._first[0].width

    @property
    def dtype(self) -> str:
        """Of the numbers as they were stored."""
        return str(self._first[0].values.dtype).removeprefix("torch.")

    @property
    def array(self) -> str:
        """Name of the array or column; empty where it has none."""
        return self._first[1].name

    @property
    def has_ids(self) -> bool:
        return self.tokens.ids is not None or self._first[1].ids is not None

    @cached_property
    def context_size(self) -> int | None:
        """Tokens of a window; None where activations stand alone."""
        leading = self._first[0].leading
        if len(leading) == 2:
            return leading[1]
        if not self.has_ids:
            return None
        size = self.tokens.flat[1] if self.tokens.flat is not None else None
        return size or self.tokens.context_size

    def chunks(self, max_rows: int) -> Iterator[Chunk]:
        """Chunks with their activations, of at most so many activations of tokens together."""
        rows_of_chunk = max(1, min(_ROWS, _CHUNK_BYTES // (4 * self.width)))
        digest, read = hashlib.sha256(), 0
        held: Chunk | None = None
        end = "text"
        for windows, x_nd in _joined(self._sequences(), rows_of_chunk):
            lengths = np.array([len(window.ids) for window in windows])
            counted = np.cumsum(lengths - [window.prefix for window in windows])
            fitting = int(np.searchsorted(counted, max_rows - read, side="right"))
            if fitting < len(windows):
                end, windows, x_nd = "budget", windows[:fitting], x_nd[: int(lengths[:fitting].sum())]
            if windows:
                if held is not None:
                    yield held
                tokens = int(counted[fitting - 1])
                read += tokens
                digest.update(np.concatenate([window.ids for window in windows]).astype("<i4").tobytes())
                digest.update(x_nd.numpy().data)
                special = self.tokens.special_ids
                held = Chunk(windows, special, tokens, read, digest.hexdigest(), None, x_nd=x_nd)
            if end == "budget":
                break
        if held is not None:
            yield replace(held, last=end)

    def _sequences(self) -> Sequences:
        """Windows of at most a chunk's rows, with their activations [n, d] float32, in order."""
        known, at = self.tokens.flat, 0
        splitter = _Splitter(self)
        for name, block in self.start():
            rows = intake(block.x)
            if rows.width != self.width:
                raise DataError(
                    f"{name} has activations of width {rows.width}, those before it {self.width}; give those of one "
                    "place in one model"
                )
            s = _positions(block.x)
            step = max(1, _ROWS // s) * s
            for start in range(0, len(rows), step):
                x_nd = rows[start : start + step].cpu()
                ids = None if block.ids is None else _integers(block.ids).reshape(-1)[start : start + step]
                if known is not None:
                    ids = known[0][at : at + len(x_nd)]
                    if len(ids) < len(x_nd):
                        raise EPError(f"there are {len(known[0]):,} token ids, and more activations; expected one each")
                at += len(x_nd)
                self.tokens.check(ids)
                yield splitter(name, block, start, x_nd, ids=ids)
            _forget(block.x)
        yield splitter.rest()
        if known is not None and at != len(known[0]):
            raise EPError(f"there are {len(known[0]):,} token ids for {at:,} activations; expected one each")


class _Splitter:
    """Cuts rows into windows: a row, a sequence, or tokens up to the next document, BOS or end of the context."""

    def __init__(self, given: Given):
        self.tokens, self.size = given.tokens, given.context_size or 1
        self.name, self.first = "", 0  # entries of what has this name that were seen
        self.kept: _Run | None = None

    def __call__(
        self, name: str, block: Block, start: int, x_nd: torch.Tensor, *, ids: np.ndarray | None
    ) -> tuple[list[Window], torch.Tensor]:
        """Windows of rows of a block, from one on; of tokens one after another, the last window is kept back."""
        if name != self.name:
            self.name, self.first = name, 0
        s = _positions(block.x)
        known = np.full(len(x_nd), NO_TOKEN, np.int32) if ids is None else ids
        entries = range(start // s, (start + len(x_nd)) // s)
        at = np.arange(entries.start, entries.stop) + self.first
        if entries.stop == len(block.x):
            self.first += len(block.x)
        if s == 1 and ids is not None:
            documents = [name] * len(at) if block.documents is None else block.documents[entries.start : entries.stop]
            run = _Run(np.array(documents, object), at, ids, x_nd, block.documents is not None)
            return self._running(run if self.kept is None else self.kept.followed_by(run))
        documents = block.documents
        names = [f"{name}:{i}" for i in at] if documents is None else documents[entries.start : entries.stop]
        return [self._window(document, 0, known[i * s : (i + 1) * s]) for i, document in enumerate(names)], x_nd

    def _window(self, document: str, start: int, ids: np.ndarray) -> Window:
        prefix = int(len(ids) > 1 and int(ids[0]) == self.tokens.bos_id)
        return Window(document, start, ids.copy(), prefix)

    def _running(self, run: _Run) -> tuple[list[Window], torch.Tensor]:
        new_n = np.ones(len(run.ids), bool)
        new_n[1:] = run.document_n[1:] != run.document_n[:-1]
        if self.tokens.bos_id is not None:
            new_n |= run.ids == self.tokens.bos_id
        begins = np.append(np.flatnonzero(new_n), len(new_n)).tolist()
        cuts = [i for a, b in itertools.pairwise(begins) for i in range(a, b, self.size)]
        self.kept = run.part(cuts[-1], len(new_n))
        return [run.window(self, a, b) for a, b in itertools.pairwise(cuts)], run.x_nd[: cuts[-1]]

    def rest(self) -> tuple[list[Window], torch.Tensor]:
        """The window that was kept back."""
        if self.kept is None:
            return [], torch.zeros(0, 1)
        run = self.kept
        return [run.window(self, 0, len(run.ids))], run.x_nd


@dataclass(frozen=True)
class _Run:
    """Tokens one after another. at_n: where in what is named.  named: whether documents were."""

    document_n: np.ndarray
    at_n: np.ndarray
    ids: np.ndarray
    x_nd: torch.Tensor
    named: bool

    def followed_by(self, other: _Run) -> _Run:
        return _Run(
            np.concatenate([self.document_n, other.document_n]),
            np.concatenate([self.at_n, other.at_n]),
            np.concatenate([self.ids, other.ids]),
            torch.cat([self.x_nd, other.x_nd]),
            other.named,
        )

    def part(self, a: int, b: int) -> _Run:
        return _Run(self.document_n[a:b], self.at_n[a:b], self.ids[a:b], self.x_nd[a:b].clone(), self.named)

    def window(self, splitter: _Splitter, a: int, b: int) -> Window:
        document, at = str(self.document_n[a]), int(self.at_n[a])
        return splitter._window(document if self.named else f"{document}:{at}", at if self.named else 0, self.ids[a:b])


def _positions(x: Any) -> int:
    """Activations of an entry."""
    return int(np.prod(x.shape[1:-1], dtype=np.int64))


def _joined(sequences: Sequences, rows: int) -> Sequences:
    """Sequences taken together until there are at least so many rows, whatever blocks they came in."""
    windows: list[Window] = []
    parts: list[torch.Tensor] = []
    held = 0
    for some, x_nd in sequences:
        ends = np.cumsum([len(window.ids) for window in some])
        begin = start = 0
        while begin < len(some):
            stop = min(int(np.searchsorted(ends, start + rows - held)) + 1, len(some))
            end = int(ends[stop - 1])
            windows += some[begin:stop]
            parts.append(x_nd[start:end])
            held += end - start
            begin, start = stop, end
            if held >= rows:
                yield windows, torch.cat(parts)
                windows, parts, held = [], [], 0
    if windows:
        yield windows, torch.cat(parts)


def _forget(x: Any) -> None:
    """Give the pages of a file that is mapped, and only read, back: they would count as the process's own."""
    held = getattr(x, "_mmap", None)
    if isinstance(x, np.memmap) and x.mode == "r" and held is not None and hasattr(mmap, "MADV_DONTNEED"):
        held.madvise(mmap.MADV_DONTNEED)


def given(x: Any, tokens: Tokens | None = None, *, field: str | None = None) -> Given:
    """Activations in whatever they are held.

    Args:
        x: a path of a file or folder, or several; an array, tensor or frame [n, d] or [sequences, s, d]; or an iterable
            of these, also of pairs with token ids. An iterator can be read once.
        tokens: what is known of the tokens.
        field: which array or column of a file holds them.

    Raises:
        EPError: nothing there, or of another kind.
    """
    tokens = tokens or Tokens()
    if isinstance(x, str | Path):
        x = [x]
    if isinstance(x, list | tuple) and x and all(isinstance(each, str | Path) for each in x):
        found = shards(x)
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        name = ", ".join(shard.name for shard in found[:3]) + more

        def blocks() -> Iterator[tuple[str, Block]]:
            for shard in found:
                yield from ((shard.name, block) for block in shard.blocks(field))
            if new := [shard.name for shard in shards(x) if shard not in found]:
                raise DataError(f"{new[0]} came while {name} was read; wait until all is there, then begin anew")

        return Given(name, blocks, tokens)
    if hasattr(x, "shape") or hasattr(x, "to_numpy") or (isinstance(x, list | tuple) and not _holds_matrices(x)):
        array = _array(x)
        array = array[None] if array.ndim == 1 else array
        step = max(1, _ROWS // _positions(array))
        return Given(
            "array", lambda: (("array", Block(array[i : i + step])) for i in range(0, len(array), step)), tokens
        )
    if not isinstance(x, Iterable):
        raise EPError(
            f"activations were given as {type(x).__name__}; expected paths, an array [n, d], or an iterable of arrays"
        )
    return Given("arrays", _blocks_of(x), tokens)


def _array(x: Any) -> Any:
    """What holds numbers, of at least one axis, as numpy or torch slice it; nothing is copied where it can be."""
    if not isinstance(x, torch.Tensor | np.ndarray):
        x = x.to_numpy() if hasattr(x, "to_numpy") else np.asarray(x)
    intake(x[:1] if x.ndim > 1 else x)  # refuses what holds no numbers
    return x


def _holds_matrices(x: Sequence[Any]) -> bool:
    first = x[0] if len(x) else None
    return isinstance(first, tuple) or getattr(first, "ndim", 0) >= 2


def _blocks_of(x: Iterable[Any]) -> Callable[[], Iterator[tuple[str, Block]]]:
    """Blocks of an iterable of arrays; of an iterator the first is looked at before it is read."""
    first = list(itertools.islice(x, 1)) if isinstance(x, Iterator) else []
    read: list[bool] = []

    def rest() -> Iterator[Any]:
        read.append(True)
        yield from x

    def start() -> Iterator[tuple[str, Block]]:
        if read and isinstance(x, Iterator):
            raise EPError("the activations came as an iterator, which is used up. Give a list to read them again.")
        for number, item in enumerate(itertools.chain(first, rest())):
            array, ids = item if isinstance(item, tuple) else (item, None)
            array = _array(array)
            yield f"array {number}", Block(array[None] if array.ndim == 1 else array, ids)

    return start


class At:
    """Activations that chunks have with them, as those at sites. Raises Stop between two chunks."""

    def __init__(self, sites: Sequence[str], progress: Progress):
        self.sites, self.progress = sites, progress

    def __call__(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, dict[str, torch.Tensor]]]:
        for chunk in chunks:
            self.progress.check()
            assert chunk.x_nd is not None
            yield replace(chunk, x_nd=None), dict.fromkeys(self.sites, chunk.x_nd[chunk.kept])


def tokens_of(ids: Any, tokenizer: Any, context_size: int = 128) -> Tokens:
    """What is known of tokens, the tokenizer read by its name if it is one."""
    if isinstance(tokenizer, str | Path):
        tokenizer = find(tokenizer, None).tokenizer
    return Tokens(ids, tokenizer, context_size)
