"""An ablation written into the weights: the model itself never writes along the directions any more."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..models.architecture import Architecture, transformers_model
from ..models.hooks import applied
from ..models.loaded import LoadedModel
from ..models.places import locate
from ..models.sites import resolve_sites
from .edits import off, orthonormal
from .steer import Direction, Regions, check_model_of, directions_of

_WRITES = ("attn_out_post", "mlp_out_post")


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
    writes along the span. Save it with `save_pretrained`. Of a dictionary of another place than the stream, such as
    mlp_act.3, the weights that read or write there leave out the span: what `ablate` does there, around="origin".

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
            embeddings, or a place without a matrix, where no change of the weights does the same.
    """
    module = model.model if isinstance(model, LoadedModel) else model
    if transformers_model(module) is not module:
        raise EPError(f"weights are baked into a transformers model; give that, not a {type(module).__name__}")
    check_model_of(model, dictionary, any_model)
    q_rd = orthonormal(directions_of(dictionary, region, basis)).double()
    baked = copy.deepcopy(module)
    architecture, site = Architecture.of(baked), dictionary.config.site
    with torch.no_grad():
        if site.width is not None:
            _bake_at(architecture, site.name, q_rd)
            return baked
        if architecture.has_post_norms:
            raise EPError(
                f"{architecture.class_name} normalises what its blocks add to the stream, so no weights can hold the "
                "ablation; use the hook: with ep.ablate(...)"
            )
        _start_without(baked, architecture, q_rd)
        for layer in range(architecture.n_layers):
            for point in ("z", "mlp_act"):  # what reads these writes to the stream
                path, _ = locate(architecture, point, layer)
                _write_nothing_along(_linear(architecture, path), q_rd)
    return baked


def _bake_at(architecture: Architecture, name: str, q_rd: Float[Tensor, "r d"]) -> None:
    """Where activations go into a matrix, or come out of one, it can leave out their part along a span."""
    (site,) = resolve_sites(name, architecture)
    path, side = site.place(architecture)
    linear = _linear(architecture, path)
    if side == "out":
        _write_nothing_along(linear, q_rd)
        return
    weight = _rows_out(linear)
    _set_rows_out(linear, weight - (weight @ q_rd.T) @ q_rd)


def _linear(architecture: Architecture, path: str) -> Any:
    module = architecture.model.get_submodule(path)
    if type(module) not in (nn.Linear, Conv1D):
        raise EPError(
            f"no plain matrix of weights is at {path} ({type(module).__name__}), so none can hold the ablation; use "
            "the hook: with ep.ablate(...)"
        )
    return module


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
        EPError: a region that does not exist or has no direction, another model, or a dictionary of another place
            than the stream.
    """
    if dictionary.config.site.width is not None:
        raise EPError(
            f"{dictionary.config.site.name} is no place of the residual stream; use ep.ablate, which acts there"
        )
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


def _write_nothing_along(linear: Any, q_rd: Float[Tensor, "r d"]) -> None:
    weight = _rows_out(linear)
    _set_rows_out(linear, weight - q_rd.T @ (q_rd @ weight))
    if linear.bias is not None:
        bias_d = linear.bias.double()
        linear.bias.copy_(bias_d - q_rd.T @ (q_rd @ bias_d))


def _rows_out(linear: Any) -> Tensor:
    """Weights [out, in]; GPT-2's Conv1D has them the other way round."""
    return (linear.weight if isinstance(linear, nn.Linear) else linear.weight.T).double()


def _set_rows_out(linear: Any, weight: Tensor) -> None:
    linear.weight.copy_(weight if isinstance(linear, nn.Linear) else weight.T)
