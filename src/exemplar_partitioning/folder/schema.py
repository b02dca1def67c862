"""What a dictionary's files say, schema 1.1 (docs/format.md): records of config.json, columns of regions.parquet."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import DataError, EPError
from ..text.windowing import Windowing

if TYPE_CHECKING:
    from ..models.architecture import Architecture
    from ..models.sites import Site

SCHEMA_VERSIONS = ("1.0", "1.1")

REGIONS_SCHEMA = pa.schema(
    [
        pa.field("region", pa.int32(), nullable=False),
        pa.field("content_id", pa.string(), nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("token", pa.string(), nullable=False),
        pa.field("context", pa.string(), nullable=False),
        pa.field("raw_norm", pa.float32(), nullable=False),
        pa.field("arrival_index", pa.int64(), nullable=False),
        pa.field("arrivals", pa.int64(), nullable=False),
        pa.field("window_tokens", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False),
    ]
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Record = TypeVar("Record", bound=BaseModel)


def validated(kind: type[Record], value: Any, path: Path) -> Record:
    """A record from the plain values that a file holds; DataError, naming the first that does not fit."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is damaged: {where}: {first['msg']}") from error


class AdmissionRecord(_Part):
    """What experiments showed of the model when it was loaded (docs/models.md)."""

    lens: str | None = Field(description="why there is no logit lens; null: it was tested and is true")
    head: bool = Field(description="whether it gives logits")
    remote_code: bool = Field(description="whether code that came with the model ran")
    probe: tuple[float, ...] = Field(description="projections of the activations of a few fixed tokens, about 1")


class ModelRecord(_Part):
    """The model the activations came from."""

    id: str = Field(description="hub id, packaged name or folder name")
    revision: str | None = Field(description="revision on the hub, if one was named")
    architecture: str | None = Field(description="class name in transformers; null: not known")
    d_model: int = Field(description="width of the residual stream; of the activations, where that is not known")
    n_layers: int | None
    vocab_size: int | None
    dtype: str = Field(description="dtype of the forward pass; another dtype gives another dictionary")
    fingerprint: str | None = Field(
        description="sha256 over parameters, buffers, packed weights, configuration and active adapters; over "
        "parameters alone where `weights` is absent; null: the activations were given, by which model is not known"
    )
    tokenizer_hash: str | None
    license: str | None
    # Absent from dictionaries built before there were any.
    weights: str | None = Field(
        default=None,
        exclude_if=lambda weights: weights is None,
        description="sha256 over parameter names, shapes, dtypes and bytes",
    )
    admission: AdmissionRecord | None = Field(
        default=None, exclude_if=lambda admission: admission is None, description="what was tested when it was loaded"
    )

    @classmethod
    def unknown(cls, d_model: int, dtype: str, **known: Any) -> ModelRecord:
        """Of a model of which no more is known than its activations, and perhaps some fields."""
        fields = {name: None for name, field in cls.model_fields.items() if field.is_required()}
        return cls.model_validate(fields | {"id": "unknown", "d_model": d_model, "dtype": dtype} | known)

    @property
    def known(self) -> bool:
        """Whether it is known which model it was; else activations were given, or a dictionary was imported."""
        return self.fingerprint not in (None, "unknown")


class SiteRecord(_Part):
    """Where in the model, in three spellings."""

    name: str = Field(description="canonical, e.g. resid_post.12")
    transformer_lens: str | None = Field(description="e.g. blocks.12.hook_resid_post; null where there is none")
    module_path: str | None = Field(
        description="e.g. model.layers.12, or model.layers.12.mlp.down_proj:in; null: not known, or of no module"
    )
    width: int | None = Field(
        default=None, exclude_if=lambda width: width is None, description="of its activations; absent: d_model"
    )

    @classmethod
    def of(cls, site: Site, width: int, architecture: Architecture | None = None) -> SiteRecord:
        """A site of a model; of one that is not here, the module is not known."""
        path, width_there = architecture and site.module_path(architecture), None if site.in_stream else width
        return cls(name=str(site), transformer_lens=site.transformer_lens, module_path=path, width=width_there)

    @classmethod
    def named(cls, name: str, width: int) -> SiteRecord:
        """A site in a model that is not here: canonical, of TransformerLens, a module's side, or as anyone named it."""
        from ..models.sites import named_site

        if (site := named_site(name)) is not None:
            return cls.of(site, width)
        if not (folder := re.sub(r"[^\w.@-]+", "-", name).strip("-.")):
            raise EPError(f"site is {name!r}; expected a name such as resid_post.12")
        return cls(name=folder, transformer_lens=None, module_path=None)


