"""Where the residual stream runs in a causal language model: its blocks and what they add to it.

A block adds two contributions to the stream, the attention's and the MLP's. On most architectures they are
the outputs of the two submodules; where the block normalises them first (Gemma-2/3, OLMo-2, GLM-4) they are
the outputs of those norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import EPError
from ..quiet import first_line

_KNOWN_PATHS = (
    "model.layers",  # Llama, Mistral, Qwen, Gemma, OLMo, Phi-3, ...
    "transformer.h",  # GPT-2, GPT-J, Falcon, BLOOM
    "gpt_neox.layers",
    "model.decoder.layers",  # OPT
    "transformer.blocks",  # MPT
    "model.language_model.layers",  # multimodal wrappers
    "language_model.model.layers",
)
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn")
# Pairs of norms applied to the two outputs before they are added. The second name decides: Llama-like
# blocks also have a `post_attention_layernorm`, but there it is the norm before the MLP.
_POST_NORMS = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),  # Gemma-2/3, OLMo-2
    ("post_self_attn_layernorm", "post_mlp_layernorm"),  # GLM-4
)


# Under these names objects of TransformerLens 4, interp-engine and torch.compile hold the transformers model they run.
_HELD_AS = ("original_model", "hf_model", "_orig_mod")


def transformers_model(model: Any) -> Any:
    """The transformers model that a `TransformerBridge` or an interp-engine model runs; other objects as they are.

    Both call that very module, so what is hooked on it takes part in their forward passes and generations.

    Raises:
        EPError: an object of these libraries that runs weights of its own, or elsewhere; or one of nnsight.
    """
    for name in _HELD_AS:
        if isinstance(held := getattr(model, name, None), nn.Module):
            return held
    if hasattr(model, "run_with_hooks"):
        raise EPError(
            f"this {type(model).__name__} of TransformerLens does not run a transformers model, where activations are "
            "captured and changed. Use TransformerBridge.boot_transformers(name) of TransformerLens 4, or give the "
            "transformers model or its name."
        )
    if type(model).__module__.partition(".")[0] == "nnsight":
        raise EPError(
            f"this {type(model).__name__} of nnsight wraps a transformers model, which is what is needed: pass its "
            "`._model` (`._module` in newer versions) and tokenizer=its `.tokenizer`. nnsight adds no BOS to a prompt, "
            "but dictionaries are built with one unless told otherwise: begin prompts with it"
        )
    if hasattr(model, "hf_model_id"):
        raise EPError(
            f"this {type(model).__name__} of interp-engine runs its model in another process, out of reach. Use its "
            "eager backend, or give the transformers model or its name."
        )
    return model


@dataclass(frozen=True, eq=False)
class Architecture:
    """The blocks of one model object, and where each reads and writes the residual stream."""

    model: Any
    """The model object itself."""
    class_name: str
    """Class of the model object, e.g. `LlamaForCausalLM`."""
    path: str
    """Module path of the list of blocks, e.g. `model.layers`."""
    blocks: tuple[nn.Module, ...]
    d_model: int
    """Width of the residual stream."""
    vocab_size: int
    """Number of rows of the token embedding: every valid token id is below it."""
    max_length: int | None
    """Longest window the position scheme allows, in tokens; None where the configuration sets no limit."""
    has_post_norms: bool
    """The attention's and MLP's outputs are normalised before they are added to the stream."""
    regime_length: int | None = None
    """Longer windows may be positioned by other frequencies (longrope, dynamic NTK), which the longest window of a
    batch then decides for all: shorter ones never share a batch with them. None: no such length below the limit."""

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @classmethod
    def of(cls, model: Any) -> Architecture:
        """Read it off a causal language model object of transformers, or one that `transformers_model` knows.

        Raises:
            EPError: it has no configuration, no token embedding, or no recognisable list of blocks.
        """
        model = transformers_model(model)
        needed = ("config", "get_input_embeddings")
        if not isinstance(model, nn.Module) or not all(hasattr(model, name) for name in needed):
            raise EPError(
                f"expected a causal language model of transformers (a PreTrainedModel object), "
                f"got {type(model).__name__}. "
                "Load one with AutoModelForCausalLM.from_pretrained or give its name."
            )
        whole: Any = model.config
        if getattr(whole, "is_encoder_decoder", False):
            raise EPError(
                f"{type(model).__name__} has an encoder, which reads a text as a whole; expected a decoder-only "
                "language model, because an activation must not depend on the tokens after it."
            )
        config, vocab_size = _text_config(whole, model), _vocab_size(model)
        path, blocks = _find_blocks(model, config.num_hidden_layers)
        limit = getattr(config, "max_position_embeddings", None)
        limit = limit if isinstance(limit, int) and limit > 0 else None  # XLNet says -1
        return cls(
            model=model,
            class_name=type(model).__name__,
            path=path,
            blocks=tuple(blocks),
            d_model=int(config.hidden_size),
            vocab_size=vocab_size,
            max_length=limit,
            has_post_norms=any(_post_norms(block) is not None for block in blocks),
            regime_length=min((n for n in _original_lengths(config) if limit is None or n < limit), default=None),
        )

    def contribution(self, layer: int, part: str) -> str:
        """Name, inside block `layer`, of the module whose output is what `part` adds to the residual stream.

        Args:
            layer: number of the block.
            part: `"attn"` or `"mlp"`.

        Raises:
            EPError: this block has no such part.
        """
        if (norms := _post_norms(self.blocks[layer])) is not None:
            return norms[0] if part == "attn" else norms[1]
        return self.raw_output(layer, part)

    def raw_output(self, layer: int, part: str) -> str:
        """Name, inside block `layer`, of the attention or MLP module itself (before any post-norm)."""
        names = _ATTENTION if part == "attn" else _MLP
        block = self.blocks[layer]
        for name in names:
            if isinstance(getattr(block, name, None), nn.Module):
                return name
        raise EPError(
            f"block {layer} of {self.class_name} ({type(block).__name__}) has no {part} module: looked for "
            f"{', '.join(names)}. Use resid_pre.{layer} or resid_post.{layer}, which every block has."
        )


def _text_config(whole: Any, model: nn.Module) -> Any:
    """The configuration of the language model within; EPError where there is none, or more than one."""
    try:
        config = whole.get_text_config()
        if all(isinstance(getattr(config, name, None), int) for name in ("num_hidden_layers", "hidden_size")):
            return config
        why = "its configuration states no number of blocks (num_hidden_layers) or no width (hidden_size)"
    except ValueError as error:  # transformers' way of saying that it holds several
        why = first_line(error)
    raise EPError(
        f"cannot tell which part of {type(model).__name__} is its language model: {why}. Expected a causal language "
        "model with one stack of blocks; give the part that is one"
    )


def _vocab_size(model: Any) -> int:
    """Rows of the token embedding; EPError where there is not one such table."""
    embedding = model.get_input_embeddings()
    weight: Any = getattr(embedding, "weight", None)
    if getattr(weight, "ndim", 0) != 2:
        raise EPError(
            f"the token embedding of {type(model).__name__} is a {type(embedding).__name__}; expected one table of "
            "weights [tokens, width], because the model must read one sequence of token ids"
        )
    return int(weight.shape[0])


def _original_lengths(config: Any) -> Iterator[int]:
    """Context sizes before they were stretched, as a configuration states them; at the top or with the frequencies."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None) or {}
        for stated in (rope, *(part for part in rope.values() if isinstance(part, dict))):
            if isinstance(length := stated.get("original_max_position_embeddings"), int | float):
                yield int(length)
    if isinstance(length := getattr(config, "original_max_position_embeddings", None), int):
        yield length


def _post_norms(block: nn.Module) -> tuple[str, str] | None:
    for pair in _POST_NORMS:
        if all(isinstance(getattr(block, name, None), nn.Module) for name in pair):
            return pair
    return None


def _find_blocks(model: nn.Module, n_layers: int) -> tuple[str, nn.ModuleList]:
    children = dict(model.named_children())
    for path in _KNOWN_PATHS:
        if path.partition(".")[0] not in children:  # a wrapper may pass on the names of what it holds
            continue
        try:
            blocks = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(blocks, nn.ModuleList) and len(blocks) == n_layers:
            return path, blocks
    candidates = list(_lists_of_length(model, n_layers))
    if len(candidates) != 1:
        seen = ", ".join(path for path, _ in candidates) or "none"
        raise EPError(
            f"cannot tell which modules of {type(model).__name__} are its {n_layers} blocks: looked for "
            f"{', '.join(_KNOWN_PATHS)}, then for the only nn.ModuleList of that length (found: {seen}). "
            "Expected a causal language model with one stack of blocks."
        )
    return candidates[0]


def _lists_of_length(model: nn.Module, length: int) -> Iterator[tuple[str, nn.ModuleList]]:
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == length:
            yield path, module
