"""Text from a model, greedily, in batches: what interventions are judged by."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..errors import EPError
from ..text.chat import in_template
from .capture import input_device
from .load import LoadedModel, bos_id


@dataclass(frozen=True)
class Generation:
    """What a model wrote after a prompt. ids: of the prompt as the model saw it, and of what it wrote."""

    prompt: str
    text: str
    prompt_ids: list[int]
    ids: list[int]


def generate(
    loaded: LoadedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    chat: bool | None = None,
    batch_size: int = 64,
) -> list[Generation]:
    """Continue prompts greedily; interventions that are open take part.

    What all prompts begin with, such as the system message of a chat template, is read once.

    Args:
        chat: put each prompt into the model's chat template as a user's message; None: if it has one.
        batch_size: prompts at once, of like length, padded on the left of what they do not share.

    Raises:
        EPError: no prompts, a chat template that is missing, or a prompt that leaves no room to write.
    """
    if not prompts:
        raise EPError("there are no prompts; give at least one")
    encoded = [encode(loaded, prompt, chat) for prompt in prompts]
    limit = loaded.architecture.max_length
    longest = max(range(len(encoded)), key=lambda i: len(encoded[i]))
    if limit is not None and len(encoded[longest]) + max_new_tokens > limit:
        raise EPError(
            f"a prompt of {len(encoded[longest]):,} tokens and {max_new_tokens:,} new ones exceed the model's context "
            f"of {limit:,}: {prompts[longest][:60]!r}; shorten it"
        )
    written: dict[int, list[int]] = {}
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    shared = _Shared.of(loaded, encoded, max_new_tokens)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for i, ids in zip(batch, _continued(loaded, [encoded[i] for i in batch], shared, max_new_tokens), strict=True):
            written[i] = ids
    texts = loaded.tokenizer.batch_decode([written[i] for i in range(len(prompts))], skip_special_tokens=True)
    return [
        Generation(prompt, text, encoded[i], written[i])
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]


def encode(loaded: LoadedModel, prompt: str, chat: bool | None = None) -> list[int]:
    """Token ids of a prompt as the model is to see it: in its chat template, or after a BOS; see `generate`."""
    tokenizer = loaded.tokenizer
    if chat or (chat is None and getattr(tokenizer, "chat_template", None)):
        return tokenizer(in_template(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return [bos_id(loaded), *ids]


@dataclass(frozen=True)
class _Shared:
    """What all prompts begin with, already read. length: its tokens; cache: their keys and values, if any."""

    length: int
    cache: Any

    @classmethod
    def of(cls, loaded: LoadedModel, prompts: list[list[int]], max_new_tokens: int) -> _Shared:
        length = min(_common(prompts), min(map(len, prompts)) - 1)  # each has a token of its own
        window = getattr(loaded.model.config.get_text_config(), "sliding_window", None)
        # A sliding window counts the padding behind the shared part, too: there must be room for all of it.
        if len(prompts) == 1 or length < 1 or (window and max(map(len, prompts)) + max_new_tokens > window):
            return cls(0, None)
        with torch.inference_mode():
            ids_1s = torch.tensor([prompts[0][:length]], device=input_device(loaded.model))
            cache = getattr(loaded.model(input_ids=ids_1s, use_cache=True), "past_key_values", None)
        return cls(length, cache) if _hides_padding(cache) else cls(0, None)

    def repeated(self, n: int) -> dict[str, Any]:
        """As arguments of `model.generate`, for n sequences."""
        if self.cache is None:
            return {}
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(n)
        return {"past_key_values": cache}


def _hides_padding(cache: Any) -> bool:
    """Keys and values alone, which an attention mask hides; a recurrent state takes up what it is fed."""
    return isinstance(cache, DynamicCache) and {*map(type, cache.layers)} <= {DynamicLayer, DynamicSlidingWindowLayer}


def _common(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with."""
    columns = zip(*prompts, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _continued(loaded: LoadedModel, prompts: list[list[int]], shared: _Shared, max_new_tokens: int) -> list[list[int]]:
    """New tokens for each prompt, up to the end of text and without it."""
    tokenizer, model, device = loaded.tokenizer, loaded.model, input_device(loaded.model)
    width, read = max(map(len, prompts)), shared.length
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids_bs = torch.full((len(prompts), width), pad)
    mask_bs = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, ids in enumerate(prompts):
        for part, at in ((ids[:read], slice(read)), (ids[read:], slice(width - len(ids) + read, width))):
            ids_bs[row, at], mask_bs[row, at] = torch.tensor(part, dtype=torch.long), 1
    with torch.inference_mode():
        out_bs = model.generate(
            input_ids=ids_bs.to(device),
            attention_mask=mask_bs.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
            **shared.repeated(len(prompts)),
        )
    ends = _ends(loaded)
    written = []
    for row in out_bs[:, width:].tolist():
        end = next((i for i, token in enumerate(row) if token in ends), len(row))
        written.append(row[:end])
    return written


def _ends(loaded: LoadedModel) -> set[int]:
    configured = loaded.model.generation_config.eos_token_id
    ends = {configured} if isinstance(configured, int) else set(configured or ())
    return ends | ({loaded.tokenizer.eos_token_id} - {None})
