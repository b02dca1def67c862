"""Documents to token windows: the unit a model reads. Every token knows its document and position."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import EPError
from .chat import in_template, rendered
from .conversations import Conversation
from .readers import Document

# A text longer than this (characters) is tokenised in pieces, and texts are tokenised in batches of about as
# many characters, so that the tokenizer's working memory stays bounded. Measured on a document of 20 million:
# nothing to speak of with pieces of 250,000, a gigabyte (and half the speed) with pieces of a million.
PIECE_CHARACTERS = 250_000
BATCH_CHARACTERS = 250_000
BATCH_TEXTS = 1_024


@dataclass(frozen=True)
class WindowConfig:
    """How documents are cut into windows."""

    context_size: int = 128  # tokens of text in a window at most; a prepended BOS comes on top
    prepend_bos: bool = True  # put the BOS token before the text of every window
    min_tokens: int = 1  # tokens; windows with fewer that are not special are left out
    shuffle_buffer: int = 10_000  # windows held back to be given in random order; 0 or 1 keeps the order
    seed: int = 0  # of the shuffle
    chat: bool = False  # each document is a user's message in the chat template, which has its own BOS

    def __post_init__(self) -> None:
        for name, least in (("context_size", 1), ("min_tokens", 1), ("shuffle_buffer", 0), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise EPError(f"{name} is {value}, expected at least {least}.")
        if self.chat and self.prepend_bos:
            raise EPError("chat templates have their own BOS; with chat, prepend_bos must be False (--no-bos)")
        if self.min_tokens > self.context_size:
            raise EPError(
                f"min_tokens is {self.min_tokens} and context_size {self.context_size}: no window can be so "
                "long. Lower min_tokens or raise context_size."
            )


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive tokens of one document, perhaps after a BOS.

    `ids` is int32 [n]. `start` is the offset in the document, in tokens, of the first one that is the
    document's own: `ids[prefix]`, where `prefix` (0 or 1) counts the BOS put before it.
    """

    document: str
    start: int
    ids: np.ndarray
    prefix: int

    @property
    def positions(self) -> np.ndarray:
        """int32 [n]: the offset in the document of each token of `ids`, -1 for a prepended BOS."""
        positions = np.arange(len(self.ids), dtype=np.int32) + (self.start - self.prefix)
        positions[: self.prefix] = -1
        return positions


def windows(
    documents: Iterable[Document],
    tokenizer: Any,
    config: WindowConfig,
    *,
    bos_id: int,
    special_ids: frozenset[int],
) -> Iterator[Window]:
    """Windows of all documents, in an order that depends on the documents and `config` only.

    Windows of one document are consecutive, do not overlap, and never cross into another. Documents of more
    than 250,000 characters are tokenised in pieces cut before a space where possible, so their tokens at
    the cuts may differ from those of the whole. A window that would begin with a BOS of the document's own
    (in mid-document) gets no second one. Raises EPError when a document begins with BOS and another is to be
    prepended.
    """
    return _shuffled(_in_order(documents, tokenizer, config, bos_id, special_ids), config)


def special_mask(ids: np.ndarray, special_ids: Collection[int]) -> np.ndarray:
    """bool, shaped as `ids`: True where the token is special, by its id and wherever it stands."""
    return np.isin(ids, np.fromiter(special_ids, dtype=np.int64, count=len(special_ids)))


def _in_order(
    documents: Iterable[Document],
    tokenizer: Any,
    config: WindowConfig,
    bos_id: int,
    special_ids: frozenset[int],
) -> Iterator[Window]:
    current: Document | None = None
    start, rest = 0, np.empty(0, np.int32)
    for document, first, ids in _tokenised(documents, tokenizer, config.chat):
        if first:
            if current is not None:
                yield from _cut(current, start, rest, config, bos_id, special_ids)
            if config.prepend_bos and len(ids) and ids[0] == bos_id:
                raise EPError(
                    f"document {document.id} begins with the BOS token (id {bos_id}) already, and another "
                    "would be prepended. Pass prepend_bos=False (--no-bos), or take it out of the text."
                )
            current, start, rest = document, 0, np.empty(0, np.int32)
        # A further piece of the same document joins what is left of the one before.
        rest = np.concatenate([rest, ids])
        whole = len(rest) - len(rest) % config.context_size
        yield from _cut(document, start, rest[:whole], config, bos_id, special_ids)
        start, rest = start + whole, rest[whole:]
    if current is not None:
        yield from _cut(current, start, rest, config, bos_id, special_ids)


