"""Text from a model, greedily, in batches: what interventions are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import EPError
from ..models.capture import Extractor
from ..models.load import LoadedModel, bos_id, special_token_ids
from ..models.sites import resolve_sites
from ..reading import token_texts
from ..store import StoredDictionary


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
    batch_size: int = 16,
) -> list[Generation]:
    """Continue prompts greedily; interventions that are open take part.

    Args:
        chat: put each prompt into the model's chat template as a user's message; None: if it has one.
        batch_size: prompts at once, of like length, padded on the left.

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
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for i, ids in zip(batch, _continued(loaded, [encoded[i] for i in batch], max_new_tokens), strict=True):
            written[i] = ids
    texts = loaded.tokenizer.batch_decode([written[i] for i in range(len(prompts))], skip_special_tokens=True)
    return [
        Generation(prompt, text, encoded[i], written[i])
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]


def encode(loaded: LoadedModel, prompt: str, chat: bool | None = None) -> list[int]:
    """Token ids of a prompt as the model is to see it: in its chat template, or after a BOS; see `generate`."""
    tokenizer = loaded.tokenizer
    template = getattr(tokenizer, "chat_template", None)
    if chat and not template:
        raise EPError(f"{loaded.info.id} has no chat template; leave out chat to continue the prompt as plain text")
    if template and chat is not False:
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has its own special tokens
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return [bos_id(loaded), *ids]


def _continued(loaded: LoadedModel, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """New tokens for each prompt, up to the end of text and without it."""
    tokenizer, model = loaded.tokenizer, loaded.model
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids_bs = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=model.device)
    mask_bs = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    with torch.inference_mode():
        out_bs = model.generate(
            ids_bs,
            attention_mask=mask_bs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
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


def pieces_on_the_manifold(
    loaded: LoadedModel, dictionary: StoredDictionary, generation: Generation
) -> list[tuple[str, bool]]:
    """The pieces of what was written, each with whether its activation lies within theta of an exemplar.

    Called while an intervention is open, the activations are those after it.
    """
    if not generation.ids:
        return []
    (site,) = resolve_sites(dictionary.config.site.name, loaded.architecture)
    window = np.array(generation.prompt_ids + generation.ids)
    (x_nd,) = Extractor(loaded.model, [site]).extract([window]).values()
    _, distance_n = dictionary.assign(x_nd[len(generation.prompt_ids) :].numpy())
    special = special_token_ids(loaded.tokenizer)
    return [
        (piece, bool(distance <= dictionary.threshold) or token in special)
        for piece, distance, token in zip(
            token_texts(loaded.tokenizer, generation.ids), distance_n, generation.ids, strict=True
        )
    ]
