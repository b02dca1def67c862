"""Tokens as pieces of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


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