class TextRecord(_Part):
    """What was streamed."""

    source: str
    context_size: int | None = Field(ge=1, description="text tokens of a window, BOS not counted; null: not known")
    prepend_bos: bool | None
    bos_id: int | None
    shuffle_buffer: int = Field(ge=0, description="windows")
    seed: int
    digest: str = Field(description="sha256 over the token ids of all windows streamed, in order")
    # Written only where they say something, so that other dictionaries keep the bytes of schema 1.0.
    chat: bool = Field(
        False, exclude_if=lambda chat: not chat, description="documents are users' messages in the chat template"
    )
    template_date: str | None = Field(
        None,
        exclude_if=lambda date: date is None,
        description="day (ISO) that the chat template was told it is; absent if it does not ask",
    )
    positions: str = Field(
        "all",
        exclude_if=lambda positions: positions == "all",
        description="tokens of a window whose activations count: all, first, last, every:N of a document, or "
        "mask:FIELD, those that a field of its row marks",
    )
    roles: tuple[str, ...] = Field(
        default=(), exclude_if=lambda roles: not roles, description="who says the tokens that count; absent: anyone"
    )
    pool: Literal["mean"] | None = Field(
        default=None,
        exclude_if=lambda pool: pool is None,
        description="mean: an activation is the mean of a document's tokens that count; absent: of one token",
    )
    generate: int = Field(
        default=0,
        exclude_if=lambda tokens: not tokens,
        description="tokens at most that the model answered every document with, greedily; absent: none",
    )

    @property
    def begins_with(self) -> int | None:
        """The BOS token that every window begins with, if it is known to."""
        return self.bos_id if self.prepend_bos else None

    @property
    def windowing(self) -> Windowing:
        """How documents became windows, the default where that is not known; equal where text can be read together."""
        known = {name: getattr(self, name) for name in Windowing.model_fields}
        return Windowing(**{name: value for name, value in known.items() if value is not None})


class CalibrationRecord(_Part):
    """Where the threshold comes from."""

    percentile: float = Field(gt=0, lt=100)
    threshold: float = Field(gt=0, le=2, description="cosine distance, 0..2")
    spread: float = Field(ge=0, description="standard deviation of the percentile between calibration batches")
    batch: int = Field(ge=1, description="activations of a calibration batch")
    n_activations: int = Field(ge=0, description="activations calibrated on; the first of the stream")
    center_norm: float = Field(ge=0)


class UnseenRecord(_Part):
    """Good-Turing estimate of the share of further activations that would found a region, 95 % interval."""

    estimate: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class BuildRecord(_Part):
    """How far the stream was followed."""

    k: int = Field(ge=0, description="regions")
    n_activations: int = Field(ge=0, description="activations streamed")
    skipped: int = Field(ge=0, description="of them without a direction: not finite, or equal to the centre")
    stopped: Literal["saturated", "unseen", "budget", "text"] = Field(
        description="no new exemplar within the window; missing mass reached; token budget spent; text ended"
    )
    saturation_window: int = Field(ge=1, description="activations")
    until_unseen: float | None
    unseen: UnseenRecord
    growth: list[tuple[int, int]] = Field(description="(activations, regions) along the stream")
    device: str

    @model_validator(mode="after")
    def _consistent(self) -> BuildRecord:
        assert self.skipped <= self.n_activations, "more activations skipped than streamed"
        assert self.growth, "nothing is told of its growth"
        steps = [(0, 0), *self.growth]
        assert all(a <= c and b <= d for (a, b), (c, d) in pairwise(steps)), "growth falls"
        assert self.unseen.low <= self.unseen.estimate <= self.unseen.high, "an estimate outside its interval"
        return self


class FileRecord(_Part):
    """Content of one file."""

    sha256: str
    bytes: int = Field(ge=0)


class Config(_Part):
    """config.json."""

    format: Literal["exemplar-partitioning/dictionary"] = "exemplar-partitioning/dictionary"
    schema_version: Literal["1.0", "1.1"] = Field(default="1.0", description="the lowest that can say all this")
    model: ModelRecord
    site: SiteRecord
    text: TextRecord
    calibration: CalibrationRecord
    build: BuildRecord
    versions: dict[str, str]
    files: dict[str, FileRecord] = {}

    @property
    def width(self) -> int:
        """Of the activations: d_model, unless their site has another."""
        return self.site.width or self.model.d_model

    @property
    def no_lens(self) -> str | None:
        """Why there is no logit lens; None where there is, or where models were not yet tested for it."""
        if self.site.width is not None:
            return f"{self.site.name} is not the residual stream, so its directions are not read as predictions"
        return self.model.admission and self.model.admission.lens

    @classmethod
    def stating_its_version(cls, **parts: Any) -> Config:
        """A configuration with the lowest version of the schema that can say all of it."""
        config = cls(**parts)
        text = config.text
        given = config.model.fingerprint is None or text.context_size is None
        counted = text.positions not in ("all", "last") or text.roles or text.pool or text.generate
        newer = given or counted or config.site.width
        return config.model_copy(update={"schema_version": "1.1"}) if newer else config


def json_schema() -> dict[str, Any]:
    """JSON Schema of config.json; committed as docs/config.schema.json."""
    return Config.model_json_schema()
