"""Text from a model, greedily, in batches: what interventions are judged by."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import EPError
from ..text.chat import in_template, prompt_ids
from ..text.conversations import Conversation, Message
from .capture import input_device, undisturbed
from .load import bos_id
from .loaded import LoadedModel

_GREEDY: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
Prompt = str | Sequence[Message]
_TRIED = 8  # tokens of a prompt
_batching: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Generation:
    """What a model wrote after a prompt. ids: of the prompt as the model saw it, and of what it wrote."""

    prompt: Prompt
    text: str
    prompt_ids: list[int]
    ids: list[int]


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    chat: bool | None = None,
    batch_size: int = 64,
) -> list[Generation]:
    """Continue prompts greedily; interventions that are open take part.

    What all prompts begin with, such as the system message of a chat template, is read once.

    Args:
        loaded: the model.
        prompts: texts, or a user's messages; or the turns of a conversation, the last of them a user's.
        max_new_tokens: at most.
        chat: put each prompt into the model's chat template as a user's message; None: if it has one.
        batch_size: prompts at once, of like length, padded on the left of what they do not share. A model that
            writes something else in such a batch (RWKV) gets one at a time.

    Returns:
        What follows each prompt, in their order.

    Raises:
        EPError: no prompts, a chat template that is missing, or a prompt that leaves no room to write.
    """
    if not prompts:
        raise EPError("there are no prompts; give at least one")
    encoded = [encode(loaded, prompt, chat) for prompt in prompts]
    limit = loaded.architecture.max_length
    longest = max(range(len(encoded)), key=lambda i: len(encoded[i]))
    if limit is not None and len(encoded[longest]) + max_new_tokens > limit:
        last = prompts[longest]
        shown = last if isinstance(last, str) else str(last[-1].get("content"))
        raise EPError(
            f"a prompt of {len(encoded[longest]):,} tokens and {max_new_tokens:,} new ones exceed the model's context "
            f"of {limit:,}: {shown[:60]!r}; shorten it"
        )
    written = continued(loaded, encoded, max_new_tokens, batch_size)
    texts = loaded.tokenizer.batch_decode(written, skip_special_tokens=True)
    return [Generation(*each) for each in zip(prompts, texts, encoded, written, strict=True)]


def continued(
    loaded: LoadedModel, encoded: list[list[int]], max_new_tokens: int, batch_size: int = 64
) -> list[list[int]]:
    """New tokens after prompts given as token ids, each with room for them; see `generate`."""
    written: dict[int, list[int]] = {}
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    shared = _Shared.of(loaded, encoded, max_new_tokens)
    if min(batch_size, len(encoded)) > 1 and not _writes_in_batches(loaded, encoded[order[0]]):
        batch_size = 1
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for i, ids in zip(batch, _continued(loaded, [encoded[i] for i in batch], shared, max_new_tokens), strict=True):
            written[i] = ids
    return [written[i] for i in range(len(encoded))]


def encode(loaded: LoadedModel, prompt: Prompt, chat: bool | None = None) -> list[int]:
    """Token ids of a prompt as the model is to see it: in its chat template, or after a BOS; see `generate`."""
    tokenizer = loaded.tokenizer
    if not isinstance(prompt, str):
        return prompt_ids(tokenizer, Conversation(tuple(prompt)))
    if chat or (chat is None and getattr(tokenizer, "chat_template", None)):
        return tokenizer(in_template(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return [bos_id(loaded), *ids]


def _writes_in_batches(loaded: LoadedModel, ids: list[int]) -> bool:
    """Whether a sequence is continued alike alone, and padded beside a longer one: tried on a few tokens."""
    model, limit = loaded.model, loaded.architecture.max_length
    if model not in _batching:
        n = min(len(ids), _TRIED if limit is None else max(1, min(_TRIED, limit // 2 - 1)))
        ids_bs = torch.tensor([[0] * n + ids[:n], 2 * ids[:n]], device=input_device(model))
        mask_bs = torch.ones_like(ids_bs)
        mask_bs[0, :n] = 0
        options = _GREEDY | {"max_new_tokens": 2, "pad_token_id": 0, "output_logits": True}
        options["return_dict_in_generate"] = True
        with torch.inference_mode(), undisturbed(model):
            alone = model.generate(input_ids=ids_bs[:1, n:], attention_mask=mask_bs[:1, n:], **options).logits
            try:
                beside = model.generate(input_ids=ids_bs, attention_mask=mask_bs, **options).logits
            except (RuntimeError, IndexError, ValueError):  # shapes that do not go together
                beside = ()
        _batching[model] = len(beside) > 0 and _alike(alone, beside)
    return _batching[model]


def _alike(alone: Sequence[Tensor], beside: Sequence[Tensor]) -> bool:
    """Logits of the first sequence, up to rounding in 16 bits, for as long as they choose the same tokens."""
    for x_bv, y_bv in zip(alone, beside, strict=False):
        x_v, y_v = x_bv[0].float(), y_bv[0].float()
        if not float((x_v - y_v).norm()) <= 0.05 * float(x_v.norm()):
            return False
        if int(x_v.argmax()) != int(y_v.argmax()):
            break
    return True


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
        with torch.inference_mode(), undisturbed(loaded.model):
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
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

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
    with torch.inference_mode(), undisturbed(model):
        out_bs = model.generate(
            input_ids=ids_bs.to(device),
            attention_mask=mask_bs.to(device),
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            **_GREEDY,
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
