"""What may be asked of an annotation: `annotate` and `ep annotate` have their parameters from here. Light to import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field, SkipValidation

from ..text.windowing import Settings


class AnnotateRequest(Settings):
    """All that `annotate` takes, beside folder and text."""

    model: SkipValidation[Any] = Field(
        default=None, description="Where the model is, or the model itself, if not what the dictionaries name."
    )
    activations: SkipValidation[Any] = Field(
        default=None,
        description="Activations to gather evidence from, in place of text, as `build_from_activations` takes them.",
    )
    tokens: SkipValidation[Any] = Field(default=None, description="Their token ids.")
    tokenizer: SkipValidation[Any] = Field(default=None, description="Whose ids: a name, a path or a tokenizer.")
    max_tokens: int = Field(default=500_000, ge=1, description="Tokens of text to read.")
    documents: int | None = Field(default=None, ge=1, description="Documents to read at most, the first there are.")
    field: str | None = Field(default=None, description="Column or key that holds the text, or the activations.")
    device: str = Field(default="auto", description="auto, cpu, cuda or mps.")
    replace: bool = Field(default=False, description="Put new evidence in the place of what is there.")
    checkpoint_seconds: float = Field(default=60.0, ge=0, description="At least so long between checkpoints.")
    on_event: SkipValidation[Callable[[Any], None] | None] = Field(
        default=None, description="Told how it goes, as `annotating.run.AnnotateEvent`."
    )
    stop: SkipValidation[Callable[[], bool]] = Field(
        default=lambda: False, description="Asked between batches; True saves a checkpoint and raises Interrupted."
    )
    ray: str | None = Field(
        default=None, description="Gather on a Ray cluster, as `build` does; the result is the same, byte for byte."
    )
    workers: int | None = Field(default=None, description="Workers on the cluster; as many as it has room for.")