def _cut(
    document: Document,
    start: int,
    ids: np.ndarray,
    config: WindowConfig,
    bos_id: int,
    special_ids: frozenset[int],
) -> Iterator[Window]:
    bos = np.array([bos_id], np.int32)
    ordinary = ~special_mask(ids, special_ids)
    for offset in range(0, len(ids), config.context_size):
        own = ids[offset : offset + config.context_size]
        if np.count_nonzero(ordinary[offset : offset + config.context_size]) < config.min_tokens:
            continue
        prefix = int(config.prepend_bos and own[0] != bos_id)
        # A copy in either case: a view would keep the whole document's tokens alive in the shuffle buffer.
        yield Window(document.id, start + offset, np.concatenate([bos, own]) if prefix else own.copy(), prefix)


def _as_read(document: Document, tokenizer: Any, chat: bool) -> str:
    """A document as the model is to see it."""
    if not chat:
        if document.turns:
            raise EPError(
                f"document {document.id} is a conversation; pass chat=True (--chat --no-bos) to have it in the model's "
                "chat template, or name the field with the text (field=)"
            )
        return document.text
    if document.turns:
        return rendered(tokenizer, Conversation(document.turns, document.tools)).text
    return in_template(tokenizer, document.text)


def _tokenised(
    documents: Iterable[Document], tokenizer: Any, chat: bool
) -> Iterator[tuple[Document, bool, np.ndarray]]:
    """(document, whether this is its first piece, ids of the piece), tokenised in batches."""
    batch: list[tuple[Document, bool, str]] = []
    characters = 0
    for document in documents:
        text = _as_read(document, tokenizer, chat)
        for number, piece in enumerate(pieces(text, PIECE_CHARACTERS)):
            batch.append((document, number == 0, piece))
            characters += len(piece)
            if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_TEXTS:
                yield from _tokenised_batch(batch, tokenizer)
                batch, characters = [], 0
    if batch:
        yield from _tokenised_batch(batch, tokenizer)


def _tokenised_batch(
    batch: list[tuple[Document, bool, str]], tokenizer: Any
) -> Iterator[tuple[Document, bool, np.ndarray]]:
    encoded = tokenizer(
        [piece for _, _, piece in batch],
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # no "longer than the maximum length": windows are cut afterwards
    )
    for (document, first, _), ids in zip(batch, encoded["input_ids"], strict=True):
        yield document, first, np.asarray(ids, dtype=np.int32)


def pieces(text: str, limit: int) -> Iterator[str]:
    """`text` in pieces of at most `limit` characters, cut before a lone space in their last tenth if any.

    Byte-level tokenizers begin words at such a space, so that the cut changes no token.
    """
    start = 0
    while len(text) - start > limit:
        end = start + limit
        cut = text.rfind(" ", start + limit - limit // 10, end)
        # Not inside a run of white space, which tokenizers may take as one.
        while cut > start and (text[cut - 1].isspace() or text[cut + 1].isspace()):
            cut = text.rfind(" ", start + limit - limit // 10, cut)
        end = cut if cut > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def _shuffled(ordered: Iterable[Window], config: WindowConfig) -> Iterator[Window]:
    """A full buffer gives a window drawn at random for each that comes in; then it empties alike."""
    if config.shuffle_buffer <= 1:
        yield from ordered
        return
    # The raw stream of PCG64 is promised to stay the same in every NumPy; methods of Generator are not.
    raw = np.random.PCG64(config.seed).random_raw

    def below(n: int) -> int:
        return (int(raw()) * n) >> 64

    buffer: list[Window] = []
    for window in ordered:
        if len(buffer) < config.shuffle_buffer:
            buffer.append(window)
            continue
        index = below(len(buffer))
        out, buffer[index] = buffer[index], window
        yield out
    while buffer:
        index = below(len(buffer))
        buffer[index], buffer[-1] = buffer[-1], buffer[index]
        yield buffer.pop()
