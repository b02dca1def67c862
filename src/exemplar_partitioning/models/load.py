"""A model by packaged name, path, hub id or object, and who it is: what a dictionary remembers about it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..demo.gguf import read_gguf
from ..demo.models import PACKAGED_MODELS, packaged_model
from ..errors import DataError, EPError, ResourceError
from ..quiet import first_line, quiet
from .architecture import Architecture, transformers_model

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HASH_CHUNK = 1 << 24
_WRAPPED = "_original_component"  # where a wrapper of TransformerLens keeps what it wraps


@dataclass(frozen=True)
class ModelInfo:
    """Identity of a model and its tokenizer."""

    id: str
    """The name it was asked for by, or the object's `name_or_path`."""
    revision: str | None
    """Hub commit, or the hash of a packaged model's GGUF file; None where there is neither."""
    architecture: str
    """Class name of the model object."""
    d_model: int
    n_layers: int
    dtype: str
    """Of the weights as loaded, e.g. `float32`; activations depend on it."""
    fingerprint: str
    """sha256 (hex) over name, shape, dtype and bytes of every parameter, in the order of the sorted names."""
    tokenizer_hash: str
    """sha256 (hex) over everything that decides which ids a text becomes."""
    vocab_size: int
    """Rows of the token embedding."""
    license: str | None
    """As stated by the package or the file it came from; None: not known, which permits nothing."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A causal language model ready to run, its tokenizer, and who they are.

    source: name, absolute path or hub id it was loaded from, and revision of a hub id; None for a model object.
    """

    model: Any
    tokenizer: Any
    info: ModelInfo
    architecture: Architecture
    source: tuple[str, str | None] | None = None


