"""The folder a dictionary lives in: schema 1.0 (docs/format.md).

    config.json             what it is, how it was made, hash of every other file
    config.json.sha256      hash of config.json
    exemplars.safetensors   center [d], exemplars [k, d], float32
    regions.parquet         a row per exemplar: the token it came from, arrivals

Nothing in it depends on the clock, the machine or the folder's place: same input, same bytes (law L8).
Loading reads no pickle, checks schema and hashes, and leaves regions.parquet alone until it is asked.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32, Float64
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from ..core.dictionary import Dictionary
from ..core.search import Prefilter
from ..errors import DataError, EPError
from ..files import check_seal, new_folder, read_groups, read_json, read_table, seal, sha256, to_json, verify
from .schema import REGIONS_SCHEMA, SCHEMA_VERSION, Config, FileRecord

if TYPE_CHECKING:
    from .annotation import Annotation

_ROW_GROUP = 1024


class StoredDictionary(Dictionary):
    """A dictionary with the folder it was read from."""

    path: Path
    config: Config

    def __repr__(self) -> str:
        return (
            f"StoredDictionary({self.config.model.id}, {self.config.site.name}, "
            f"p={self.config.calibration.percentile:g}, k={self.k}, threshold={self.threshold:.4f})"
        )

    @property
    def content_id(self) -> str:
        """Hash of everything the dictionary is: the sha256 of config.json, which holds all others."""
        return sha256(self.path / "config.json")

    @cached_property
    def _regions_file(self) -> Path:
        record = self.config.files["regions.parquet"]
        path = self.path / "regions.parquet"
        verify(path, record.sha256, record.bytes)
        if not pq.read_schema(path).equals(REGIONS_SCHEMA):
            raise DataError(f"{path} has other columns than schema {SCHEMA_VERSION} describes (docs/format.md)")
        return path

    @cached_property
    def regions(self) -> pa.Table:
        """A row per region, in order: where its exemplar was observed, and its arrivals (docs/format.md)."""
        return read_table(self._regions_file)

    @cached_property
    def typical_norm(self) -> float:
        """Median length of the site's activations in the model's own units, as the exemplars had it.

        Each exemplar counts as often as activations arrived at it, so that outliers which founded regions of
        their own do not set the scale.
        """
        known = self._lengths_known()
        norm_k = known["raw_norm"].to_numpy().astype(np.float64)
        arrivals_k = known["arrivals"].to_numpy()
        order = np.argsort(norm_k, kind="stable")
        half = np.searchsorted(np.cumsum(arrivals_k[order]), arrivals_k.sum() / 2)
        return float(norm_k[order][half])

    @cached_property
    def typical_radius(self) -> float:
        """Median distance from the centre of the activations that became exemplars, in the model's own units."""
        self._lengths_known()
        return float(np.nanmedian(self.radius_k))

    @cached_property
    def radius_k(self) -> Float64[np.ndarray, " k"]:
        """Distance from the centre of the activation that became each exemplar; NaN where its length is not known.

        Follows from the length: |c + r e| = raw_norm, of two solutions the larger. Where the activation is longer
        than the centre, it is the only one.
        """
        raw_k = self.regions["raw_norm"].to_numpy().astype(np.float64)
        c_d = self.center.double().numpy()
        along_k = self.exemplars.double().numpy() @ c_d
        return np.sqrt(np.maximum(along_k**2 + raw_k**2 - c_d @ c_d, 0)) - along_k

    def _lengths_known(self) -> pa.Table:
        """The regions whose exemplar's length is known: all, but in dictionaries that were imported."""
        known = self.regions.filter(np.isfinite(self.regions["raw_norm"].to_numpy()))
        if not len(known):
            raise EPError(
                f"{self.path} was imported without the lengths of its activations, so there is no unit for steps along "
                "a direction; import it again with --model, which finds them"
            )
        return known

    @cached_property
    def annotation(self) -> Annotation:
        """Members, examples, logit lens of the regions; EPError, saying what to do, if there are none yet."""
        from .annotation import Annotation

        return Annotation(self)

    @property
    def mean_directions(self) -> Float32[np.ndarray, "k d"]:
        """Unit mean direction of each region's members, zeros without members; of an annotated dictionary."""
        return self.annotation.mean_directions

    def region(self, index: int) -> dict[str, Any]:
        """One row of `regions`, read without the others."""
        with pq.ParquetFile(self._regions_file) as file:
            group = read_groups(file, [self.check_region(index) // _ROW_GROUP])
        return group.slice(index % _ROW_GROUP, 1).to_pylist()[0]


def versions() -> dict[str, str]:
    """Of this package and of what its numbers follow from."""
    return {name: version(name) for name in ("exemplar-partitioning", "torch", "transformers")}


def content_ids(exemplars_kd: np.ndarray) -> list[str]:
    """A name for each exemplar that follows from its bytes alone: 16 hex digits of their sha256."""
    rows = np.ascontiguousarray(exemplars_kd, dtype="<f4")
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in rows]


def save(path: Path, config: Config, dictionary: Dictionary, regions: pa.Table) -> Config:
    """Write a new dictionary folder, whole or not at all; returns the config with the hashes filled in.

    Raises FileExistsError if the folder exists, ResourceError if the disk is full.
    """
    assert regions.schema.equals(REGIONS_SCHEMA) and len(regions) == dictionary.k == config.build.k
    with new_folder(path) as folder:
        tensors = {
            "center": dictionary.center.contiguous(),
            "exemplars": dictionary.exemplars.cpu().contiguous(),
        }
        (folder / "exemplars.safetensors").write_bytes(serialise(tensors))
        pq.write_table(regions, folder / "regions.parquet", row_group_size=_ROW_GROUP, compression="zstd")
        files = {
            file.name: FileRecord(sha256=sha256(file), bytes=file.stat().st_size) for file in sorted(folder.iterdir())
        }
        config = config.model_copy(update={"files": files})
        (folder / "config.json").write_bytes(to_json(config.model_dump(mode="json")))
        seal(folder / "config.json")
    return config


def load(
    path: str | Path,
    *,
    site: str | None = None,
    percentile: float | None = None,
    device: str = "cpu",
    prefilter: Prefilter | None = None,
) -> StoredDictionary:
    """Load a dictionary from its folder, or by site and percentile from the folder of a build.

    A folder on this machine; `ep.load` asks the hub too.

    Raises EPError if there is none or several fit, DataError if files are missing, truncated, altered
    or of a newer schema.
    """
    folder = _choose(Path(path), site, percentile)
    config = read_config(folder)
    tensors = _read_tensors(folder, config)
    dictionary = StoredDictionary(
        tensors["center"], tensors["exemplars"], config.calibration.threshold, device, prefilter
    )
    if (dictionary.k, dictionary.d_model) != (config.build.k, config.model.d_model):
        raise DataError(
            f"{folder}: config.json says k = {config.build.k}, d_model = {config.model.d_model}; "
            f"exemplars.safetensors holds {dictionary.k} x {dictionary.d_model}"
        )
    object.__setattr__(dictionary, "path", folder)
    object.__setattr__(dictionary, "config", config)
    return dictionary


def find(root: Path) -> list[Path]:
    """Dictionary folders at or below a folder, by site, then percentile."""
    if (root / "config.json").is_file():
        return [root]
    found = [file.parent for file in root.glob("*/p*/config.json")]

    def order(folder: Path) -> tuple[list[Any], float]:
        name, _, layer = folder.parent.name.rpartition(".")
        return [int(layer) if layer.isdigit() else -1, name], _percentile_of(folder)

    return sorted(found, key=order)


def percentile_name(percentile: float) -> str:
    """Folder of a percentile: `p2`, `p2.5`; different percentiles never share one."""
    return f"p{float(percentile)!r}".removesuffix(".0")


def _percentile_of(folder: Path) -> float:
    try:
        return float(folder.name.removeprefix("p"))
    except ValueError:
        return float("inf")


def _choose(root: Path, site: str | None, percentile: float | None) -> Path:
    if not root.is_dir():
        raise EPError(f"no folder {root}; give the folder that `ep build` wrote")
    found = find(root)
    if not found:
        unfinished = (root / ".build").is_dir()
        raise EPError(
            f"{root} holds no dictionary"
            + (" yet: its build has not finished; continue it with --resume" if unfinished else "")
        )
    fitting = [
        folder
        for folder in found
        if (site is None or site in (folder.parent.name, *_spellings(folder)))
        and (percentile is None or _percentile_of(folder) == percentile)
    ]
    if len(fitting) == 1:
        return fitting[0]
    have = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in (fitting or found))
    asked = " and ".join(
        f"{name} {value}" for name, value in (("site", site), ("percentile", percentile)) if value is not None
    )
    problem = "several dictionaries fit" if fitting else f"no dictionary for {asked}"
    raise EPError(f"{problem} in {root}; choose one by site and percentile: {have}")


def _spellings(folder: Path) -> tuple[str, ...]:
    site = read_config(folder).site
    return site.name, site.transformer_lens, site.module_path


def read_config(folder: Path) -> Config:
    """config.json of a dictionary folder, checked."""
    path = folder / "config.json"
    raw = read_json(path)
    if raw.get("format") != "exemplar-partitioning/dictionary":
        raise DataError(f"{path} does not describe a dictionary of this package")
    version = str(raw.get("schema_version"))
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {version}; this package reads {SCHEMA_VERSION}: "
            "if it comes from a newer exemplar-partitioning, install that"
        )
    try:
        config = Config.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is damaged: {where}: {first['msg']}") from error
    check_seal(path)
    return config


def _read_tensors(folder: Path, config: Config) -> dict[str, torch.Tensor]:
    path = folder / "exemplars.safetensors"
    if path.name not in config.files or "regions.parquet" not in config.files:
        raise DataError(f"{folder / 'config.json'} is damaged: it does not list {path.name} and regions.parquet")
    record = config.files[path.name]
    verify(path, record.sha256, record.bytes)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("center", "exemplars")}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise DataError(f"{path} must hold float32; got {[str(t.dtype) for t in tensors.values()]}")
    return tensors
