"""Edits on the way through a model: at any sites, on prompt tokens, generated tokens or both.

The same with and without KV cache, in batches with padding on the left, and nested; nothing is left
behind on exit. Arithmetic is in float32, whatever the model's dtype.

Shapes: b sequences, s positions of one forward pass, d = d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import EPError
from .architecture import Architecture, transformers_model
from .sites import Site, resolve_sites

Edit = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]
"""Activations in, activations out: float32 [n, d], row by row."""

Tokens = Literal["all", "prompt", "generated"]
_PROMPT = ("inputs", "input_ids", "inputs_embeds", "input")  # names of `generate`'s first argument


@contextmanager
def applied(model: Any, edit: Edit, sites: str | Sequence[str], *, tokens: Tokens = "all") -> Iterator[None]:
    """Edit the activations of a causal language model of transformers at some sites while the context is open.

    The model may be inside a `TransformerBridge` or an interp-engine model: what these run and write is edited too.
    tokens: "prompt" leaves alone what `model.generate` has appended, "generated" everything else. Outside of
    `generate` all tokens count as prompt. Positions that the attention mask hides (padding) are left alone.
    """
    if tokens not in ("all", "prompt", "generated"):
        raise EPError(f"tokens is {tokens!r}; expected all, prompt or generated")
    outer, model = model, transformers_model(model)
    if tokens != "all" and not hasattr(outer, "generate"):
        raise EPError(
            f"{type(outer).__name__} writes in a loop of its own, where prompt and generated tokens cannot be told "
            "apart: say tokens='all', or give the transformers model that it holds and generate with that"
        )
    architecture = Architecture.of(model)
    chosen = resolve_sites(sites, architecture)
    progress = _Progress(tokens)
    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(progress.on_forward, with_kwargs=True).remove)
        stack.enter_context(progress.watching_generate(model))
        if outer is not model and hasattr(outer, "generate"):
            stack.enter_context(progress.watching_generate(outer))
        for site in chosen:
            stack.callback(_attach(architecture, site, _changing(edit, progress)).remove)
        yield


class _Progress:
    """Where a forward pass stands in its sequences: which of its positions are prompt, generated, padding."""

    def __init__(self, tokens: Tokens):
        self.tokens = tokens
        self.prompt_length: int | None = None  # within `generate`
        self.reading_text = False  # at the start of a `generate` whose prompt is text
        self.offset = 0  # positions in the cache before this forward pass
        self.mask_bs: Tensor | None = None

    def on_forward(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        self.offset = int(cache.get_seq_length()) if cache is not None else 0
        if self.reading_text:
            ids_bs = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            self.prompt_length, self.reading_text = self.offset + ids_bs.shape[1], False
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.mask_bs = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    @contextmanager
    def watching_generate(self, model: Any) -> Iterator[None]:
        """Know how long the prompt is whenever `model.generate` runs."""
        before = model.__dict__.get("generate")
        generate = model.generate

        def watched(*args: Any, **kwargs: Any) -> Any:
            given = args[0] if args else next((kwargs[name] for name in _PROMPT if name in kwargs), None)
            # A bridge takes text as well; the first forward pass, which reads all of it, tells its length.
            self.reading_text = isinstance(given, str | list)
            if not self.reading_text:
                self.prompt_length = given.shape[1] if given is not None else 1  # without any, a BOS is the prompt
            try:
                return generate(*args, **kwargs)
            finally:
                self.prompt_length, self.reading_text = None, False

        model.generate = watched
        try:
            yield
        finally:
            if before is None:
                del model.generate
            else:
                model.generate = before

    def touched(self, shape: torch.Size, device: torch.device) -> Bool[Tensor, "b s"]:
        """The positions of the current forward pass that the edit is for."""
        b, s = shape[:2]
        touched_bs = torch.ones((b, s), dtype=torch.bool, device=device)
        if self.tokens != "all":
            position_s = self.offset + torch.arange(s, device=device)
            prompt = self.prompt_length
            generated_s = position_s >= prompt if prompt is not None else torch.zeros_like(position_s, dtype=torch.bool)
            touched_bs &= generated_s if self.tokens == "generated" else ~generated_s
        if self.mask_bs is not None and self.mask_bs.shape[1] >= s:
            touched_bs &= self.mask_bs[:, -s:].to(device).bool()
        return touched_bs


def _changing(edit: Edit, progress: _Progress) -> Callable[[Float[Tensor, "b s d"]], Tensor]:
    def change(x_bsd: Float[Tensor, "b s d"]) -> Tensor:
        touched_bs = progress.touched(x_bsd.shape, x_bsd.device)
        if bool(touched_bs.all()):
            return edit(x_bsd.flatten(0, 1).float()).view_as(x_bsd).to(x_bsd.dtype)
        if not bool(touched_bs.any()):
            return x_bsd
        changed = x_bsd.clone()
        changed[touched_bs] = edit(x_bsd[touched_bs].float()).to(x_bsd.dtype)
        return changed

    return change


def _attach(architecture: Architecture, site: Site, change: Callable[[Tensor], Tensor]) -> Any:
    module = architecture.blocks[site.layer]
    if site.point == "resid_pre":

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

        return module.register_forward_pre_hook(before, with_kwargs=True)
    if site.point != "resid_post":
        part = "attn" if site.point == "attn_out_post" else "mlp"
        module = module.get_submodule(architecture.contribution(site.layer, part))

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    return module.register_forward_hook(after)
