"""The same characters of text, as two models or two places of one model see them.

Windows are cut by the first model's tokenizer, as its dictionary's were, and the second model reads the text of
each. Where the tokenizers differ, a token of one goes with the token of the other that ends at the same character:
both models have then read exactly the same text. Tokens without such a partner are counted and left out.

Shapes: n aligned tokens, d = d_model of the first, e of the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ..demo.corpus import documents_of
from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..folder.model import check_model, model_of
from ..models.capture import extract_rows
from ..models.identity import same_model, special_token_ids
from ..models.load import bos_id
from ..models.loaded import LoadedModel
from ..models.sites import Site, resolve_sites
from ..text.windows import special_mask

MAX_TOKENS = 50_000
WINDOWS_PER_DOCUMENT = 4  # at most, so that a few long documents do not make up the text
_CONTEXT = 160  # characters kept before a token's end

_Tokens = tuple[np.ndarray, np.ndarray]  # ids, and the characters each begins and ends at


@dataclass(frozen=True, eq=False)
class Place:
    """Where activations are taken: a model and a site, how windows begin there, and which of their tokens count."""

    loaded: LoadedModel
    site: Site
    context_size: int
    prepend_bos: bool
    positions: str = "all"

    @classmethod
    def of(cls, dictionary: StoredDictionary, loaded: LoadedModel) -> Place:
        """The place a dictionary was built at; raises EPError if the model is another one."""
        check_model(dictionary, loaded)
        cut = dictionary.config.text.windowing
        site = resolve_sites(dictionary.config.site.name, loaded.architecture)[0]
        return cls(loaded, site, cut.context_size, cut.prepend_bos, cut.positions)

    def window(self, ids: list[int] | np.ndarray) -> np.ndarray:
        """Token ids with the BOS in front, if windows have one here."""
        return np.array([bos_id(self.loaded), *ids] if self.prepend_bos else ids, np.int64)

    @property
    def special(self) -> frozenset[int]:
        """Ids of tokens that give no activations."""
        return special_token_ids(self.loaded.tokenizer) | ({bos_id(self.loaded)} if self.prepend_bos else set())


@dataclass(frozen=True, eq=False)
class CommonTokens:
    """Aligned tokens of a text with their activations at two places.

    Attributes:
        a_nd, b_ne: float32; the same array where both places are one.
        token_n: the first model's tokens.
        context_n: up to 160 characters, ending with the token.
        document_n: number of the document.
        last_n: whether it is the last aligned token of its window.
        read: tokens of text that the first model read; `read - n` of them have no partner.
        source: name of the text.
    """

    a_nd: Float32[np.ndarray, "n d"]
    b_ne: Float32[np.ndarray, "n e"]
    token_n: list[str]
    context_n: list[str]
    document_n: Int64[np.ndarray, " n"]
    last_n: Bool[np.ndarray, " n"]
    read: int
    source: str

    def __len__(self) -> int:
        return len(self.a_nd)

    def __getitem__(self, rows: np.ndarray) -> CommonTokens:
        """Some of the tokens, by index."""
        a_nd = self.a_nd[rows]
        return replace(
            self,
            a_nd=a_nd,
            b_ne=a_nd if self.b_ne is self.a_nd else self.b_ne[rows],
            token_n=[self.token_n[i] for i in rows],
            context_n=[self.context_n[i] for i in rows],
            document_n=self.document_n[rows],
            last_n=self.last_n[rows],
        )


def places(
    a: StoredDictionary, b: StoredDictionary, model_a: Any = None, model_b: Any = None, *, device: str = "auto"
) -> tuple[Place, Place]:
    """The places of two dictionaries, a shared model loaded once; `model_*` say where it is, or are it."""
    first = second = model_of(a, model_a, device=device)
    if not same_model(a.config.model, b.config.model):
        second = model_of(b, model_b, device=device)
    return Place.of(a, first), Place.of(b, second)


@dataclass(frozen=True, eq=False)
class _Pair:
    """One window for both models: token ids, and indices of the aligned tokens in each."""

    first: np.ndarray
    second: np.ndarray
    at_first: np.ndarray
    at_second: np.ndarray
    tokens: list[str]
    contexts: list[str]
    document: int


def common_tokens(first: Place, second: Place, text: Any, *, field: str = "text", max_tokens: int = MAX_TOKENS):
    """Read a text with two places' models.

    Args:
        first: the one place.
        second: the other.
        text: as `ep.build` takes it; None for the packaged text.
        field: column or key that holds the text.
        max_tokens: to read, of the first tokenizer; at most four windows of a document.

    Returns:
        CommonTokens of all activations that have a direction at both places.

    Raises:
        EPError: no text, no aligned token, or different tokenizers one of which cannot tell characters.
    """
    source = documents_of(text, field=field)
    pairs = list(_pairs(source, first, second, max_tokens))
    if not any(len(pair.at_first) for pair in pairs):
        raise EPError(f"{source.name} gave no token that both models end at the same character; give more text")
    a_nd, b_ne = _activations(first, second, pairs)
    last = [np.arange(len(pair.at_first)) == len(pair.at_first) - 1 for pair in pairs]
    everything = CommonTokens(
        a_nd=a_nd,
        b_ne=b_ne,
        token_n=[token for pair in pairs for token in pair.tokens],
        context_n=[context for pair in pairs for context in pair.contexts],
        document_n=np.repeat([pair.document for pair in pairs], [len(pair.at_first) for pair in pairs]),
        last_n=np.concatenate(last),
        read=sum(len(pair.first) - int(first.prepend_bos) for pair in pairs),
        source=source.name,
    )
    finite = np.isfinite(a_nd).all(axis=1) & np.isfinite(b_ne).all(axis=1)
    return everything if finite.all() else everything[np.flatnonzero(finite)]


def _pairs(source: Any, first: Place, second: Place, max_tokens: int) -> Iterator[_Pair]:
    same = first.loaded.info.tokenizer_hash == second.loaded.info.tokenizer_hash
    read = 0
    for number, document in enumerate(source):
        text = document.text[: 64 * first.context_size * WINDOWS_PER_DOCUMENT]
        ids, spans = tokenised(first.loaded.tokenizer, text)
        for start in range(0, min(len(ids), WINDOWS_PER_DOCUMENT * first.context_size), first.context_size):
            if read >= max_tokens:
                return
            part = slice(start, min(start + first.context_size, start + max_tokens - read))
            first_part = other = ids[part], spans[part]
            if not same:
                begin, end = int(first_part[1][0, 0]), int(first_part[1][-1, 1])
                other_ids, other_spans = tokenised(second.loaded.tokenizer, text[begin:end])
                other = other_ids, other_spans + begin
            read += len(first_part[0])
            yield _pair(first, second, first_part, other, text=text, document=number)


def _pair(first: Place, second: Place, first_part: _Tokens, other: _Tokens, *, text: str, document: int) -> _Pair:
    """A window in the tokens of both; `other` is `own` where they share a tokenizer."""
    (first_ids, first_spans), (other_ids, other_spans) = first_part, other
    i = j = np.arange(len(first_ids))
    if other is not first_part:
        i, j = _aligned(first_spans, other_spans)
    ordinary = ~special_mask(first_ids[i], first.special) & ~special_mask(other_ids[j], second.special)
    i, j = i[ordinary], j[ordinary]
    if first.positions == "last":
        i, j = i[-1:], j[-1:]
    return _Pair(
        first=first.window(first_ids),
        second=second.window(other_ids),
        at_first=i + int(first.prepend_bos),
        at_second=j + int(second.prepend_bos),
        tokens=[text[start:end] for start, end in first_spans[i]],
        contexts=[text[max(0, end - _CONTEXT) : end] for end in first_spans[i, 1]],
        document=document,
    )


def _aligned(a_spans: np.ndarray, b_spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of two tokenisations that end at the same character; the last one, where several end there."""
    # of several tokens in one character, only the last has read it all
    a_last = np.flatnonzero(np.append(a_spans[1:, 1] != a_spans[:-1, 1], True))
    b_last = np.flatnonzero(np.append(b_spans[1:, 1] != b_spans[:-1, 1], True))
    _, i, j = np.intersect1d(a_spans[a_last, 1], b_spans[b_last, 1], return_indices=True)
    return a_last[i], b_last[j]


def tokenised(tokenizer: Any, text: str) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, "t 2"]]:
    """Token ids of a text without special tokens around it, and the characters each begins and ends at."""
    if not getattr(tokenizer, "is_fast", False):
        raise EPError(f"{type(tokenizer).__name__} cannot tell which characters a token stands for; use a fast one")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = np.array(encoded["input_ids"], np.int64)
    return ids, np.array(encoded["offset_mapping"], np.int64).reshape(len(ids), 2)


def _activations(first: Place, second: Place, pairs: list[_Pair]) -> tuple[np.ndarray, np.ndarray]:
    sites = [first.site, second.site] if first.loaded is second.loaded else [first.site]
    a = extract_rows(first.loaded.model, sites, [p.first for p in pairs], [p.at_first for p in pairs])
    if len(sites) == 2:
        return a[first.site], a[second.site]
    b = extract_rows(second.loaded.model, [second.site], [p.second for p in pairs], [p.at_second for p in pairs])
    return a[first.site], b[second.site]
