"""Reading and writing activations on the way through a model: at any sites, and on chosen tokens.

The same with and without a cache, in batches with padding on the left, and nested; nothing is left behind on exit.
Compiled models run eagerly meanwhile: compiled code does not know of the hooks, or would keep them for good.

Shapes: b sequences, s positions of one forward pass, d the width at a site.
"""

from __future__ import annotations

import inspect
import math
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
        function: gets activations [b, s, d] in the model's own dtype; heads lie side by side in d. What it returns
            takes their place; None leaves them as they are.

    Raises:
        EPError: no such site; weights that are not there (meta device); in a forward pass, a module that takes or puts
            out no tensor, or not one activation a token.
    """
    architecture = model if isinstance(model, Architecture) else Architecture.of(model)
    (site,) = resolve_sites(str(site), architecture)
    with ExitStack() as stack:
        if site.point == "resid_mid":  # no module's: what attention adds, and the stream that it is added to
            function = stack.enter_context(_between(architecture, site.layer, function))
            site = Site(site.layer, "attn_out_post")
        path, side = site.place(architecture)
        module: nn.Module = architecture.model.get_submodule(path)
        _check_weights(
            architecture, architecture.blocks[site.layer] if 0 <= site.layer < architecture.n_layers else module
        )
        form = _Form(site, architecture)
        if not site.in_stream:
            embedding = architecture.model.get_input_embeddings()
            stack.callback(embedding.register_forward_hook(form.begin).remove)

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = "" if args else _first_parameter(module)
            changed = form.through(function, args[0] if args else kwargs.get(name))
            if changed is None:
                return None
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, name: changed})

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            several = type(output) in (tuple, list)  # one with names would lose them
            changed = form.through(function, output[0] if several else output, output[1:] if several else ())
            return None if changed is None else type(output)((changed, *output[1:])) if several else changed

        hooked = module.register_forward_pre_hook(before, with_kwargs=True) if side == "in" else None
        stack.callback((hooked or module.register_forward_hook(after)).remove)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _between(
    architecture: Architecture, layer: int, function: Callable[[Tensor], Tensor | None]
) -> Iterator[Callable[[Tensor], Tensor | None]]:
    """What does to what attention adds as a function does to the stream after it."""
    before: list[Tensor] = []

    def keep(x_bsd: Tensor) -> None:
        before[:] = [x_bsd]

    def added(y_bsd: Tensor) -> Tensor | None:
        changed = function(before[0] + y_bsd)
        return None if changed is None else changed - before[0]

    with at(architecture, Site(layer, "resid_pre"), keep):
        yield added


class _Form:
    """In which form a module holds activations [b, s, d] at a site: also [b, s, heads, d] and [b * s, d]."""

    def __init__(self, site: Site, architecture: Architecture):
        self.site, self.name = site, architecture.class_name
        self.shape: tuple[int, ...] = ()

    def begin(self, _module: nn.Module, _args: Any, embedded: Tensor) -> None:
        """Learn at the start of a forward pass how many windows and positions it has."""
        self.shape = tuple(embedded.shape[:2])

    def through(
        self, function: Callable[[Tensor], Tensor | None], held: Any, others: Sequence[Any] = ()
    ) -> Tensor | None:
        """What a function makes of what a module holds, in the form of that; None if it leaves it as it is."""
        beside = [other for other in others if isinstance(other, Tensor)]
        if not isinstance(held, Tensor) or (beside and "@" in self.site.point):
            what = f"tuple of {len(beside) + 1} tensors" if isinstance(held, Tensor) else type(held).__name__
            raise EPError(f"{self.site} of {self.name} is a {what}; expected a tensor")
        if self.site.in_stream:
            return function(held)
        flat = held.dim() == 2 and len(held) == math.prod(self.shape or (0,))
        if not held.is_floating_point() or not (flat or (held.dim() > 2 and held.shape[:2] == self.shape)):
            raise EPError(
                f"{self.site} of {self.name} has shape {tuple(held.shape)} and dtype {held.dtype} in a forward pass of "
                f"{self.shape} (windows, positions); expected one activation a token"
            )
        changed = function(held.reshape(*self.shape, -1))
        if changed is not None and beside:
            raise EPError(
                f"{self.site} of {self.name} comes with {len(beside)} tensors made from it, which would stay as they "
                "are: it can be read, not changed. Act on what goes into that module"
            )
        return None if changed is None else changed.reshape(held.shape)


def _check_weights(architecture: Architecture, part: nn.Module) -> None:
    fetched = any(hasattr(module, "_hf_hook") for module in part.modules())  # by accelerate, when they are needed
    if not fetched and any(parameter.is_meta for parameter in part.parameters()):
        raise EPError(
            f"the weights of {architecture.class_name} are on the meta device, which holds shapes without numbers; "
            "load them, e.g. with from_pretrained(..., device_map='cpu')"
        )


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
    last = max((site.layer for site in reached), default=max(site.layer for site in chosen) + 1)
    missed = [site for site in chosen if site not in reached and site.layer < last]
    if missed:
        raise EPError(
            f"nothing was changed at {', '.join(map(str, missed))} of {architecture.class_name}: no forward pass of "
            "this model came by. Run this very object (not a copy, nor code compiled or exported from it) inside the "
            "context, and choose blocks that it runs"
        )


def _first_parameter(block: nn.Module) -> str:
    return next(iter(list(inspect.signature(type(block).forward).parameters)[1:]), "")
