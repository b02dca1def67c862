"""Documents to token windows: the unit a model reads. Every token knows its document and position."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..errors import EPError
from .chat import Span, ids_and_offsets, in_template, rendered, token_roles
from .conversations import Conversation
from .marks import document_marks
from .readers import Document
from .windowing import Windowing

# A text longer than this (characters) is tokenised in pieces, and texts are tokenised in batches of about as
# many characters, so that the tokenizer's working memory stays bounded. Measured on a document of 20 million:
# nothing to speak of with pieces of 250,000, a gigabyte (and half the speed) with pieces of a million.
PIECE_CHARACTERS = 250_000
BATCH_CHARACTERS = 250_000
BATCH_TEXTS = 1_024
WINDOWS_POOLED = 128  # of a document at most; a longer one is pooled in parts

# Of a document: whether it is the first, its ids, and which of them may count.
Piece = tuple[Document, bool, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive tokens of one document, perhaps after a BOS.

    `ids` is int32 [n]. `start` is the offset in the document, in tokens, of the first one that is the
    document's own: `ids[prefix]`, where `prefix` (0 or 1) counts the BOS put before it.
    `counts`, bool [n], tells which tokens count; None: all that are not special.
    """

    document: str
    start: int
    ids: np.ndarray
    prefix: int
    counts: np.ndarray | None = None

    @property
    def positions(self) -> np.ndarray:
        """int32 [n]: the offset in the document of each token of `ids`, -1 for a prepended BOS."""
        positions = np.arange(len(self.ids), dtype=np.int32) + (self.start - self.prefix)
        positions[: self.prefix] = -1
        return positions


def windows(
    documents: Iterable[Document],
    tokenizer: Any,
    windowing: Windowing,
    *,
    bos_id: int,
    special_ids: frozenset[int],
) -> Iterator[Window]:
    """Windows of all documents, in an order that depends on the documents and the windowing only.

    Windows of one document are consecutive, do not overlap, and never cross into another. Documents of more
    than 250,000 characters are tokenised in pieces cut before a space where possible, so their tokens at
    the cuts may differ from those of the whole. A window that would begin with a BOS of the document's own
    (in mid-document) gets no second one; one without an ordinary token is left out.

    Raises:
        EPError: a document begins with BOS, and another is to be prepended; or it is a conversation, without chat.
    """
    w = windowing
    cut = partial(_cut, windowing=w, bos_id=bos_id, special_ids=special_ids)
    batches = _tokenised(documents, tokenizer, w)
    checked = _single_bos(batches, bos_id) if w.prepend_bos else batches
    ordered = _in_order(checked, cut, w.context_size)
    if w.pool:
        return itertools.chain.from_iterable(_shuffled(by_document(ordered), w))
    return _shuffled(ordered, w)


def special_mask(ids: np.ndarray, special_ids: Collection[int]) -> np.ndarray:
    """bool, shaped as `ids`: True where the token is special, by its id and wherever it stands."""
    return np.isin(ids, np.fromiter(special_ids, dtype=np.int64, count=len(special_ids)))


def _single_bos(pieces_of: Iterable[Piece], bos_id: int) -> Iterator[Piece]:
    """Pieces of documents none of which begins with BOS."""
    for document, first, ids, said in pieces_of:
        if first and len(ids) and ids[0] == bos_id:
            raise EPError(
                f"document {document.id} begins with the BOS token (id {bos_id}) already, and another "
                "would be prepended. Pass prepend_bos=False (--no-bos), or take it out of the text."
            )
        yield document, first, ids, said


def _in_order(
    pieces_of: Iterable[Piece], cut: Callable[[Document, int, np.ndarray, np.ndarray], Iterator[Window]], size: int
) -> Iterator[Window]:
    current: Document | None = None
    start, rest, rest_said = 0, np.empty(0, np.int32), np.empty(0, bool)
    for document, first, ids, said in pieces_of:
        if first:
            if current is not None:
                yield from cut(current, start, rest, rest_said)
            current, start, rest, rest_said = document, 0, np.empty(0, np.int32), np.empty(0, bool)
        # A further piece of the same document joins what is left of the one before.
        rest, rest_said = np.concatenate([rest, ids]), np.concatenate([rest_said, said])
        whole = len(rest) - len(rest) % size
        yield from cut(document, start, rest[:whole], rest_said[:whole])
        start, rest, rest_said = start + whole, rest[whole:], rest_said[whole:]
    if current is not None:
        yield from cut(current, start, rest, rest_said)


def _cut(
    document: Document,
    start: int,
    ids: np.ndarray,
    said: np.ndarray,
    *,
    windowing: Windowing,
    bos_id: int,
    special_ids: frozenset[int],
) -> Iterator[Window]:
    bos, size = np.array([bos_id], np.int32), windowing.context_size
    ordinary = _counting(~special_mask(ids, special_ids) & said, start, windowing)
    for offset in range(0, len(ids), size):
        part = slice(offset, offset + size)
        if not ordinary[part].any():
            continue
        prefix = int(windowing.prepend_bos and ids[offset] != bos_id)
        counts = None
        if windowing.positions != "all" or windowing.roles:
            counts = np.concatenate([np.zeros(prefix, bool), ordinary[part]])
        # A copy in either case: a view would keep the whole document's tokens alive in the shuffle buffer.
        own = np.concatenate([bos, ids[part]]) if prefix else ids[part].copy()
        yield Window(document.id, start + offset, own, prefix, counts)


