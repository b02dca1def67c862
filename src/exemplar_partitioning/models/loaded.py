"""What loading a model gives: the model, its tokenizer, who they are, and what was tested on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import EPError
from .architecture import Architecture


@dataclass(frozen=True)
class Admission:
    """What the experiments on a model showed, beyond what every model that is admitted has shown (docs/models.md)."""

    lens: str | None
    """Why there is no logit lens; None: it was tested and is true to the model's own logits."""
    head: bool
    """Whether the model gives logits at all, so that it can write."""
    remote_code: bool
    """Whether code that came with the model was allowed to run."""
    probe: tuple[float, ...] = field(compare=False)
    """Projections of the activations of a few fixed tokens; equal up to rounding wherever the same model runs."""


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
    """sha256 (hex) over all that activations follow from: parameters, buffers and packed weights, the configuration,
    active adapters with their scale (docs/models.md)."""
    tokenizer_hash: str
    """sha256 (hex) over everything that decides which ids a text becomes."""
    vocab_size: int
    """Rows of the token embedding."""
    license: str | None
    """As stated by the package or the file it came from; None: not known, which permits nothing."""
    weights: str | None = None
    """sha256 (hex) over name, shape, dtype and bytes of every parameter, in the order of the sorted names. None:
    recorded when that was the fingerprint."""
    admission: Admission | None = None
    """What was tested when the model was loaded; None: recorded before models were tested."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A causal language model ready to run, its tokenizer, and who they are.

    Attributes:
        source: name, absolute path or hub id it was loaded from, and revision of a hub id; None for a model object.
        asked: what `load_model` was, by parameter; None where that was a model object or a tokenizer object.
    """

    model: Any
    tokenizer: Any
    info: ModelInfo
    architecture: Architecture
    source: tuple[str, str | None] | None = None
    asked: Mapping[str, Any] | None = None

    @property
    def no_lens(self) -> str | None:
        """Why there is no logit lens of this model; None where there is."""
        return self.info.admission.lens if self.info.admission else None

    def require_lens(self) -> None:
        """Raise EPError, saying why, where the model has no logit lens."""
        if self.no_lens is not None:
            raise EPError(f"{self.info.id} has no logit lens: {self.no_lens}")

    def require_head(self, to: str) -> None:
        """Raise EPError where the model gives no logits, which it needs in order `to` do something."""
        if self.info.admission and not self.info.admission.head:
            raise EPError(
                f"{self.info.id} cannot {to}: {self.no_lens}. Give the whole causal language model, with its head"
            )
