"""Reading and writing activations on the way through a model: at any sites, and on chosen tokens.

The same with and without a cache, in batches with padding on the left, and nested; nothing is left behind on exit.
Compiled models run eagerly meanwhile: compiled code does not know of the hooks, or would keep them for good.

Shapes: b sequences, s positions of one forward pass, d = d_model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import EPError, check_choice
from .architecture import Architecture, transformers_model
from .sites import Site, resolve_sites
from .touched_tokens import Tokens, TouchedTokens

Edit = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]
"""Activations in, activations out: float32 [n, d], row by row."""


@contextmanager
def at(model: Any, site: Site | str, function: Callable[[Float[Tensor, "b s d"]], Tensor | None]) -> Iterator[None]:
    """Call a function on the activations at a site in every forward pass while the context is open.

    Args:
        model: a causal language model of transformers, one that holds such a model, or its `Architecture`.
        site: where.
        function: gets activations [b, s, d] in the model's own dtype. What it returns takes their place; None
            leaves them as they are.

    Raises:
        EPError: no such site; weights that are not there (meta device); in a forward pass, a block that takes or puts
            out no tensor.
    """
    architecture = model if isinstance(model, Architecture) else Architecture.of(model)
    (site,) = resolve_sites(str(site), architecture)
    block = architecture.blocks[site.layer]
    fetched = any(hasattr(module, "_hf_hook") for module in block.modules())  # by accelerate, when they are needed
    if not fetched and any(parameter.is_meta for parameter in block.parameters()):
        raise EPError(
            f"the weights of {architecture.class_name} are on the meta device, which holds shapes without numbers; "
            "load them, e.g. with from_pretrained(..., device_map='cpu')"
        )

    def called(hidden: Any) -> Tensor | None:
        if not isinstance(hidden, Tensor):
            raise EPError(f"{site} of {architecture.class_name} is a {type(hidden).__name__}; expected a tensor")
        return function(hidden)

    def before(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = "" if args else _first_parameter(block)
        changed = called(args[0] if args else kwargs.get(name))
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, name: changed})

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        several = type(output) in (tuple, list)  # one with names would lose them
        changed = called(output[0] if several else output)
        return None if changed is None else type(output)((changed, *output[1:])) if several else changed

    if site.point == "resid_pre":
        handle = block.register_forward_pre_hook(before, with_kwargs=True)
    else:
        module = block
        if site.point != "resid_post":
            part = "attn" if site.point == "attn_out_post" else "mlp"
            module = block.get_submodule(architecture.contribution(site.layer, part))
        handle = module.register_forward_hook(after)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        handle.remove()


@contextmanager
def applied(
    model: Any, edit: Edit, sites: str | Sequence[str], *, tokens: Tokens = "all", bos: int | None = None
) -> Iterator[None]:
    """Edit the activations of a causal language model of transformers at some sites while the context is open.

    The model may be inside a `TransformerBridge`, an interp-engine model or a wrapper of PEFT: what these run and
    write is edited too. Arithmetic is in float32, whatever the model's dtype.

    Args:
        model: the model, or an object that holds it.
        edit: what becomes of the activations.
        sites: where.
        tokens: "prompt" leaves alone what `generate` has appended, "generated" everything else. Outside of
            `generate` all tokens are prompt. Positions that the attention mask hides (padding) are left alone.
        bos: token that sequences should begin with; a warning says where one has none.

    Raises:
        EPError: `tokens` or a site is unknown; in a forward pass, prompt and generated tokens cannot be told apart;
            on leaving, no forward pass came by, or blocks before the last that did were passed over.
    """
    check_choice("tokens", tokens, get_args(Tokens))
    outer, model = model, transformers_model(model)
    if tokens != "all" and not hasattr(outer, "generate"):
        raise EPError(
            f"{type(outer).__name__} writes in a loop of its own, where prompt and generated tokens cannot be told "
            "apart: say tokens='all', or give the transformers model that it holds and generate with that"
        )
    architecture = Architecture.of(model)
    chosen = resolve_sites(sites, architecture)
    progress, reached = TouchedTokens(tokens, bos), set[Site]()
    with ExitStack() as stack:
        stack.enter_context(progress.watching(outer, model, architecture))
        for site in chosen:
            stack.enter_context(at(architecture, site, _changing(edit, progress, site, reached)))
        yield
    _check_reached(architecture, chosen, reached)


def _changing(edit: Edit, progress: TouchedTokens, site: Site, reached: set[Site]) -> Callable[[Tensor], Tensor | None]:
    def change(x_bsd: Float[Tensor, "b s d"]) -> Tensor | None:
        reached.add(site)
        touched_bs = progress.touched(x_bsd.shape, x_bsd.device)
        if bool(touched_bs.all()):
            return edit(x_bsd.flatten(0, 1).float()).view_as(x_bsd).to(x_bsd.dtype)
        if not bool(touched_bs.any()):
            return None
        changed = x_bsd.clone()
        changed[touched_bs] = edit(x_bsd[touched_bs].float()).to(x_bsd.dtype)
        return changed

    return change


def _check_reached(architecture: Architecture, chosen: Sequence[Site], reached: set[Site]) -> None:
    """A forward pass may end early, but not leave out a block on its way."""
    last = max((site.layer for site in reached), default=architecture.n_layers)
    missed = [site for site in chosen if site not in reached and site.layer < last]
    if missed:
        raise EPError(
            f"nothing was changed at {', '.join(map(str, missed))} of {architecture.class_name}: no forward pass of "
            "this model came by. Run this very object (not a copy, nor code compiled or exported from it) inside the "
            "context, and choose blocks that it runs"
        )


def _first_parameter(block: nn.Module) -> str:
    return next(iter(list(inspect.signature(type(block).forward).parameters)[1:]), "")