def load_model(
    model: Any,
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> LoadedModel:
    """Load a model with its tokenizer, or describe a model object.

    Args:
        model: a packaged name (see `PACKAGED_MODELS`), a transformers folder, a .gguf file, a hub id, or a
            model object, which is used as it is: of transformers, a `TransformerBridge`, or of interp-engine.
        tokenizer: a tokenizer object; default: the model's own.
        revision: branch, tag or commit, for a hub id only.
        dtype: "auto" (float32 on a CPU, the model's own elsewhere), "float32", "bfloat16" or "float16".
        device: "auto" (CUDA if there is one, else CPU), "cpu", "cuda", "cuda:1", "mps", ...

    Raises:
        ResourceError: no such device here, no network, or the disk is full.
        EPError: unknown model, dtype or device, or a model that cannot be read.
    """
    if not isinstance(model, str | Path):
        return _from_object(model, tokenizer, revision, dtype, device)
    if dtype != "auto" and dtype not in _DTYPES:
        raise EPError(f"unknown dtype {dtype!r}; expected auto, {', '.join(_DTYPES)}.")
    target = pick_device(device)
    name, path = str(model), Path(model).expanduser()
    wanted = _DTYPES.get(dtype) or (torch.float32 if target.type == "cpu" else "auto")
    local = isinstance(model, Path) or _looks_local(name)
    packaged = PACKAGED_MODELS.get(name) if not local else None
    if revision is not None and (packaged is not None or path.exists()):
        raise EPError(
            f"a revision ({revision!r}) only makes sense for a hub id, but {name!r} is not one; leave it out."
        )
    if packaged is not None:
        loaded, own_tokenizer = _from_folder(packaged_model(name), wanted)
        revision, license = packaged.revision, packaged.license
    elif path.is_file() and path.suffix == ".gguf":
        loaded, own_tokenizer = read_gguf(path)
        if isinstance(wanted, torch.dtype):
            loaded = loaded.to(wanted)
        license = None
    elif path.is_dir():
        loaded, own_tokenizer = _from_folder(path, wanted)
        license = None
    elif local or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise EPError(f"there is no model at {name!r}: expected a transformers folder or a .gguf file. {_choices()}")
    else:
        loaded, own_tokenizer = _from_hub(name, revision, wanted)
        revision, license = getattr(loaded.config, "_commit_hash", None) or revision, None
    loaded.to(target).eval()
    described = _describe(loaded, tokenizer or own_tokenizer, name, revision, license)
    if tokenizer is not None:
        return described
    there = str(path.resolve()) if path.exists() and packaged is None else name
    return replace(described, source=(there, None if packaged or path.exists() else revision))


def search_device(beside: torch.device) -> str:
    """Where exemplars are searched: beside the model, but on a CPU where the model's device has no float64."""
    return "cpu" if beside.type == "mps" else str(beside)


def pick_device(device: str) -> torch.device:
    """The device meant by a name; "auto" is CUDA where there is one, else the CPU.

    Apple's MPS is never chosen on its own: some versions of torch multiply matrices wrongly on it without a
    word, so it must be asked for and must pass a check.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise EPError(f"unknown device {device!r}; expected auto, cpu, cuda, cuda:N or mps.") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"device {device!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices here. "
            "Use --device cpu, or install a CUDA build of torch on a machine with a GPU."
        )
    if wanted.type == "mps":
        if not torch.backends.mps.is_available():
            raise ResourceError("device 'mps' was asked for, but torch has no MPS here. Use --device cpu.")
        if not multiplies_rightly(wanted):
            raise ResourceError(
                f"device 'mps' multiplies matrices wrongly with torch {torch.__version__} (a known defect, "
                "pytorch #193487). Use --device cpu, or another version of torch."
            )
    return wanted


def multiplies_rightly(device: torch.device) -> bool:
    """Whether products with a transposed view on the left, the known trouble, agree with the CPU's."""
    a_nd, b_nd = torch.randn(2, 257, 129, generator=torch.Generator().manual_seed(0))
    expected = a_nd.T @ b_nd
    return torch.allclose((a_nd.to(device).T @ b_nd.to(device)).cpu(), expected, rtol=1e-3, atol=1e-2)


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that stand for structure rather than text: BOS, EOS, padding, roles, reserved."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {index for index, token in added.items() if token.special}


def bos_id(loaded: LoadedModel) -> int:
    """The id windows start with: the tokenizer's BOS, else the configuration's, else EOS (GPT-2's way).

    Raises:
        EPError: none of these exists.
    """
    config = loaded.model.config.get_text_config()
    ends = getattr(config, "eos_token_id", None)
    first_end = ends[0] if isinstance(ends, list) and ends else ends
    for found in (
        loaded.tokenizer.bos_token_id,
        getattr(config, "bos_token_id", None),
        loaded.tokenizer.eos_token_id,
        first_end,
    ):
        if isinstance(found, int):
            return found
    raise EPError(
        f"{loaded.info.id} has neither a BOS nor an EOS token, so windows have nothing to start with. "
        "Set tokenizer.bos_token and pass the tokenizer."
    )


def fingerprint(model: nn.Module) -> str:
    """sha256 (hex) over name, shape, dtype and bytes of every parameter, in the order of the sorted names."""
    digest = hashlib.sha256()
    for name, parameter in sorted(_parameters(model)):
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}\n".encode())
        flat = parameter.detach().contiguous().view(-1)
        step = _HASH_CHUNK // flat.element_size()
        for start in range(0, flat.numel(), step):
            # bf16 has no numpy type; as bytes, on the CPU, nothing is copied.
            digest.update(flat[start : start + step].cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parameters(
    module: nn.Module, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, nn.Parameter]]:
    """As `named_parameters`, without the wrappers that a TransformerBridge puts around the model's own modules."""
    seen = set() if seen is None else seen
    children = dict(module.named_children())
    if _WRAPPED in children:
        yield from _parameters(children[_WRAPPED], prefix, seen)
        return
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield prefix + name, parameter
    for name, child in children.items():
        yield from _parameters(child, f"{prefix}{name}.", seen)


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 (hex) over everything that decides which ids a text becomes."""
    digest = hashlib.sha256()
    for part in _tokenizer_parts(tokenizer):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


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


def _from_object(model: Any, tokenizer: Any, revision: str | None, dtype: str, device: str) -> LoadedModel:
    if revision is not None or dtype != "auto" or device != "auto":
        raise EPError(
            "revision, dtype and device cannot be set for a model object, which is used as it is; convert it first, "
            "e.g. model.to('cuda', torch.bfloat16)."
        )
    outer, model = model, transformers_model(model)
    Architecture.of(model)  # refuses what is no model before anything else is tried
    name = getattr(model, "name_or_path", "")
    if tokenizer is None:
        tokenizer = _tokenizer_of(outer, name)
    name = name or type(model).__name__
    return _describe(model, tokenizer, name, getattr(model.config, "_commit_hash", None), None)


def _tokenizer_of(model: Any, name: str) -> Any:
    """The one under the model's name; else the one that a bridge or an engine has, with settings of its own."""
    try:
        if name:
            return _tokenizer(name)
    except (OSError, ValueError):
        pass
    if (own := getattr(model, "tokenizer", None)) is not None:
        return own
    raise EPError(
        f"no tokenizer was given with the model object, and none is found under its name {name!r}. Pass tokenizer=."
    )