def _counting(ordinary: np.ndarray, start: int, windowing: Windowing) -> np.ndarray:
    """Which tokens count, of those of a document from one on that might."""
    rule, _, step = windowing.positions.partition(":")
    if rule in ("all", "mask"):
        return ordinary
    if rule == "every":
        return ordinary & (np.arange(start, start + len(ordinary)) % int(step) == 0)
    counting = np.zeros_like(ordinary)
    for offset in range(0, len(ordinary), windowing.context_size):
        here = np.flatnonzero(ordinary[offset : offset + windowing.context_size])
        if len(here):
            counting[offset + (here[-1] if rule == "last" else here[0])] = True
    return counting


def _as_read(document: Document, tokenizer: Any, windowing: Windowing) -> str:
    """A document as the model is to see it."""
    if not windowing.chat:
        if document.turns:
            raise EPError(
                f"document {document.id} is a conversation; pass chat=True (--chat --no-bos) to have it in the model's "
                "chat template, or name the field with the text (field=)"
            )
        return document.text
    if document.turns:
        return rendered(tokenizer, Conversation(document.turns, document.tools), windowing.template_date).text
    return in_template(tokenizer, document.text, windowing.template_date)


def _tokenised(documents: Iterable[Document], tokenizer: Any, windowing: Windowing) -> Iterator[Piece]:
    """Pieces of documents, tokenised in batches."""
    if windowing.roles or windowing.mask:
        yield from _said(documents, tokenizer, windowing)
        return
    batch: list[tuple[Document, bool, str]] = []
    characters = 0
    for document in documents:
        text = _as_read(document, tokenizer, windowing)
        for number, piece in enumerate(pieces(text, PIECE_CHARACTERS)):
            batch.append((document, number == 0, piece))
            characters += len(piece)
            if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_TEXTS:
                yield from _tokenised_batch(batch, tokenizer)
                batch, characters = [], 0
    if batch:
        yield from _tokenised_batch(batch, tokenizer)


def _tokenised_batch(batch: list[tuple[Document, bool, str]], tokenizer: Any) -> Iterator[Piece]:
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
        yield document, first, np.asarray(ids, dtype=np.int32), np.ones(len(ids), bool)


def _said(documents: Iterable[Document], tokenizer: Any, windowing: Windowing) -> Iterator[Piece]:
    """Documents whole, in which only what some roles say, or a field marks, may count. EPError if that is nothing."""
    others, found, read = set[str](), False, False
    for document in documents:
        ids, offsets, spans = _located(document, tokenizer, windowing)
        said = np.ones(len(ids), bool)
        if windowing.roles:
            roles = token_roles(spans, offsets)
            said &= np.array([role in windowing.roles for role in roles], bool)
            others |= {role for role in roles if role is not None}
        if windowing.mask:
            said &= document_marks(document, spans, offsets, windowing.mask)
        found, read = found or bool(said.any()), True
        yield document, True, ids, said
    if windowing.roles and others and not others & {*windowing.roles}:
        raise EPError(
            f"no token is of {', '.join(windowing.roles)}: the conversations have {', '.join(sorted(others))}; name "
            "some of these with --roles (roles=)"
        )
    if read and not found:
        raise EPError(f"{windowing.mask or ', '.join(windowing.roles)} marks no token of any document")


def _located(
    document: Document, tokenizer: Any, windowing: Windowing
) -> tuple[np.ndarray, list[tuple[int, int]], tuple[Span, ...]]:
    """The ids of a document as the model is to see it, where each token lies in it, and what the turns say."""
    if not windowing.chat:
        text, spans = _as_read(document, tokenizer, windowing), (Span(0, len(document.text), "user", 0),)
    else:
        prompt = rendered(tokenizer, Conversation(document.said, document.tools), windowing.template_date)
        text, spans = prompt.text, prompt.spans
    return *ids_and_offsets(tokenizer, text), spans


def by_document(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Windows one after another of a document together, as they are pooled: of a long one, so many at most."""
    held: list[Window] = []
    for window in windows:
        follows = bool(held) and held[-1].document == window.document and held[-1].start < window.start
        if held and (not follows or len(held) == WINDOWS_POOLED):
            yield held
            held = []
        held.append(window)
    if held:
        yield held


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


Item = TypeVar("Item")


def _shuffled(ordered: Iterable[Item], windowing: Windowing) -> Iterator[Item]:
    """A full buffer gives an item drawn at random for each that comes in; then it empties alike."""
    if windowing.shuffle_buffer <= 1:
        yield from ordered
        return
    # The raw stream of PCG64 is promised to stay the same in every NumPy; methods of Generator are not.
    raw = np.random.PCG64(windowing.seed).random_raw

    def below(n: int) -> int:
        return (int(raw()) * n) >> 64

    buffer: list[Item] = []
    for item in ordered:
        if len(buffer) < windowing.shuffle_buffer:
            buffer.append(item)
            continue
        index = below(len(buffer))
        out, buffer[index] = buffer[index], item
        yield out
    while buffer:
        index = below(len(buffer))
        buffer[index], buffer[-1] = buffer[-1], buffer[index]
        yield buffer.pop()
