"""Who a model is: hashes over its weights and over whatever else its activations follow from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import EPError

_HASH_CHUNK = 1 << 24
_SUMMED_AT_ONCE = 1 << 10  # words of 8 bytes
# Odd, one for each place among the words that are summed, so that values that change places change the sum.
_FACTORS = torch.arange(1, 2 * _SUMMED_AT_ONCE, 2) * 0x1E3779B97F4A7C15 % (1 << 62) | 1
_WRAPPED = "_original_component"  # where a wrapper of TransformerLens keeps what it wraps
# Of a configuration: names, training, labels, what is returned, how text is generated. No activation follows from them.
_IRRELEVANT = frozenset(
    (
        "architectures",
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "finetuning_task",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "label2id",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "unsloth_version",
        "use_cache",
    )
)


@dataclass(frozen=True)
class Identity:
    """Two hashes of one model, hex.

    Attributes:
        fingerprint: over weights, buffers and packed weights, the configuration, and active adapters with their scale.
        weights: over name, shape, dtype and bytes of every parameter, in the order of the sorted names.
    """

    fingerprint: str
    weights: str


_known: WeakKeyDictionary[nn.Module, tuple[bytes, Identity]] = WeakKeyDictionary()


def current_identity(model: nn.Module) -> Identity:
    """Who a model is now; hashed anew only where a checksum over all that the hash covers has changed.

    The checksum reads every weight at the speed of memory, so a change is seen however it was made (counters of
    PyTorch miss those through `.data`), and where values change places.
    """
    state = _checksum(model)
    known = _known.get(model)
    if known is not None and known[0] == state:
        return known[1]
    weights = weights_hash(model)
    identity = Identity(_fingerprint(model, weights), weights)
    _known[model] = state, identity
    return identity


def same_model(a: Any, b: Any) -> bool:
    """Whether two records of a model (`ModelInfo`, `ModelRecord`) are of one, by their fingerprints.

    Folders of schema 1.0 from before fingerprints covered more than parameters have no `weights`; with one of them,
    parameters are all that can be compared.
    """
    if a.weights and b.weights:
        return a.fingerprint == b.fingerprint
    return (a.weights or a.fingerprint) == (b.weights or b.fingerprint)


def weights_hash(model: nn.Module) -> str:
    """sha256 (hex) over name, shape, dtype and bytes of every parameter, in the order of the sorted names."""
    return weights_hash_of(dict(_parameters(model)))


def weights_hash_of(parameters: Mapping[str, Tensor]) -> str:
    """`weights_hash` of a model with these parameters."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        _hash(digest, name, parameters[name])
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 (hex) over everything that decides which ids a text becomes."""
    digest = hashlib.sha256()
    for part in _tokenizer_parts(tokenizer):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that stand for structure rather than text: BOS, EOS, padding, roles, reserved."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {index for index, token in added.items() if token.special}


def _modules(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """As `named_modules`, without the wrappers that a TransformerBridge puts around the model's own modules."""
    children = dict(module.named_children())
    if _WRAPPED in children:
        yield from _modules(children[_WRAPPED], prefix)
        return
    yield prefix, module
    for name, child in children.items():
        yield from _modules(child, f"{prefix}{name}.")


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    seen: set[int] = set()
    for prefix, module in _modules(model):
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield prefix + name, parameter


