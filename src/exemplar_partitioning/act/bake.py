"""An ablation written into the weights: the model itself never writes along the directions any more."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..models.architecture import Architecture, transformers_model
from ..models.hooks import applied
from ..models.loaded import LoadedModel
from .edits import off, orthonormal
from .steer import Direction, Regions, check_model_of, directions_of

_WRITES = ("attn_out_post", "mlp_out_post")
_OUT_PROJECTIONS = ("o_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h", "out_proj", "fc2")


def bake(
    model: Any,
    dictionary: StoredDictionary,
    region: Regions,
    *,
    basis: Direction = "exemplar",
    any_model: bool = False,
) -> Any:
    """A copy of the model whose residual stream has nothing along some regions' span, anywhere.

    It says what the model says under `ablate_everywhere`, without a hook: neither the embedding nor any block
    writes along the span. Save it with `save_pretrained`.

    Args:
        model: a causal language model of transformers, or what `ep.load_model` gives.
        dictionary: whose regions they are.
        region: one, or several, whose span is taken out.
        basis: "exemplar" directions, "mean" ones of members, or a direction [d] of your own.
        any_model: act on a model other than the dictionary's, of the same width.

    Returns:
        A model of the same class; the one that was given stays as it is.

    Raises:
        EPError: see `ablate`; and an architecture that normalises what its blocks add (Gemma), or adds position
            embeddings, where no change of the weights does the same.
    """
    module = model.model if isinstance(model, LoadedModel) else model
    if transformers_model(module) is not module:
        raise EPError(f"weights are baked into a transformers model; give that, not a {type(module).__name__}")
    check_model_of(model, dictionary, any_model)
    q_rd = orthonormal(directions_of(dictionary, region, basis)).double()
    baked = copy.deepcopy(module)
    architecture = Architecture.of(baked)
    if architecture.has_post_norms:
        raise EPError(
            f"{architecture.class_name} normalises what its blocks add to the stream, so no weights can hold the "
            "ablation; use the hook: with ep.ablate(...)"
        )
    with torch.no_grad():
        _start_without(baked, architecture, q_rd)
        for layer, block in enumerate(architecture.blocks):
            for part in ("attn", "mlp"):
                _write_nothing_along(_last_linear(block, architecture.raw_output(layer, part)), q_rd)
    return baked


@contextmanager
def ablate_everywhere(
    model: Any,
    dictionary: StoredDictionary,
    region: Regions,
    *,
    basis: Direction = "exemplar",
    any_model: bool = False,
) -> Iterator[None]:
    """Keep the residual stream free of some regions' span, from its start to its end.

    Around the origin: a dictionary's centre belongs to its own site, and a stream held at that place from the
    first block on leaves the model speechless. `bake` writes the same into the weights.

    Args:
        model: see `steer`.
        dictionary: whose regions they are.
        region: one, or several, whose span is taken out.
        basis: "exemplar" directions, "mean" ones of members, or a direction [d] of your own.
        any_model: act on a model other than the dictionary's, of the same width.

    Returns:
        A context manager; when it ends, the model is as it was.

    Raises:
        EPError: a region that does not exist or has no direction, or another model.
    """
    module = check_model_of(model, dictionary, any_model)
    q_rd = orthonormal(directions_of(dictionary, region, basis))
    writes = [f"{point}.{layer}" for layer in range(Architecture.of(module).n_layers) for point in _WRITES]
    with applied(module, off(q_rd, torch.zeros_like(dictionary.center)), ["resid_pre.0", *writes]):
        yield


def _start_without(model: Any, architecture: Architecture, q_rd: Float[Tensor, "r d"]) -> None:
    embedding = model.get_input_embeddings()
    extra = [name for name, part in model.named_modules() if isinstance(part, nn.Embedding) and part is not embedding]
    if extra or type(embedding) is not nn.Embedding:
        raise EPError(
            f"{architecture.class_name} does not start its stream with plain token embeddings "
            f"({', '.join(extra) or type(embedding).__name__}); use the hook: with ep.ablate(...)"
        )
    head = model.get_output_embeddings()
    if head is not None and head.weight is embedding.weight:  # the unembedding must stay as it is
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    weight_vd = embedding.weight.double()
    embedding.weight.copy_(weight_vd - weight_vd @ q_rd.T.to(weight_vd) @ q_rd.to(weight_vd))


def _last_linear(block: nn.Module, part: str) -> nn.Module:
    module = block.get_submodule(part)
    projections = [child for name, child in module.named_modules() if name.rpartition(".")[2] in _OUT_PROJECTIONS]
    if len(projections) != 1:
        raise EPError(
            f"cannot tell which weights of {part} ({type(module).__name__}) write to the stream; use the hook"
        )
    return projections[0]


def _write_nothing_along(linear: Any, q_rd: Float[Tensor, "r d"]) -> None:
    out_first = isinstance(linear, nn.Linear)  # GPT-2's Conv1D has it the other way round
    weight = linear.weight.double() if out_first else linear.weight.double().T
    weight = weight - q_rd.T @ (q_rd @ weight)
    linear.weight.copy_(weight if out_first else weight.T)
    if linear.bias is not None:
        bias_d = linear.bias.double()
        linear.bias.copy_(bias_d - q_rd.T @ (q_rd @ bias_d))