def _tokenizer(source: str | Path, **options: Any) -> Any:
    from transformers import AutoTokenizer

    with quiet():
        return AutoTokenizer.from_pretrained(source, **options)


def _pretrained(source: str | Path, dtype: Any, **options: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer(source, **options)
    with quiet():
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options), tokenizer


def _from_folder(path: Path, dtype: Any) -> tuple[Any, Any]:
    try:
        return _pretrained(path, dtype, local_files_only=True)
    except Exception as error:  # whatever a damaged file provokes, from four libraries
        raise DataError(
            f"{path} cannot be loaded as a causal language model: {first_line(error)}. Expected a folder as written by "
            "save_pretrained: config.json, weights and tokenizer files."
        ) from error


def _from_hub(name: str, revision: str | None, dtype: Any) -> tuple[Any, Any]:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return _pretrained(name, dtype, revision=revision or "main")
    except (OSError, ValueError) as error:
        at = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
        causes = list(_chain(error))
        if any(isinstance(cause, GatedRepoError) for cause in causes):
            raise EPError(
                f"the hub model {at} is gated: accept its terms on the hub and log in (`hf auth login`)."
            ) from error
        if any(isinstance(cause, RepositoryNotFoundError | RevisionNotFoundError) for cause in causes):
            raise EPError(f"the hub has no model {at} that you may read. {_choices()}") from error
        raise ResourceError(
            f"the hub model {at} is not in the local hub cache and cannot be fetched (no network, HF_HUB_OFFLINE, or "
            f"not a model for text generation): {first_line(error)}. {_choices()}"
        ) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith(".gguf") or Path(name).is_dir()


def _choices() -> str:
    return (
        f"Models that need no hub: {', '.join(PACKAGED_MODELS)}; or give the path of a transformers folder or a "
        ".gguf file."
    )


def _describe(model: Any, tokenizer: Any, name: str, revision: str | None, license: str | None) -> LoadedModel:
    architecture = Architecture.of(model)
    info = ModelInfo(
        id=Path(name).expanduser().resolve().name if _looks_local(name) else name,
        revision=revision,
        architecture=architecture.class_name,
        d_model=architecture.d_model,
        n_layers=architecture.n_layers,
        dtype=str(model.dtype).removeprefix("torch."),
        fingerprint=fingerprint(model),
        tokenizer_hash=tokenizer_hash(tokenizer),
        vocab_size=architecture.vocab_size,
        license=license,
    )
    return LoadedModel(model=model, tokenizer=tokenizer, info=info, architecture=architecture)
