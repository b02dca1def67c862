"""Sparse autoencoders of other libraries, to compare with: read from their files, run by a few lines of ours.

| made by       | files                                                             |
|---------------|-------------------------------------------------------------------|
| SAELens       | cfg.json, sae_weights.safetensors                                 |
| sparsify      | cfg.json, sae.safetensors                                         |
| Gemma Scope   | params.npz (for Gemma 2); params.safetensors, config.json (for 3) |

Shapes: n activations, f features, d = d_model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from ..errors import DataError, EPError
from ..files import foreign, read_json

Kind = Literal["relu", "topk", "jumprelu"]
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MARGIN = 4 << 20  # bytes, beyond three times the size of a file


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """Encoder, decoder and what happens between them; float32."""

    W_enc: Float[Tensor, "d f"]
    b_enc: Float[Tensor, " f"]
    W_dec: Float[Tensor, "f d"]
    b_dec: Float[Tensor, " d"]
    kind: Kind
    """What is kept of the pre-activations above 0: all, the k largest of a row, or those above the threshold.

    A BatchTopK autoencoder is a jumprelu one here, with the threshold its training arrived at, as everywhere after it.
    """
    threshold: Float[Tensor, " f"] | None = None
    k: int | None = None
    centred: bool = True
    """b_dec is subtracted before encoding."""
    model: str | None = None
    """Name of the model, and of the place in it, as the files give them."""
    site: str | None = None

    def __post_init__(self) -> None:
        d, f = self.W_enc.shape
        shapes = {"b_enc": (f,), "W_dec": (f, d), "b_dec": (d,)} | (
            {} if self.threshold is None else {"threshold": (f,)}
        )
        for name in ("W_enc", *shapes):
            if not torch.isfinite(getattr(self, name)).all():
                raise DataError(f"{name} holds values that are not finite: the file is damaged")
        for name, shape in shapes.items():
            if tuple(actual := getattr(self, name).shape) != shape:
                raise DataError(f"W_enc is {d} x {f}, so {name} must have shape {list(shape)}; it has {list(actual)}")
        if (self.kind == "jumprelu") != (self.threshold is not None) or (self.kind == "topk") != (self.k is not None):
            raise DataError(f"a {self.kind} autoencoder has a threshold (jumprelu) or k (topk), and not the other")
        if self.k is not None and not 1 <= self.k <= f:
            raise DataError(f"k must lie between 1 and the number of features, {f}; got {self.k}")

    def encode(self, x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """Features of activations.

        Args:
            x_nd: activations [n, d].

        Returns:
            Features [n, f], float32.
        """
        pre_nf = (x_nd.float() - self.b_dec if self.centred else x_nd.float()) @ self.W_enc + self.b_enc
        features_nf = pre_nf.relu()
        if self.k is not None:
            top = features_nf.topk(self.k, dim=1)
            return torch.zeros_like(features_nf).scatter_(1, top.indices, top.values)
        return features_nf if self.threshold is None else features_nf * (pre_nf > self.threshold)

    def decode(self, features_nf: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        """Activations rebuilt from features.

        Args:
            features_nf: features [n, f].

        Returns:
            Activations [n, d], float32.
        """
        return features_nf @ self.W_dec + self.b_dec


def load_sae(path: str | Path) -> SparseAutoencoder:
    """Read an autoencoder from its folder, or from a params file of Gemma Scope.

    Args:
        path: folder that SAELens or sparsify wrote; or params.npz, params.safetensors, or the folder of one.

    Returns:
        Its tensors, with `encode` and `decode`.

    Raises:
        EPError: no such files, or an architecture that is none of relu, topk, jumprelu and batchtopk.
        DataError: files that are damaged or do not fit together.
    """
    with foreign(Path(path), "an autoencoder"):
        return _load(Path(path))


def _load(path: Path) -> SparseAutoencoder:
    folder = path if path.is_dir() else path.parent
    if (folder / "sae_weights.safetensors").is_file():
        return _saelens(folder)
    if (folder / "sae.safetensors").is_file():
        return _sparsify(folder)
    for name in ("params.npz", "params.safetensors"):
        if (folder / name).is_file():
            return _gemma_scope(folder / name)
    raise EPError(
        f"{path} holds no autoencoder; expected sae_weights.safetensors (SAELens), sae.safetensors (sparsify), "
        "params.npz or params.safetensors (Gemma Scope)"
    )


def _saelens(folder: Path) -> SparseAutoencoder:
    config, tensors = read_json(folder / "cfg.json"), _tensors(folder / "sae_weights.safetensors")
    facts = {**config, **(config.get("metadata") or {})}  # before version 6 they stood beside each other
    architecture = config.get("architecture", "standard")
    if config.get("activation_fn_str", config.get("activation_fn")) == "topk":  # before version 6
        architecture, config = "topk", {**config, **config.get("activation_fn_kwargs", {})}
    unsupported = {
        "normalize_activations": ("none", "expected_average_only_in", None),  # the second is folded into the weights
        "reshape_activations": ("none", None),
        "finetuning_scaling_factor": (False, None),
        "architecture": ("standard", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk"),
    }
    for name, known in unsupported.items():
        if (value := {**config, "architecture": architecture}.get(name)) not in known:
            raise EPError(f"{folder}: {name} {value!r} cannot be read; expected {' or '.join(map(str, known))}")
    w_enc, b_enc, w_dec = (_named(folder, tensors, name) for name in ("W_enc", "b_enc", "W_dec"))
    threshold = tensors.get("threshold", tensors.get("topk_threshold"))
    if architecture.endswith("topk") and config.get("rescale_acts_by_decoder_norm"):
        if w_dec.T.shape != w_enc.shape or w_enc.shape[1:] != b_enc.shape:  # broadcast, they could fill any memory
            raise DataError(f"{folder}: W_enc {[*w_enc.shape]}, W_dec {[*w_dec.shape]} and b_enc do not fit together")
        norm_f = w_dec.norm(dim=1)
        w_enc, b_enc, w_dec = w_enc * norm_f, b_enc * norm_f, w_dec / norm_f[:, None]
    kind: Kind = "relu" if architecture == "standard" else "topk" if architecture == "topk" else "jumprelu"
    return SparseAutoencoder(
        w_enc,
        b_enc,
        w_dec,
        _named(folder, tensors, "b_dec"),
        kind,
        threshold=threshold.expand(len(b_enc)) if kind == "jumprelu" and threshold is not None else None,
        k=int(config["k"]) if kind == "topk" and "k" in config else None,
        centred=bool(config.get("apply_b_dec_to_input", True)),
        model=facts.get("model_name"),
        site=facts.get("hook_name"),
    )


def _sparsify(folder: Path) -> SparseAutoencoder:
    config, tensors = read_json(folder / "cfg.json"), _tensors(folder / "sae.safetensors")
    if config.get("activation", "topk") != "topk" or config.get("transcode") or config.get("skip_connection"):
        raise EPError(f"{folder}: only TopK autoencoders of sparsify can be read, no transcoders or other activations")
    return SparseAutoencoder(
        _named(folder, tensors, "encoder.weight").T,
        _named(folder, tensors, "encoder.bias"),
        _named(folder, tensors, "W_dec"),
        _named(folder, tensors, "b_dec"),
        "topk",
        k=int(config["k"]),
        site=folder.name,
    )


def _gemma_scope(path: Path) -> SparseAutoencoder:
    tensors = {
        name.lower(): tensor for name, tensor in (_npz(path) if path.suffix == ".npz" else _tensors(path)).items()
    }
    config = read_json(path.with_name("config.json")) if path.with_name("config.json").is_file() else {}
    if "affine_skip_connection" in tensors or config.get("architecture", "jump_relu") != "jump_relu":
        raise EPError(f"{path}: only JumpReLU autoencoders of Gemma Scope can be read, no transcoders")
    w_enc, b_enc, w_dec, b_dec, threshold = (
        _named(path, tensors, name) for name in ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
    )
    return SparseAutoencoder(
        w_enc,
        b_enc,
        w_dec,
        b_dec,
        "jumprelu",
        threshold=threshold,
        centred=False,
        model=config.get("model_name"),
        site=config.get("hf_hook_point_in"),
    )


def _named(path: Path, tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise DataError(
            f"{path} holds no {name}, only {', '.join(sorted(tensors))[:300]}; the file is incomplete or another's"
        )
    return tensors[name]


def _tensors(path: Path) -> dict[str, Tensor]:
    with foreign(path, "safetensors"):
        tensors = load_file(path)
    if odd := {str(tensor.dtype) for tensor in tensors.values() if tensor.dtype not in _FLOATS}:
        raise DataError(f"{path} holds {', '.join(sorted(odd))}; expected float16, bfloat16, float32 or float64")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _holds(archive: ZipFile, member: ZipInfo) -> bool:
    """Whether an array's shape is within its bytes: numpy makes room for the shape first."""
    with archive.open(member) as file:
        old = np.lib.format.read_magic(file) == (1, 0)
        shape, _, dtype = (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(file)
    return math.prod(shape) * dtype.itemsize <= member.file_size


def _npz(path: Path) -> dict[str, Tensor]:
    size, tensors = path.stat().st_size, dict[str, Tensor]()
    left = room = 3 * size + _MARGIN
    # opened here, since numpy leaves a damaged file open
    with foreign(path, "arrays"), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        members = arrays.zip.infolist()
        if sum(member.file_size for member in members) <= room and all(_holds(arrays.zip, one) for one in members):
            for name in arrays.files:
                array = arrays[name]
                left -= 4 * array.size + array.nbytes * (array.dtype != np.float32)
                if left < 0:
                    break
                tensors[name] = torch.from_numpy(array.astype(np.float32, copy=False))
            else:
                return tensors
    raise DataError(
        f"{path} has {size:,} bytes and asks for more than {room:,} of memory, or for more than it holds: it is "
        "damaged, or made to fill memory"
    )
