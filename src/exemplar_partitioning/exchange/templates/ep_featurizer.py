"""An Exemplar Partitioning dictionary as a featurizer for MIB: x to (features, error) and back, without loss.

Features are the signed projections (x - c) . e on all exemplars; the error is what these do not rebuild. With more
exemplars than dimensions both are large and cancel, so the error is kept in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


class EPFeaturizerModule(torch.nn.Module):
    """x [..., d] to features [..., k], in the dtype of x, and error [..., d] float64."""

    center: Tensor
    exemplars: Tensor

    def __init__(self, center: Tensor, exemplars: Tensor):
        super().__init__()
        self.register_buffer("center", center.double())  # [d]
        self.register_buffer("exemplars", exemplars.double())  # [k, d]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = ((x.double() - self.center) @ self.exemplars.T).to(x.dtype)
        return features, x.double() - features.double() @ self.exemplars - self.center


class EPInverseFeaturizerModule(torch.nn.Module):
    """Features [..., k] and error [..., d] to x [..., d], in the dtype of the features."""

    center: Tensor
    exemplars: Tensor

    def __init__(self, center: Tensor, exemplars: Tensor):
        super().__init__()
        self.register_buffer("center", center.double())
        self.register_buffer("exemplars", exemplars.double())

    def forward(self, features: Tensor, error: Tensor) -> Tensor:
        return (features.double() @ self.exemplars + self.center + error).to(features.dtype)


def modules(folder: str | Path) -> tuple[EPFeaturizerModule, EPInverseFeaturizerModule]:
    """Both directions, from the folder of dictionary.safetensors."""
    tensors = load_file(Path(folder) / "dictionary.safetensors")
    arrays = tensors["center"], tensors["exemplars"]
    return EPFeaturizerModule(*arrays), EPInverseFeaturizerModule(*arrays)


def featurizer(folder: str | Path) -> Any:
    """A `Featurizer` of the CausalAbstraction repository, on which MIB runs."""
    from neural.featurizers import Featurizer  # pyright: ignore[reportMissingImports]

    there, back = modules(folder)
    return Featurizer(there, back, n_features=len(there.exemplars), id="exemplar_partition")
