"""Where a named place lies among a model's modules: at which module, and whether it is what goes in or comes out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

from torch import nn

from ..errors import EPError
from .architecture import Architecture

Side = Literal["in", "out"]

_READ_HEADS = ("o_proj", "c_proj", "dense", "out_proj", "wo")  # in attention modules: what its heads found is read by
_READ_HIDDEN = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2")  # in MLPs, or where there is none
_ROUTERS = ("gate", "router")
_MIXTURES = ("block_sparse_moe",)
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")


def locate(architecture: Architecture, point: str, layer: int) -> tuple[str, Side]:
    """Path of the module and side of it that a named place of a block, or of the whole model, is at.

    Raises:
        EPError: this block, or this model, has no such place; where to look for it.
    """
    block = f"{architecture.path}.{layer}"
    if point in ("resid_pre", "resid_post"):
        return block, "in" if point == "resid_pre" else "out"
    if point in ("attn_out_post", "mlp_out_post"):
        return f"{block}.{architecture.contribution(layer, point.partition('_')[0])}", "out"
    if point == "resid_mid":  # before it, the stream, is added: see hooks.at
        return f"{block}.{architecture.contribution(layer, 'attn')}", "out"
    if point in ("q", "k", "v", "z"):
        attention = f"{block}.{architecture.raw_output(layer, 'attn')}"
        if point == "z":
            return _child(architecture, attention, _READ_HEADS, point), "in"
        return _child(architecture, attention, (f"{point}_proj",), point), "out"
    if point == "mlp_act":
        return _child(architecture, _mlp(architecture, layer), _READ_HIDDEN, point), "in"
    if point == "router_logits":
        return _child(architecture, _mlp(architecture, layer), _ROUTERS, point), "out"
    if point == "final_norm":
        return _child(architecture, architecture.path.rpartition(".")[0], _FINAL_NORMS, point), "out"
    assert point == "embeddings"
    embedding = architecture.model.get_input_embeddings()
    return next(path for path, module in architecture.model.named_modules() if module is embedding), "out"


def nearest(name: str, paths: Iterable[str]) -> str:
    """The one that is spelled most alike; "" without any."""
    return next(iter(get_close_matches(name, paths, n=1, cutoff=0)), "")


def _mlp(architecture: Architecture, layer: int) -> str:
    """Of a block, its MLP or mixture of experts; where there is none (OPT), the block itself holds the layers."""
    block = f"{architecture.path}.{layer}"
    try:
        return f"{block}.{architecture.raw_output(layer, 'mlp')}"
    except EPError:
        mixture = (name for name in _MIXTURES if hasattr(architecture.blocks[layer], name))
        return ".".join([block, *mixture])


def _child(architecture: Architecture, parent: str, names: tuple[str, ...], point: str) -> str:
    children = dict(architecture.model.get_submodule(parent).named_children())
    for name in names:
        if isinstance(children.get(name), nn.Module):
            return f"{parent}.{name}".strip(".")
    raise EPError(
        f"{parent or 'the model'} of {architecture.class_name} has no place called {point}: looked for "
        f"{', '.join(names)}, there are {', '.join(children) or 'no modules'}. Name the module by its path, such as "
        f"{'.'.join(filter(None, [parent, *list(children)[:1]]))}:out"
    )
