"""A model by packaged name, path, hub id or object, tested before it is handed over."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import EPError, ResourceError
from .admission import admit
from .architecture import Architecture, transformers_model
from .identity import current_identity, tokenizer_hash
from .loaded import LoadedModel, ModelInfo
from .source import adapted, find, looks_local, read_tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    model: Any,
    *,
    tokenizer: Any = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model with its tokenizer, or describe a model object; either is tested (docs/models.md).

    Args:
        model: a packaged name (see `PACKAGED_MODELS`), a transformers folder, a .gguf file, a hub id, or a
            model object, which is used as it is: of transformers, a `TransformerBridge`, or of interp-engine.
        tokenizer: a tokenizer object, or where one is: name, folder; default: the model's own.
        adapter: folder of an adapter of PEFT, which is put on the model.
        revision: branch, tag or commit, for a hub id only.
        dtype: "auto" (float32 on a CPU, the model's own elsewhere), "float32", "bfloat16" or "float16".
        device: "auto" (CUDA if there is one, else CPU), "cpu", "cuda", "cuda:1", "mps", ...
        trust_remote_code: run Python code that comes with the model; warned of, and recorded.

    Returns:
        The model with its tokenizer and what identifies it; `ep.build`, `ep.read`, `ep.steer` and the others take it.

    Raises:
        ResourceError: no such device here, no network, or the disk is full.
        DataError: files that are damaged, or do not hold all weights of the model.
        EPError: unknown model, dtype or device, or a model that does not pass the tests.
    """
    asked = {"model": model, "tokenizer": tokenizer, "adapter": adapter, "revision": revision, "dtype": dtype}
    named = all(value is None or isinstance(value, str | Path) for value in asked.values())
    asked |= {"device": device, "trust_remote_code": trust_remote_code}
    if isinstance(tokenizer, str | Path):
        tokenizer = find(tokenizer, None, trust_remote_code).tokenizer
    if not isinstance(model, str | Path):
        if adapter is not None:
            raise EPError(
                "an adapter is put on a model that is given by name; of a model object, call its load_adapter"
            )
        return _from_object(model, tokenizer, revision, dtype, device)
    if dtype != "auto" and dtype not in _DTYPES:
        raise EPError(f"unknown dtype {dtype!r}; expected auto, {', '.join(_DTYPES)}.")
    target = pick_device(device)
    source = find(model, revision, trust_remote_code)
    if adapter is not None:
        source = adapted(model, adapter, trust_remote_code)
    if trust_remote_code and source.packaged is None:
        warnings.warn(f"{source.name}: Python code that comes with this model may run", stacklevel=2)
    loaded, its_tokenizer = source.read(_DTYPES.get(dtype) or (torch.float32 if target.type == "cpu" else "auto"))
    if any(parameter.device != target for parameter in loaded.parameters()):
        loaded.to(target)
    loaded.eval()
    packaged = source.packaged
    revision = source.revision if source.path else getattr(loaded.config, "_commit_hash", None) or source.revision
    license = packaged.license if packaged else None
    remote = trust_remote_code and type(loaded).__module__.startswith("transformers_modules")
    described = _describe(
        loaded, tokenizer or its_tokenizer, source.name, revision=revision, license=license, remote_code=remote
    )
    source.check_published(described.info.weights or "", described.info.dtype)
    described = replace(described, asked=asked if named else None)
    if tokenizer is not None:
        return described
    at = str(source.path.resolve()) if source.path and not packaged else source.name
    return replace(described, source=(at, None if source.path else revision))


def outline(model: Any, *, revision: str | None = None, trust_remote_code: bool = False) -> Architecture:
    """The architecture of what `load_model` would load, without reading its weights: enough to resolve sites.

    Raises:
        EPError: as `load_model`, as far as name, configuration and modules tell.
    """
    if isinstance(model, LoadedModel):
        return model.architecture
    if isinstance(model, str | Path):
        model = find(model, revision, trust_remote_code).outline()
    return Architecture.of(model)


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


def bos_id(loaded: LoadedModel) -> int:
    """The id windows start with: the tokenizer's BOS, else the configuration's, else EOS (GPT-2's way).

    Raises:
        EPError: none of these exists.
    """
    config = loaded.model.config.get_text_config()
    ends = getattr(config, "eos_token_id", None)
    first_end = ends[0] if isinstance(ends, list) and ends else ends
    for candidate in (
        loaded.tokenizer.bos_token_id,
        getattr(config, "bos_token_id", None),
        loaded.tokenizer.eos_token_id,
        first_end,
    ):
        if isinstance(candidate, int):
            return candidate
    raise EPError(
        f"{loaded.info.id} has neither a BOS nor an EOS token, so windows have nothing to start with. "
        "Set tokenizer.bos_token and pass the tokenizer."
    )


def _from_object(model: Any, tokenizer: Any, revision: str | None, dtype: str, device: str) -> LoadedModel:
    if revision is not None or dtype != "auto" or device != "auto":
        raise EPError(
            "revision, dtype and device cannot be set for a model object, which is used as it is; convert it first, "
            "e.g. model.to('cuda', torch.bfloat16)."
        )
    outer, model = model, transformers_model(model)
    Architecture.of(model)  # refuses what is no model before anything else is tried
    if not (hasattr(model, "dtype") and hasattr(model, "device")):
        raise EPError(
            f"this {type(model).__name__} is a module around a model and does not pass on its dtype and device; give "
            "the transformers model inside"
        )
    name = getattr(model, "name_or_path", "")
    if tokenizer is None:
        tokenizer = _tokenizer_of(outer, name)
    name = name or type(model).__name__
    return _describe(model, tokenizer, name, revision=getattr(model.config, "_commit_hash", None), license=None)


def _tokenizer_of(model: Any, name: str) -> Any:
    """The one under the model's name; else the one that a bridge or an engine has, with settings of its own."""
    try:
        if name:
            return read_tokenizer(name)
    except (OSError, ValueError):
        pass
    if (attached := getattr(model, "tokenizer", None)) is not None:
        return attached
    raise EPError(
        f"no tokenizer was given with the model object, and none is found under its name {name!r}. Pass tokenizer=."
    )


def _describe(
    model: Any, tokenizer: Any, name: str, *, revision: str | None, license: str | None, remote_code: bool = False
) -> LoadedModel:
    architecture = Architecture.of(model)
    before = [parameter._version for parameter in model.parameters()]
    with ThreadPoolExecutor(1) as beside:  # hashing leaves a core to the experiments
        hashed = beside.submit(current_identity, model)
        info = ModelInfo(
            id=Path(name).expanduser().resolve().name if looks_local(name) else name,
            revision=revision,
            architecture=architecture.class_name,
            d_model=architecture.d_model,
            n_layers=architecture.n_layers,
            dtype=str(model.dtype).removeprefix("torch."),
            fingerprint="",
            tokenizer_hash=tokenizer_hash(tokenizer),
            vocab_size=architecture.vocab_size,
            license=license,
        )
        loaded = LoadedModel(model=model, tokenizer=tokenizer, info=info, architecture=architecture)
        admission = admit(loaded, remote_code=remote_code)
    identity = hashed.result()
    if before != [parameter._version for parameter in model.parameters()]:
        identity = current_identity(model)  # RWKV rescales its weights in its first forward pass
    info = replace(info, fingerprint=identity.fingerprint, weights=identity.weights, admission=admission)
    return replace(loaded, info=info)
