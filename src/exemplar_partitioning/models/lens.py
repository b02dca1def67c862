"""The logit lens: what an activation would make the model say if nothing came after it.

Shapes: n points, d = d_model, v = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .architecture import Architecture
from .load import LoadedModel

_LOGITS_BYTES = 1 << 24  # of one batch; what compares them takes a few times as much


def lens(loaded: LoadedModel, x_nd: Float[Tensor, "n d"]) -> Iterator[Float[Tensor, "b v"]]:
    """Logits of points taken as the output of the last block, in batches, float32 on the CPU; the caller's to change.

    The model itself applies what follows the last block (final norm, unembedding, scaling, soft cap):
    the block's output is replaced in a forward pass over filler tokens. The first point comes in a batch of its own;
    batches are a function of n alone.
    """
    architecture = loaded.architecture
    batch = max(1, min(256, architecture.max_length or 256, _LOGITS_BYTES // (4 * architecture.vocab_size)))
    first, others = x_nd[:1], x_nd[1:].split(batch) if len(x_nd) > 1 else ()
    with torch.no_grad(), _last_block_gives(architecture, first) as outputs:
        logits = _forward(loaded.model, len(first))
    with torch.no_grad(), _blocks_pass(architecture, outputs, first):
        idle = torch.equal(_forward(loaded.model, len(first)), logits)  # the blocks may be left out
    yield logits
    for part_bd in others:
        replaced = _blocks_pass(architecture, outputs, part_bd) if idle else _last_block_gives(architecture, part_bd)
        with torch.no_grad(), replaced:
            logits = _forward(loaded.model, len(part_bd))
        yield logits


def _forward(model: Any, length: int) -> Float[Tensor, "b v"]:
    filler = torch.zeros((1, length), dtype=torch.long, device=model.get_input_embeddings().weight.device)
    return model(input_ids=filler, use_cache=False).logits[0].float().cpu()


def _with(output: Any, x_bd: Float[Tensor, "b d"]) -> Any:
    """A block's output with other activations in it: a tensor or a tuple, as the model has it."""
    hidden = output if isinstance(output, Tensor) else output[0]
    replaced = x_bd.to(hidden)[None]
    return replaced if isinstance(output, Tensor) else (replaced, *output[1:])


@contextmanager
def _last_block_gives(architecture: Architecture, x_bd: Float[Tensor, "b d"]) -> Iterator[list[Any]]:
    """Replace what the last block puts out; gives a list that fills with the blocks' own outputs."""
    outputs: list[Any] = []

    def note(_module: nn.Module, _args: Any, output: Any) -> Any:
        outputs.append(output)
        return _with(output, x_bd) if len(outputs) == architecture.n_layers else output

    handles = [block.register_forward_hook(note) for block in architecture.blocks]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _blocks_pass(architecture: Architecture, outputs: list[Any], x_bd: Float[Tensor, "b d"]) -> Iterator[None]:
    """Have every block put out the points at once, in the form of its own output, instead of running."""
    for block, output in zip(architecture.blocks, outputs, strict=True):
        block.forward = lambda *_args, output=output, **_kwargs: _with(output, x_bd)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in architecture.blocks:
            del block.forward
