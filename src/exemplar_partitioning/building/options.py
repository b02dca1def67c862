"""What may be asked of a build, each with its default and meaning.

`build` and `ep build` have their parameters from here; it is light to import, as every start of `ep` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SkipValidation

from ..text.windowing import Settings, Windowing

DEFAULT_MODEL = "smollm2-135m-instruct"


class Following(Settings):
    """How far a stream of activations is followed, and what calibrates."""

    max_tokens: int = Field(
        default=1_000_000, ge=1, description="Budget in tokens of text, unless all dictionaries saturate before."
    )
    until_unseen: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Also stop a dictionary when this small a share is new, e.g. 1e-4: of the last window of "
        "activations, and by the upper limit of the missing mass.",
    )
    saturation_window: int = Field(
        default=16_384, ge=1, description="Activations without a new exemplar that end a dictionary."
    )
    calibration_sample: int = Field(
        default=212_992, ge=2, description="Activations that calibrate, the first of the stream, in whole batches."
    )
    calibration_batch: int = Field(
        default=16_384,
        ge=2,
        description="Activations among which distances are ranked; part of what theta means, as is the sample.",
    )
    strict: bool = Field(
        default=False,
        description="Refuse unreadable text and activations that are not finite; else they are skipped and counted.",
    )


class BuildOptions(Windowing, Following):
    """What decides the bytes of a build, beside model, text, sites and percentiles."""

    batch_size: int = Field(default=16, ge=1, description="Windows in one forward pass.")
    documents: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda documents: documents is None,
        description="Documents to read at most, the first there are; else as many as the budget has room for.",
    )


class RunRequest(Settings):
    """What a build is asked for, whatever its activations come from."""

    out: str | Path = Field(description="Folder to write, `<out>/<site>/p<percentile>/`.")
    percentiles: SkipValidation[Iterable[float]] = Field(
        default=(1.0, 2.0, 4.0, 8.0, 10.0), description="Resolutions; each is a dictionary, small is fine."
    )
    checkpoint_seconds: float = Field(default=60.0, ge=0, description="At least so long between checkpoints.")
    resume: bool = Field(default=False, description="Go on with what the same call or command began.")
    on_event: SkipValidation[Callable[[Any], None] | None] = Field(
        default=None, description="Told how the build goes, as `building.settings.BuildEvent`."
    )
    stop: SkipValidation[Callable[[], bool]] = Field(
        default=lambda: False, description="Asked between batches; True saves a checkpoint and raises Interrupted."
    )
    annotate: bool = Field(default=False, description="Gather evidence for the regions, too, as `ep build` does.")
    progress: bool = Field(default=False, description="Show a bar, in a terminal or a notebook.")


class GivenRequest(RunRequest, Following):
    """All that `build_from_activations` takes, beside the activations."""

    tokens: SkipValidation[Any] = Field(
        default=None,
        description="Token ids, one an activation: a path or an array, as activations are given. Columns and arrays "
        "named token_ids, input_ids or tokens beside the activations are found.",
    )
    tokenizer: SkipValidation[Any] = Field(
        default=None, description="Whose ids: a name, a path or a tokenizer; its special tokens do not count."
    )
    site: str | None = Field(
        default=None,
        description="Where in a model they were taken, e.g. resid_post.12; as column or array are called, unless told.",
    )
    model: str = Field(default="unknown", description="Name of the model that gave them; it is not loaded.")
    field: str | None = Field(default=None, description="Column, key or array that holds the activations.")
    context_size: int = Field(
        default=128, ge=1, description="Tokens of a window, of token ids that come without sequences."
    )
    device: str = Field(default="auto", description="auto, cpu or cuda: where exemplars are searched.")
    max_tokens: int = Field(default=10**12, ge=1, description="Activations to read at most.")


class BuildRequest(RunRequest, BuildOptions):
    """All that `build` takes, beside model and text."""

    sites: SkipValidation[str | Iterable[str] | None] = Field(
        default=None,
        description="Names or globs, with commas between: resid_post.15 or resid_post.2*. Of a block: resid_pre, "
        "resid_mid, resid_post, attn_out_post, mlp_out_post, q, k, v, z, mlp_act, router_logits; of the model: "
        "embeddings, final_norm; of any module: its path with :in or :out. By default the residual stream half way up.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="auto, float32, bfloat16 or float16. auto: float32 on a CPU, the model's own on a GPU.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or mps. auto: cuda where present.")
    field: str = Field(default="text", description="Column or key that holds the text.")
    keep_activations: Literal["none", "calibration", "all"] = Field(
        default="none",
        description="Activations left in `<out>/activations`, which annotating the same text reads instead of running "
        "the model again: those that calibrate, until they have been read, or all, for good.",
    )
    ray: str | None = Field(
        default=None,
        description="Extract on a Ray cluster: local for one in this machine, auto for the one that runs here, or "
        "host:port. Same result, byte for byte.",
    )
    workers: int | None = Field(
        default=None,
        description="Workers on the cluster, each with the threads, or the GPU, of this process; as many as it has "
        "room for, unless told.",
    )
