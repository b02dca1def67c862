"""The logit lens: what an activation would make the model say if nothing came after it.

Shapes: n points, d = d_model, v = vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .architecture import Architecture, transformers_model
from .capture import input_device, undisturbed
from .hooks import at
from .loaded import LoadedModel
from .sites import Site

_LOGITS_BYTES = 1 << 24  # of one batch; what compares them takes a few times as much


def lens(loaded: LoadedModel, x_nd: Float[Tensor, "n d"]) -> Iterator[Float[Tensor, "b v"]]:
    """Logits of points taken as the output of the last block, in batches, float32 on the CPU; the caller's to change.

    The model itself applies what follows the last block (final norm, unembedding, scaling, soft cap):
    the block's output is replaced in a forward pass over filler tokens. The first point comes in a batch of its own;
    batches are a function of n alone.

    Raises:
        EPError: the model has no head, or a lens that was tested and is not true; see docs/models.md.
    """
    loaded.require_lens()
    architecture, model = loaded.architecture, transformers_model(loaded.model)
    batch = max(1, min(256, architecture.max_length or 256, _LOGITS_BYTES // (4 * architecture.vocab_size)))
    first, others = x_nd[:1], x_nd[1:].split(batch) if len(x_nd) > 1 else ()
    logits = _after_last_block(model, architecture, first)
    yield logits.clone()
    if not others:
        return
    shortcut = _Shortcut(model, architecture)
    shortcut(first)  # the blocks run once, to show what form their outputs have
    idle = torch.equal(shortcut(first), logits)  # they may be left out
    for part_bd in others:
        yield shortcut(part_bd) if idle else _after_last_block(model, architecture, part_bd)


def _after_last_block(model: Any, architecture: Architecture, x_bd: Float[Tensor, "b d"]) -> Float[Tensor, "b v"]:
    last = Site(architecture.n_layers - 1, "resid_post")
    with at(architecture, last, lambda hidden_1bd: x_bd.to(hidden_1bd)[None]):
        return _logits(model, len(x_bd))


def _logits(model: Any, length: int) -> Float[Tensor, "b v"]:
    filler = torch.zeros((1, length), dtype=torch.long, device=input_device(model))
    with torch.no_grad(), undisturbed(model):
        return model(input_ids=filler, use_cache=False).logits[0].float().cpu()


class _Shortcut:
    """A second view of a model, of the same weights, whose blocks all put out what is given; the model is untouched.

    Modules from the model down to its blocks are copied, without what they hold. Where something in them still leads
    to the model itself, the points do not arrive, which the caller sees in the logits.
    """

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        self.model = holder = _view(model)
        for name in architecture.path.split("."):
            holder._modules[name] = holder = _view(holder.get_submodule(name))
        for name, block in list(holder._modules.items()):
            assert block is not None
            view = copy.copy(block)
            view.forward = self._passing(block)
            holder._modules[name] = view
        self.x_bd: Tensor | None = None

    def __call__(self, x_bd: Float[Tensor, "b d"]) -> Float[Tensor, "b v"]:
        self.x_bd = x_bd
        with torch.compiler.set_stance("force_eager"):
            return _logits(self.model, len(x_bd))

    def _passing(self, block: nn.Module) -> Callable[..., Any]:
        form: list[Any] = []

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not form:
                form.append(block.forward(*args, **kwargs))
                return form[0]
            hidden = form[0] if isinstance(form[0], Tensor) else form[0][0]
            assert self.x_bd is not None
            replaced = self.x_bd.to(hidden)[None]
            return replaced if isinstance(form[0], Tensor) else (replaced, *form[0][1:])

        return forward


def _view(module: nn.Module) -> nn.Module:
    view = copy.copy(module)
    view._modules = dict(module._modules)
    return view