def _others(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Everything saved with a model that is no parameter: buffers, and the state of quantised layers."""
    for prefix, module in _modules(model):
        saved: dict[str, Any] = {}
        module._save_to_state_dict(saved, prefix, keep_vars=True)  # of this module alone, as `state_dict` asks for it
        for name, value in saved.items():
            if not isinstance(value, nn.Parameter):
                yield name, value


def _fingerprint(model: nn.Module, weights: str) -> str:
    digest = hashlib.sha256(weights.encode())
    for name, value in sorted(_others(model), key=lambda other: other[0]):
        _hash(digest, name, value)
    digest.update(_settings(model))
    return digest.hexdigest()


def _settings(model: Any) -> bytes:
    """Configuration and adapters: what activations follow from without being a tensor."""
    settings = [_relevant(model.config.to_dict()) if hasattr(model, "config") else {}, *_adapters(model)]
    return json.dumps(settings, sort_keys=True, default=str).encode()


def _relevant(configuration: Any) -> Any:
    if isinstance(configuration, list | tuple):
        return [_relevant(value) for value in configuration]
    if not isinstance(configuration, dict):
        return configuration
    return {
        str(name): _relevant(value)
        for name, value in configuration.items()
        if not (str(name) in _IRRELEVANT or str(name).startswith("_"))
    }


def _adapters(model: nn.Module) -> Iterator[list[Any]]:
    """Of every layer that PEFT has wrapped: which adapters take part, how strongly, and which are merged.

    Also the prompt that takes part, where it is one that was learnt.
    """
    module: Any
    for prefix, module in _modules(model):
        if hasattr(module, "prompt_encoder") and hasattr(module, "has_active_enabled_adapter"):
            yield [prefix, module.active_adapter if module.has_active_enabled_adapter else None]
        if not (hasattr(module, "active_adapters") and hasattr(module, "merged_adapters")):
            continue
        active = [] if module.disable_adapters else list(module.active_adapters)
        names = ("scaling", *getattr(module, "other_param_names", ()))
        values = {name: getattr(module, name, None) for name in names}
        scales = {
            f"{name} {adapter}": value[adapter]
            for name, value in values.items()
            for adapter in active
            if isinstance(value, dict) and isinstance(value.get(adapter), int | float | str)
        }
        yield [prefix, active, list(module.merged_adapters), scales]


def _hash(digest: Any, name: str, value: Any) -> None:
    """Take one entry of a model's state into a hash: a tensor of any kind, or a container of such."""
    if isinstance(value, tuple | list):
        for index, part in enumerate(value):
            _hash(digest, f"{name}[{index}]", part)
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            _hash(digest, f"{name}[{key}]", value[key])
    elif isinstance(value, Tensor):
        digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        for flat in _plain(name, value):
            step = _HASH_CHUNK // flat.element_size()
            for start in range(0, flat.numel(), step):
                # bf16 has no numpy type; as bytes, on the CPU, nothing is copied.
                digest.update(flat[start : start + step].cpu().view(torch.uint8).numpy().data)
    else:
        digest.update(f"{name} {value!r}\n".encode())


def _plain(name: str, tensor: Any) -> Iterator[Tensor]:
    """The plain tensors, flat, that a tensor is made of: itself, or the parts of a quantised one."""
    tensor = tensor.detach()
    if tensor.is_meta:
        raise EPError(
            f"the weights {name!r} are not in memory: they were offloaded, or the model was made on the meta device. "
            "Load the whole model onto one device, or give its name"
        )
    if hasattr(tensor, "__tensor_flatten__"):
        parts, context = tensor.__tensor_flatten__()
        yield torch.tensor(list(repr(context).encode()), dtype=torch.uint8)
        for part in parts:
            yield from _plain(name, getattr(tensor, part))
    elif tensor.is_quantized:
        per_channel = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        scale = tensor.q_per_channel_scales() if per_channel else torch.tensor(tensor.q_scale())
        zero = tensor.q_per_channel_zero_points() if per_channel else torch.tensor(tensor.q_zero_point())
        yield from (part.contiguous().view(-1) for part in (tensor.int_repr(), scale, zero))
    else:
        yield tensor.contiguous().view(-1)


def _checksum(model: nn.Module) -> bytes:
    digest = hashlib.sha256(_settings(model))
    with torch.no_grad():
        for name, value in (*_parameters(model), *_others(model)):
            if not isinstance(value, Tensor):
                _hash(digest, name, value)
                continue
            digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
            for flat in _plain(name, value):
                data = flat.view(torch.uint8)
                whole = len(data) // (8 * _SUMMED_AT_ONCE) * 8 * _SUMMED_AT_ONCE
                if data.storage_offset() % 8:  # its words cannot be read as such
                    whole = 0
                words = data[:whole].view(torch.int64).view(-1, _SUMMED_AT_ONCE)
                factors = _FACTORS.to(words.device)
                for start in range(0, len(words), _SUMMED_AT_ONCE):  # products of a piece stay in cache
                    sums = (words[start : start + _SUMMED_AT_ONCE] * factors).sum(dim=1)
                    digest.update(sums.cpu().numpy().data)
                digest.update(data[whole:].cpu().numpy().data)
    return digest.digest()


def _tokenizer_parts(tokenizer: Any) -> Iterator[str]:
    yield json.dumps(sorted(special_token_ids(tokenizer)))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer written in Python: its vocabulary is what there is to see
        yield type(tokenizer).__name__
        yield json.dumps(tokenizer.get_vocab(), sort_keys=True)
        return
    state = json.loads(backend.to_str())
    # Set by whoever called it last.
    state.pop("truncation", None)
    state.pop("padding", None)
    yield json.dumps(state, sort_keys=True)
