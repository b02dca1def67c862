"""Which tokens of a forward pass a model has written itself, and which are padding.

`generate` of transformers hands the whole sequence so far to `prepare_inputs_for_generation` before each forward
pass. What a pass reads is the end of that sequence, whether the model keeps keys and values, a recurrent state, both or
nothing, so the tokens past the prompt are counted there. The ids that the pass gets must be those; else nothing is
claimed.

Shapes: b sequences, s positions of one forward pass.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from ..errors import EPError
from .architecture import Architecture

Tokens = Literal["all", "prompt", "generated"]
_PROMPT = ("inputs", "input_ids", "input")  # names of `generate`'s first argument
_CACHES = ("past_key_values", "cache_params", "state", "mems")  # what models name what they keep of earlier tokens


@dataclass
class _Generation:
    """A call of `generate` under way. base: length of the prompt within its sequence, None until it is known."""

    base: int | None
    prepares: bool = False  # it is transformers' own, which hands over the sequence before each forward pass
    sequence_bn: Tensor | None = None  # handed over for the next forward pass
    mask_bn: Tensor | None = None
    seen: int = 0  # positions read so far, where `generate` is a loop of another library


@dataclass(frozen=True)
class _Pass:
    """A forward pass: its shape, how many of its last positions were written (None: unknown), and its padding."""

    b: int
    s: int
    written: int | None
    mask_bs: Tensor | None


class TouchedTokens:
    """Follows a model and the objects around it through forward passes and calls of `generate`.

    bos: token that sequences should begin with; where one has none, that is warned of, once.
    """

    def __init__(self, tokens: Tokens, bos: int | None = None) -> None:
        self.tokens, self._bos = tokens, bos
        self._runs: list[_Generation] = []  # the innermost last
        self._pass: _Pass | None = None

    @contextmanager
    def watching(self, outer: Any, model: nn.Module, architecture: Architecture) -> Iterator[None]:
        """Watch the forward passes of a model, and `generate` of it, of what it is inside and of what it holds."""
        writers = [module for module in _ancestors(model, architecture) if hasattr(type(module), "generate")]
        reader = writers[-1] if writers else model
        if outer is not model and hasattr(outer, "generate"):
            writers.insert(0, outer)
        with ExitStack() as stack:
            stack.callback(reader.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            stack.callback(reader.register_forward_hook(self._end, always_call=True).remove)
            for writer in writers:
                stack.enter_context(_instead(writer, "generate", self._watched))
                if hasattr(type(writer), "prepare_inputs_for_generation"):
                    stack.enter_context(_instead(writer, "prepare_inputs_for_generation", self._prepared))
            yield

    def touched(self, shape: torch.Size, device: torch.device) -> Bool[Tensor, "b s"]:
        """The positions of the current forward pass that are chosen, padding left out.

        Raises:
            EPError: prompt and generated tokens cannot be told apart in this pass.
        """
        b, s = shape[:2]
        touched_bs = torch.ones((b, s), dtype=torch.bool, device=device)
        current = self._pass
        aligned = current is not None and (current.b, current.s) == (b, s)
        if self.tokens != "all":
            if current is None or not aligned or current.written is None:
                raise EPError(
                    f"tokens is {self.tokens!r}, but in this forward pass prompt and generated tokens cannot be told "
                    "apart: it goes on from a cache outside of `generate`, or reads other tokens than `generate` "
                    "wrote; say tokens='all', or call the model's own `generate`"
                )
            touched_bs[:, s - current.written :] = False
            if self.tokens == "generated":
                touched_bs = ~touched_bs
        if current is not None and not aligned and (current.mask_bs is not None or b * s != current.b * current.s):
            raise EPError(
                f"of {current.b} x {current.s} tokens (sequences, positions) this model makes {b} x {s} activations, "
                "so which belongs to which cannot be told; give it a sequence at a time, without padding"
            )
        if current is not None and current.mask_bs is not None:
            touched_bs &= current.mask_bs.to(device)
        return touched_bs

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(list(inspect.signature(type(module).forward).parameters)[1:], args, strict=False)) | kwargs
        ids, embedded = named.get("input_ids"), named.get("inputs_embeds")
        given = ids if ids is not None else embedded
        if given is None:
            self._pass = None
            return
        b, s = given.shape[:2]
        cache = next((named[name] for name in _CACHES if named.get(name) is not None), None)
        run = self._runs[-1] if self._runs else None
        mask = named.get("attention_mask")
        if not (isinstance(mask, Tensor) and mask.ndim == 2):  # made ready for a static cache, or not for this model
            mask = run.mask_bn if run else None
        if mask is not None:
            mask = mask[:, -s:].bool() if mask.shape[0] == b and mask.shape[1] >= s else None
        if ids is not None and self._bos is not None and _length(cache) == 0:
            self._look_for_bos(ids)
        self._pass = _Pass(b, s, self._written(ids, s, cache), mask)

    def _look_for_bos(self, ids_bs: Tensor) -> None:
        if bool((ids_bs == self._bos).any(dim=1).all()):
            return
        warnings.warn(
            f"a sequence of {ids_bs.shape[1]:,} tokens has no BOS (token {self._bos}), with which the dictionary's "
            "windows begin: the activations of its first tokens, above all, lie elsewhere. Put it in front of the ids "
            "(many tokenizers add none, nor does nnsight)",
            stacklevel=2,
        )
        self._bos = None

    def _end(self, *_: Any) -> None:
        self._pass = None

    def _written(self, ids_bs: Tensor | None, s: int, cache: Any) -> int | None:
        if self.tokens == "all":
            return 0
        if not self._runs:
            return 0 if _length(cache) == 0 else None
        run = self._runs[-1]
        if (sequence_bn := run.sequence_bn) is not None:
            run.sequence_bn = None
            if run.base is None:
                run.base = sequence_bn.shape[1]
            if (new := sequence_bn.shape[1] - run.base) <= 0:  # less: a part of the prompt
                return 0
            return min(new, s) if ids_bs is not None and torch.equal(ids_bs, sequence_bn[:, -s:]) else None
        if run.prepares:  # a pass on the side, as of guidance without a prompt
            return None
        # A loop of another library: what is cached was read before, and without a cache all is read again.
        length = _length(cache)
        before = run.seen if length is None else length
        if run.seen == 0:
            run.base = before + (run.base or s)
        run.seen = before + s
        assert run.base is not None
        return min(s, max(0, run.seen - run.base))

    def _watched(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            given = args[0] if args else next((kwargs[n] for n in _PROMPT if kwargs.get(n) is not None), None)
            base = given.shape[1] if isinstance(given, Tensor) else None  # text, embeddings: the first pass tells
            if base is not None and self._runs and (outer := self._runs[-1].base) is not None:
                base = min(base, outer)  # it goes on from what another call is writing, as a draft does
            self._runs.append(_Generation(base))
            try:
                return generate(*args, **kwargs)
            finally:
                self._runs.pop()

        return watched

    def _prepared(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(prepare)  # its signature is looked at
        def prepared(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._runs:
                self._runs[-1].prepares = True
                self._runs[-1].sequence_bn = input_ids
                self._runs[-1].mask_bn = kwargs.get("attention_mask")
            return prepare(input_ids, *args, **kwargs)

        return prepared


def _ancestors(model: nn.Module, architecture: Architecture) -> list[nn.Module]:
    """The model and the modules inside it that hold its blocks, from the outside in."""
    parts = architecture.path.split(".")
    return [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


def _length(cache: Any) -> int | None:
    """Tokens in a cache; None: some, but their number is not kept."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError):  # a recurrent state alone
        try:
            return None if cache.has_previous_state() else 0
        except (AttributeError, TypeError):
            return None


@contextmanager
def _instead(owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """A method of one object, with something around it for a while."""
    before = vars(owner).get(name)
    vars(owner)[name] = around(getattr(owner, name))
    try:
        yield
    finally:
        if before is None:
            vars(owner).pop(name, None)
        else:
            vars(owner)[name] = before
