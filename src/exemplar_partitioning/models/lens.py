"""The logit lens: what an activation would make the model say if nothing came after it.

Shapes: n points, d = d_model, v = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .load import LoadedModel

_LOGITS_BYTES = 1 << 24  # of one batch; what compares them takes a few times as much


def lens(loaded: LoadedModel, x_nd: Float[Tensor, "n d"]) -> Iterator[Float[Tensor, "b v"]]:
    """Logits of points taken as the output of the last block, in batches, float32 on the CPU.

    The model itself applies what follows the last block (final norm, unembedding, scaling, soft cap):
    the block's output is replaced in a forward pass over filler tokens. Batches are a function of n alone.
    """
    architecture, model = loaded.architecture, loaded.model
    batch = max(1, min(256, architecture.max_length or 256, _LOGITS_BYTES // (4 * architecture.vocab_size)))
    device = model.get_input_embeddings().weight.device
    for start in range(0, len(x_nd), batch):
        part_bd = x_nd[start : start + batch]

        def instead(_module: nn.Module, _args: Any, output: Any, part_bd: Tensor = part_bd) -> Any:
            hidden = output if isinstance(output, Tensor) else output[0]
            replaced = part_bd.to(hidden).view_as(hidden)
            return replaced if isinstance(output, Tensor) else (replaced, *output[1:])

        handle = architecture.blocks[-1].register_forward_hook(instead)
        try:
            with torch.inference_mode():
                filler = torch.zeros((1, len(part_bd)), dtype=torch.long, device=device)
                logits = model(input_ids=filler, use_cache=False).logits
        finally:
            handle.remove()
        yield logits[0].float().cpu()
