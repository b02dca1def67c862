"""What is known about the regions of a dictionary: the folder `annotation` inside it (docs/format.md).

    annotation.json         on which text, with which model; what holds for the dictionary as a whole; hashes
    annotation.json.sha256  hash of annotation.json
    regions.parquet         a row per region: members, coherence, top tokens, logit lens
    examples.parquet        rows sorted by region: tokens in context, with distances
    means.safetensors       mean_directions [k, d] float32, histogram [k, BINS] int32

It appears whole or not at all, and leaves the dictionary itself untouched: evidence comes and goes,
the partition keeps its bytes and its name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import save as serialise

from ..errors import DataError, EPError, check_choice
from ..files import (
    check_seal,
    new_folder,
    read_groups,
    read_json,
    read_table,
    read_tensors,
    seal,
    sha256,
    to_json,
)
from .annotation_invariants import check_evidence, check_example_columns, check_examples, check_means
from .html import facts
from .listing import OnDisk, verified
from .schema import SCHEMA_VERSIONS, FileRecord, TextRecord, validated

if TYPE_CHECKING:
    from jaxtyping import Float, Int32

    from .concepts import Concepts
    from .interest import Interest

FOLDER = "annotation"
BINS = 64  # of the distance histogram
BIN_WIDTH = 1 / 40  # cosine distance; the last bin holds what lies beyond
KINDS = ("nearest", "farthest", "random")

ROW_GROUP = 1024  # rows


def _list_of(**fields: pa.DataType) -> pa.DataType:
    struct = pa.struct([pa.field(name, kind, nullable=False) for name, kind in fields.items()])
    return pa.list_(pa.field("element", struct, nullable=False))


_TOKENS = _list_of(token_id=pa.int32(), token=pa.string(), count=pa.int64(), lift=pa.float64())
_PROMOTED = _list_of(token_id=pa.int32(), token=pa.string(), probability=pa.float32(), lift=pa.float32())

REGIONS_SCHEMA = pa.schema(
    [
        pa.field("region", pa.int32(), nullable=False),
        pa.field("members", pa.int64(), nullable=False),
        pa.field("within", pa.int64(), nullable=False),  # members within theta
        pa.field("coherence", pa.float64()),
        pa.field("mean_distance", pa.float64()),
        pa.field("std_distance", pa.float64()),
        pa.field("half", pa.int64(), nullable=False),  # members in the first half of the documents
        pa.field("stability", pa.float64()),
        pa.field("top_tokens", _TOKENS, nullable=False),
        pa.field("before_tokens", _TOKENS, nullable=False),
        pa.field("lens_top", _PROMOTED, nullable=False),
        pa.field("lens_bottom", _PROMOTED, nullable=False),
        pa.field("mean_lens_top", _PROMOTED, nullable=False),
        pa.field("mean_lens_bottom", _PROMOTED, nullable=False),
        pa.field("examples", pa.int32(), nullable=False),  # rows of examples.parquet
    ]
)

EXAMPLES_SCHEMA = pa.schema(
    [
        pa.field("region", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # one of KINDS
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("distance", pa.float64(), nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("at", pa.int32(), nullable=False),  # which of the tokens is the example itself
        pa.field("token_ids", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False),
        pa.field("tokens", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
        # of each token's activation to the region's exemplar; null where it has no direction
        pa.field("distances", pa.list_(pa.field("element", pa.float32())), nullable=False),
    ]
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Metrics(_Part):
    """Intrinsic metrics of some exemplars on some activations. None of them alone tells quality."""

    k: int = Field(description="regions")
    coverage: float = Field(description="share of the activations within theta of an exemplar")
    cohesion: float = Field(description="mean cosine distance of the activations to their exemplar; lower is tighter")
    nearest_inter: float = Field(description="mean cosine distance of exemplars to the nearest other one")
    separation_ratio: float = Field(description="nearest_inter / theta; above 1 for any leader clustering, by its rule")
    silhouette: float = Field(description="mean over regions of (b - a) / max(a, b), a cohesion, b nearest_inter")
    max_similarity: float = Field(description="largest cosine of two exemplars; below 1 - theta by the leader rule")
    gini: float = Field(description="inequality of the regions' sizes, 0 to 1")
    effective: float = Field(description="exp of the entropy of the regions' shares: regions in effective use")
    utilisation: float = Field(description="effective / k")


class Quality(_Part):
    """The same metrics for the dictionary and for what holds no structure, on equally many activations."""

    n_activations: int = Field(description="activations that the metrics are taken on")
    dictionary: Metrics
    random_exemplars: Metrics = Field(description="as many activations drawn at random in place of the exemplars")
    gaussian: Metrics = Field(
        description="leader clustering, same theta, of Gaussian noise with the mean and covariance of the "
        "activations, up to as many regions; taken on such noise"
    )


class AnnotationRecord(_Part):
    """annotation.json."""

    format: Literal["exemplar-partitioning/annotation"] = "exemplar-partitioning/annotation"
    schema_version: Literal["1.0", "1.1"] = Field("1.0", description="the lowest that can say all this")
    dictionary: str = Field(description="content id of the dictionary: sha256 of its config.json")
    model: str | None = Field(description="fingerprint of the model that read the text; null: activations were given")
    text: TextRecord
    max_tokens: int = Field(ge=0)
    n_tokens: int = Field(ge=0, description="tokens of text read")
    n_documents: int = Field(ge=0)
    n_activations: int = Field(ge=0, description="members of all regions together")
    skipped: int = Field(ge=0, description="activations without a direction")
    coverage: float = Field(ge=0, le=1, description="share of the activations within theta of an exemplar")
    empty: int = Field(ge=0, description="regions without members")
    gini: float = Field(ge=-1e-9, le=1)
    effective: float = Field(ge=0, description="exp of the entropy of the regions' shares")
    quality: Quality
    versions: dict[str, str]
    files: dict[str, FileRecord] = {}


def json_schema() -> dict[str, Any]:
    """JSON Schema of annotation.json; committed as docs/annotation.schema.json."""
    return AnnotationRecord.model_json_schema()


class Annotation:
    """The evidence about a dictionary's regions, read lazily; hashes are verified when a file is first used."""

    def __init__(self, dictionary: OnDisk):
        """Raises EPError if there is none, saying how to get it; DataError if it is damaged or another dictionary's."""
        self.dictionary, self.path = dictionary, dictionary.path / FOLDER
        self._reading = threading.Lock()  # pyarrow aborts where two threads use one reader
        if not self.path.is_dir():
            raise EPError(
                f"{dictionary.path} is not annotated: there are no members, examples and lens to show. "
                f"Run `ep annotate {dictionary.path}` first"
            )
        self.record = _read_record(self.path / "annotation.json")
        if self.record.dictionary != dictionary.content_id:
            raise DataError(
                f"{self.path} was made for the dictionary {self.record.dictionary[:12]}, but this is "
                f"{dictionary.content_id[:12]}; remove it and run `ep annotate {dictionary.path}`"
            )

    def __repr__(self) -> str:
        record = self.record
        return f"Annotation({record.n_activations:,} members, {record.n_documents:,} documents of {record.text.source})"

    def _repr_html_(self) -> str:
        record, names = self.record, ("n_tokens", "coverage", "empty", "gini", "effective")
        values = {name.removeprefix("n_"): getattr(record, name) for name in names}
        return facts(repr(self), values | {"dictionary": self.dictionary.path})

    def _verified(self, name: str) -> Path:
        return verified(self.path / "annotation.json", self.record.files, name)

    @cached_property
    def regions(self) -> pa.Table:
        """A row per region, in order; columns as in REGIONS_SCHEMA."""
        path = self._verified("regions.parquet")
        if not pq.read_schema(path).equals(REGIONS_SCHEMA) or pq.read_metadata(path).num_rows != self.dictionary.k:
            raise DataError(
                f"{path} does not hold a row for each of {self.dictionary.k} regions as docs/format.md says"
            )
        table = read_table(path)
        check_evidence(self, table)
        return table

    def region(self, index: int) -> dict[str, Any]:
        """One row of `regions` as plain values.

        Args:
            index: of the region.

        Returns:
            Its columns by name.

        Raises:
            EPError: no such region.
        """
        return self.regions.slice(self.dictionary.check_region(index), 1).to_pylist()[0]

    @cached_property
    def _examples(self) -> tuple[pq.ParquetFile, np.ndarray]:
        """The file, and the first row of each region in it."""
        path = self._verified("examples.parquet")
        if not pq.read_schema(path).equals(EXAMPLES_SCHEMA):
            raise DataError(f"{path} has other columns than docs/format.md says")
        starts = np.concatenate([[0], np.cumsum(self.regions["examples"].to_numpy())])
        file = pq.ParquetFile(path)
        if file.metadata.num_rows != starts[-1]:
            raise DataError(f"{path} has {file.metadata.num_rows:,} rows; regions.parquet counts {starts[-1]:,}")
        return file, starts

    def examples(self, index: int, kind: str | None = None) -> list[dict[str, Any]]:
        """Members of a region with their context, as plain values: nearest, farthest and random, each by rank.

        Args:
            index: of the region.
            kind: one of `nearest`, `random` and `farthest`; None for all.

        Returns:
            Rows with `tokens`, `at` (the member's place in them), `distance`, `document` and others.

        Raises:
            EPError: no such region or kind.
            DataError: the file is damaged.
        """
        if kind is not None:
            check_choice("kind", kind, KINDS)
        file, starts = self._examples
        first, end = (int(starts[i]) for i in (self.dictionary.check_region(index), index + 1))
        if first == end:
            return []
        groups = range(first // ROW_GROUP, (end - 1) // ROW_GROUP + 1)
        with self._reading:
            table = read_groups(self.path / "examples.parquet", file, groups)
        rows = table.slice(first - groups[0] * ROW_GROUP, end - first).to_pylist()
        check_examples(self, index, rows)
        return [row for row in rows if kind in (None, row["kind"])]

    def example_columns(self, columns: list[str]) -> pa.Table:
        """Some columns of the examples of all regions, in their order.

        Args:
            columns: their names.

        Returns:
            A row per example.

        Raises:
            DataError: the file is damaged.
        """
        self._examples  # noqa: B018  (checks the file)
        table = read_table(self._verified("examples.parquet"), list(dict.fromkeys(["region", "at", *columns])))
        check_example_columns(self, table)
        return table.select(columns)

    @cached_property
    def interest(self) -> Interest:
        """Which regions have most to tell."""
        from .interest import Interest

        return Interest(self)

    @cached_property
    def concepts(self) -> Concepts:
        """Labels by contrast, and how well labels tell members from others."""
        from .concepts import Concepts

        return Concepts(self)

    @cached_property
    def _tensors(self) -> dict[str, np.ndarray]:
        path = self._verified("means.safetensors")
        tensors = read_tensors(path, ("mean_directions", "histogram"), "np")
        check_means(self, tensors)
        return tensors

    @property
    def mean_directions(self) -> Float[np.ndarray, "k d"]:
        """Unit mean member direction per region; zeros where a region has no members."""
        return self._tensors["mean_directions"]

    @property
    def histogram(self) -> Int32[np.ndarray, "k bins"]:
        """Members by cosine distance to their exemplar, in bins of BIN_WIDTH from 0; the last holds the rest."""
        return self._tensors["histogram"]


def _read_record(path: Path) -> AnnotationRecord:
    value = read_json(path)
    if (version := value.get("schema_version")) not in SCHEMA_VERSIONS:
        raise DataError(f"{path} has schema version {version}; this package reads {' and '.join(SCHEMA_VERSIONS)}")
    record = validated(AnnotationRecord, value, path)
    check_seal(path)
    return record


def write(
    path: Path,
    record: AnnotationRecord,
    regions: pa.Table,
    examples: Iterable[pa.Table],
    *,
    mean_directions: Float[np.ndarray, "k d"],
    histogram: Int32[np.ndarray, "k bins"],
) -> None:
    """Write an annotation into a new folder, whole or not at all.

    Args:
        path: of the folder: FOLDER in that of its dictionary, or beside it until it takes that place.
        record: annotation.json, but for the hashes of files.
        regions: a row for each region.
        examples: sorted by region, in tables of whole row groups but for the last.
        mean_directions: unit mean member direction of each region.
        histogram: members of each region by distance.
    """
    assert regions.schema.equals(REGIONS_SCHEMA)
    with new_folder(path) as folder:
        pq.write_table(regions, folder / "regions.parquet", row_group_size=ROW_GROUP, compression="zstd")
        with pq.ParquetWriter(folder / "examples.parquet", EXAMPLES_SCHEMA, compression="zstd") as file:
            for part in examples:
                file.write_table(part, row_group_size=ROW_GROUP)
        tensors = {"mean_directions": mean_directions, "histogram": histogram}
        (folder / "means.safetensors").write_bytes(serialise(tensors))
        files = {file.name: FileRecord(sha256=sha256(file), bytes=file.stat().st_size) for file in folder.iterdir()}
        record = record.model_copy(update={"files": dict(sorted(files.items()))})
        (folder / "annotation.json").write_bytes(to_json(record.model_dump(mode="json")))
        seal(folder / "annotation.json")
