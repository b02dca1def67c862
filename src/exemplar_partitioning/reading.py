"""A text read through dictionaries: the region of every token, and how far it lies from the exemplar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .errors import EPError
from .models.capture import Extractor
from .models.load import LoadedModel, bos_id, load_model, special_token_ids
from .models.sites import resolve_sites
from .store import StoredDictionary
from .text.readers import Document
from .text.windows import Window, WindowConfig, special_mask, windows


@dataclass(frozen=True)
class TokenReading:
    """One token of a text.

    position: offset in the text, in tokens.  text: its own piece of the text.
    region: nearest exemplar, None for special tokens and activations without a direction.
    distance: cosine distance to it.  within: whether that is within the threshold.
    """

    position: int
    token_id: int
    text: str
    region: int | None
    distance: float | None
    within: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def model_of(dictionary: StoredDictionary, model: str | None = None, *, device: str = "auto") -> LoadedModel:
    """Load the model a dictionary was built from, in its dtype; `model` tells where it is, if it has moved.

    Raises EPError if it cannot be found or is another one; see `check_model`.
    """
    record = dictionary.config.model
    if model is None:
        try:
            loaded = load_model(record.id, dtype=record.dtype, device=device)
        except EPError as error:
            raise type(error)(
                f"the dictionary's model {record.id!r}: {error} Or say where it is with --model."
            ) from error
    else:
        loaded = load_model(model, dtype=record.dtype, device=device)
    check_model(dictionary, loaded)
    return loaded


def check_model(dictionary: StoredDictionary, loaded: LoadedModel) -> None:
    """Raise EPError unless the model is the one the dictionary was built from, naming what differs."""
    mine, theirs = dictionary.config.model, loaded.info
    named = {"weights": "fingerprint", "tokenizer": "tokenizer_hash", "dtype": "dtype", "d_model": "d_model"}
    differing = [
        f"{what} {str(getattr(theirs, name))[:12]} here, {str(getattr(mine, name))[:12]} there"
        for what, name in named.items()
        if getattr(mine, name) != getattr(theirs, name)
    ]
    if differing:
        raise EPError(
            f"{theirs.id} is not the model that {dictionary.path} was built from ({mine.id}): {'; '.join(differing)}"
        )


def read(dictionaries: Sequence[StoredDictionary], loaded: LoadedModel, text: str) -> list[list[TokenReading]]:
    """Read a text once; for each dictionary, every token of the text in order.

    Texts longer than the dictionary's context are cut into windows as they were when it was built. All
    dictionaries must share one model and one windowing. Raises EPError for another model or an empty text.
    """
    first = dictionaries[0].config.text
    for dictionary in dictionaries:
        check_model(dictionary, loaded)
        assert dictionary.config.text.context_size == first.context_size
        assert dictionary.config.text.prepend_bos == first.prepend_bos
        assert dictionary.config.text.chat == first.chat
    config = WindowConfig(first.context_size, first.prepend_bos, shuffle_buffer=0, chat=first.chat)
    special = special_token_ids(loaded.tokenizer)
    bos = bos_id(loaded) if first.prepend_bos else -1
    cut = list(windows([Document("text", text)], loaded.tokenizer, config, bos_id=bos, special_ids=special))
    if not cut:
        raise EPError(f"the text has no tokens to read: {text[:40]!r}; give some words")
    sites = {d.config.site.name: resolve_sites(d.config.site.name, loaded.architecture)[0] for d in dictionaries}
    found = Extractor(loaded.model, list(sites.values())).extract([window.ids for window in cut])
    ids, positions, own = _tokens(cut)
    pieces = token_texts(loaded.tokenizer, ids[own])
    readings = []
    for dictionary in dictionaries:
        region_n, distance_n = dictionary.assign(found[sites[dictionary.config.site.name]].numpy())
        region_n[special_mask(ids, special)] = -1
        readings.append(
            [
                TokenReading(
                    int(positions[i]),
                    int(ids[i]),
                    piece,
                    int(region_n[i]) if region_n[i] >= 0 else None,
                    float(distance_n[i]) if region_n[i] >= 0 else None,
                    bool(region_n[i] >= 0 and distance_n[i] <= dictionary.threshold),
                )
                for i, piece in zip(np.flatnonzero(own), pieces, strict=True)
            ]
        )
    return readings


def _tokens(cut: list[Window]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids and positions of all windows, and which are the text's own rather than a prepended BOS."""
    ids = np.concatenate([window.ids for window in cut])
    positions = np.concatenate([window.positions for window in cut])
    return ids, positions, positions >= 0


def token_texts(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> list[str]:
    """The piece of text of each token, such that together they are the text.

    Where several tokens make one character, it goes to the first of them and the others get nothing.
    """
    texts = tokenizer.batch_decode([[int(i)] for i in ids], clean_up_tokenization_spaces=False)
    at = 0
    while at < len(texts):
        if "\ufffd" not in texts[at]:
            at += 1
            continue
        for end in range(at + 2, min(at + 8, len(texts)) + 1):  # a few bytes of UTF-8, a token each at worst
            joined = tokenizer.decode([int(i) for i in ids[at:end]], clean_up_tokenization_spaces=False)
            if "\ufffd" not in joined:
                texts[at:end] = [joined] + [""] * (end - at - 1)
                at = end - 1
                break
        at += 1
    return texts
