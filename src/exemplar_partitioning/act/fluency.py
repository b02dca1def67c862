"""Whether steered text still reads as text: its perplexity without steering, its repetition, and a verdict.

Two ways of breaking are told apart, since neither number alone shows both: words that do not follow (perplexity
rises) and loops (perplexity falls, repetition rises). Both stand beside the text without steering, and beside the
null: a step of the same length along a random direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import EPError
from ..models.capture import input_device
from ..models.generate import Prompt, generate
from ..models.loaded import LoadedModel

PROMPTS = ("Tell me about your day.", "The best thing about this place is", "Yesterday I read that")
"""What `strongest` has the model continue where no prompts are given."""
ALPHA = 0.25
"""Typical residual norms that a step takes where nothing else is said."""
GRID = (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.7)
"""Alphas that `strongest` chooses from."""
BOUND = 3.0
"""Perplexity without steering, over that of unsteered text, up to which text counts as readable."""
LOOPS = 0.3
"""Share of repeated triples of tokens, beyond that of unsteered text, from which text counts as a loop."""

_SPAN = 3  # tokens that are the same again
_NEW = 16  # tokens written to try an alpha

Acting = Callable[[float], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fluency:
    """Of some continuations together.

    Attributes:
        perplexity: of the continuations under the model without steering; NaN if nothing was written.
        repetition: share of triples of tokens that stood in the same continuation before.
    """

    perplexity: float
    repetition: float

    def verdict(self, before: Fluency, null: Fluency | None = None) -> str:
        """`reads`, `loops` or `breaks`, as seen from text without steering; a null that breaks as well is named."""
        kind = self._kind(before)
        if kind == "breaks" and null is not None and null._kind(before) == "breaks":
            return "breaks, as a random step of this length does"
        return kind

    def reads(self, before: Fluency) -> bool:
        """Whether neither perplexity nor repetition has left what text without steering has."""
        return self._kind(before) == "reads"

    def _kind(self, before: Fluency) -> str:
        if self.repetition > before.repetition + LOOPS:
            return "loops"
        return "breaks" if not self.perplexity <= BOUND * before.perplexity else "reads"


def fluency(loaded: LoadedModel, written: Sequence[tuple[list[int], list[int]]]) -> Fluency:
    """Perplexity and repetition of continuations, each with the prompt before it; no intervention may be open.

    Raises EPError if the model has no head.
    """
    loaded.require_head("judge text")
    nll, count, again, triples = 0.0, 0, 0, 0
    for prompt_ids, ids in written:
        if ids:
            nll, count = nll + _nll(loaded, prompt_ids, ids), count + len(ids)
        spans = [tuple(ids[i : i + _SPAN]) for i in range(len(ids) - _SPAN + 1)]
        again, triples = again + len(spans) - len(set(spans)), triples + len(spans)
    return Fluency(math.exp(nll / count) if count else math.nan, again / triples if triples else 0.0)


def _nll(loaded: LoadedModel, prompt_ids: list[int], ids: list[int]) -> float:
    """Minus the log-probability, in nats, of a continuation."""
    ids_1s = torch.tensor([[*prompt_ids, *ids]], device=input_device(loaded.model))
    with torch.inference_mode():
        logits_sv = loaded.model(input_ids=ids_1s, use_cache=False).logits[0, len(prompt_ids) - 1 : -1].float()
    log_sv = logits_sv.log_softmax(dim=-1)
    return -float(log_sv.gather(1, torch.tensor(ids, device=log_sv.device)[:, None]).sum())


def random_direction(d_model: int, seed: int = 0) -> Float[Tensor, " d"]:
    """A unit direction at random, for a null."""
    draw_d = np.random.default_rng(seed).standard_normal(d_model)
    return torch.from_numpy(draw_d / np.linalg.norm(draw_d)).float()


def strongest(
    loaded: LoadedModel, acting: Acting, prompts: Sequence[Prompt] = PROMPTS, *, chat: bool | None = None
) -> float:
    """The largest alpha of GRID up to which the model's text reads, found by bisection in three tries.

    Args:
        loaded: the model, which writes `_NEW` tokens after each prompt at every try.
        acting: the intervention with a given alpha.
        prompts: what to continue.
        chat: see `models.generate.generate`.

    Returns:
        An alpha; the smallest of GRID if the text breaks even there.

    Raises:
        EPError: no prompts, or a model that cannot write.
    """

    def measured(alpha: float | None) -> Fluency:
        with nullcontext() if alpha is None else acting(alpha):
            texts = generate(loaded, prompts, max_new_tokens=_NEW, chat=chat)
        return fluency(loaded, [(text.prompt_ids, text.ids) for text in texts])

    if not prompts:
        raise EPError("there are no prompts to find the strongest alpha on; give at least one")
    before, low, high = measured(None), 0, len(GRID)
    while high - low > 1:  # GRID[low] reads, or is the least; GRID[high] does not
        middle = (low + high) // 2
        low, high = (middle, high) if measured(GRID[middle]).reads(before) else (low, middle)
    return GRID[low]
