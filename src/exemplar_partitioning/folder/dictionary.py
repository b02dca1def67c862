"""The folder a dictionary lives in (docs/format.md).

    config.json             what it is, how it was made, hash of every other file
    config.json.sha256      hash of config.json
    exemplars.safetensors   center [d], exemplars [k, d], float32
    regions.parquet         a row per exemplar: the token it came from, arrivals

Nothing in it depends on the clock, the machine or the folder's place: same input, same bytes (law L8).
Loading reads no pickle, checks schema and hashes, and leaves regions.parquet alone until it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Float64
from safetensors.torch import save as serialise

from ..core import dictionary as core
from ..core.nearest import Prefilter
from ..errors import EPError
from ..files import new_folder, seal, sha256, to_json
from .invariants import check_center
from .listing import ROW_GROUP, OnDisk, choose, read_exemplars
from .saveable import Dictionary
from .schema import REGIONS_SCHEMA, Config, FileRecord

if TYPE_CHECKING:
    from ..models.loaded import LoadedModel
    from .region import Region
    from .text_search import Hit

CONTEXT_TOKENS = 32  # shown before an exemplar's token


class StoredDictionary(Dictionary, OnDisk):
    """A dictionary with the folder it was read from."""

    def __repr__(self) -> str:
        return (
            f"StoredDictionary({self.config.model.id}, {self.config.site.name}, "
            f"percentile {self.config.calibration.percentile:g}, k={self.k}, threshold={self.threshold:.4f})"
        )

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

    def __getitem__(self, index: int) -> Region:
        """One region, to look at: `d[42]`."""
        from .region import Region

        return Region(self, self.check_region(int(index)))

    def __iter__(self) -> Iterator[Region]:
        return (self[index] for index in range(self.k))

    @cached_property
    def plot(self) -> Any:
        """Figures of matplotlib: `plot.sizes()`, `plot.growth()`, `plot.map()`, `plot.distances()`, `plot.sphere()`."""
        return import_module("exemplar_partitioning.show.plots").Plots(self)  # the one look upwards: for `d.plot`

    def table(self) -> Any:
        """A row for each region, the most interesting first, with labels: see `folder.region.table`.

        Returns:
            A frame of pandas or, without it, of polars, or, without both, a pyarrow table.
        """
        from .region import table

        rows = table(self)
        if find_spec("pandas"):
            return rows.to_pandas()
        if find_spec("polars"):
            return import_module("polars").from_arrow(rows)
        return rows

    def search(self, query: str, top: int = 20, *, model: LoadedModel | None = None) -> list[Hit]:
        """Regions that are about something, best first: by the words of their evidence (`folder.text_search.search`).

        Args:
            query: words to look for.
            top: as many at most.
            model: the dictionary's own, to look for what the query means to it instead (`folder.meaning.nearest`).

        Returns:
            Regions, each with how it was found and an example.

        Raises:
            EPError: a query without words, or another model.
        """
        from .meaning import nearest
        from .text_search import search

        return search(self, query, top) if model is None else nearest(self, model, query, top)

    @property
    def mean_directions(self) -> Float32[np.ndarray, "k d"]:
        """Unit mean direction of each region's members, zeros without members; of an annotated dictionary."""
        return self.annotation.mean_directions


def versions() -> dict[str, str]:
    """Of this package and of what its numbers follow from."""
    return {name: version(name) for name in ("exemplar-partitioning", "torch", "transformers")}


def token_columns(windows: Sequence[np.ndarray], tokenizer: Any) -> dict[str, Any]:
    """Columns of regions.parquet that follow from each exemplar's window, which ends with its token if it is known."""
    contexts = [ids[:-1][-CONTEXT_TOKENS:] for ids in windows]
    unread = [""] * len(windows)
    return {
        "token_id": [int(ids[-1]) if len(ids) else -1 for ids in windows],
        "token": unread if tokenizer is None else tokenizer.batch_decode([ids[-1:] for ids in windows]),
        "context": unread if tokenizer is None else tokenizer.batch_decode(contexts, skip_special_tokens=True),
        "window_tokens": list(windows),
    }


def save(
    path: Path,
    config: Config,
    dictionary: core.Dictionary,
    regions: pa.Table,
    beside: Mapping[str, bytes] | None = None,
) -> Config:
    """Write a new dictionary folder, whole or not at all.

    Args:
        path: of the folder.
        config: without hashes.
        dictionary: centre and exemplars.
        regions: columns as in REGIONS_SCHEMA.
        beside: files that appear with it and are no part of it, such as origin.json.

    Returns:
        The config with the hashes filled in.

    Raises:
        Exists: the folder does.
        ResourceError: the disk is full.
    """
    assert regions.schema.equals(REGIONS_SCHEMA) and len(regions) == dictionary.k == config.build.k
    with new_folder(path) as folder:
        tensors = {
            "center": dictionary.center.contiguous(),
            "exemplars": dictionary.exemplars.cpu().contiguous(),
        }
        (folder / "exemplars.safetensors").write_bytes(serialise(tensors))
        pq.write_table(regions, folder / "regions.parquet", row_group_size=ROW_GROUP, compression="zstd")
        files = {
            file.name: FileRecord(sha256=sha256(file), bytes=file.stat().st_size) for file in sorted(folder.iterdir())
        }
        config = config.model_copy(update={"files": files})
        (folder / "config.json").write_bytes(to_json(config.model_dump(mode="json")))
        seal(folder / "config.json")
        for name, content in (beside or {}).items():
            (folder / name).write_bytes(content)
    return config


def load(
    path: str | Path,
    *,
    site: str | None = None,
    percentile: float | str | None = None,
    device: str = "cpu",
    prefilter: Prefilter | None = None,
) -> StoredDictionary:
    """Load a dictionary from its folder, or by site and percentile from the folder of a build.

    A folder on this machine; `ep.load` asks the hub too.

    Raises EPError if there is none or several fit, DataError if files are missing, truncated, altered
    or of a newer schema.
    """
    folder = choose(Path(path), site, percentile)
    on_disk = OnDisk(folder)
    config, tensors = on_disk.config, read_exemplars(on_disk, "pt")
    dictionary = StoredDictionary(
        tensors["center"], tensors["exemplars"], config.calibration.threshold, device, prefilter
    )
    object.__setattr__(dictionary, "path", folder)
    object.__setattr__(dictionary, "config", config)
    check_center(dictionary)
    return dictionary
