"""Dictionaries on the disk: which there are, and what their folders tell without the exemplars.

Nothing here imports torch, so that a table of what there is costs no more than reading it.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, EPError
from ..files import check_seal, read_groups, read_json, read_table, read_tensors, sha256, verify
from .group import JOURNAL
from .invariants import check_config, check_rows
from .schema import REGIONS_SCHEMA, SCHEMA_VERSIONS, Config, FileRecord, validated

if TYPE_CHECKING:
    from .annotation import Annotation

RUNS = "runs.json"  # of a folder that holds several builds: in which order they are
ROW_GROUP = 1024  # rows of regions.parquet


class OnDisk:
    """A dictionary's folder and what its config.json says; the rest is read and checked when it is asked for.

    Raises:
        DataError: config.json is damaged, altered or of a newer schema.
    """

    path: Path
    config: Config

    def __init__(self, folder: Path):
        self.path, self.config = folder, read_config(folder)

    @property
    def k(self) -> int:
        """Number of regions."""
        return self.config.build.k

    def check_region(self, index: int) -> int:
        """The index, if a region has it; EPError otherwise."""
        if not 0 <= index < self.k:
            raise EPError(f"region {index} does not exist: regions are numbered 0 to {self.k - 1}")
        return index

    def verified(self, name: str) -> Path:
        """One of the folder's files; DataError unless it is what was written."""
        return verified(self.path / "config.json", self.config.files, name)

    @property
    def content_id(self) -> str:
        """Hash of everything the dictionary is: the sha256 of config.json, which holds all others."""
        return sha256(self.path / "config.json")

    @cached_property
    def _regions_file(self) -> Path:
        path = self.verified("regions.parquet")
        if not pq.read_schema(path).equals(REGIONS_SCHEMA):
            raise DataError(f"{path} has other columns than schema {SCHEMA_VERSIONS[-1]} describes (docs/format.md)")
        if (rows := pq.read_metadata(path).num_rows) != self.k:
            raise DataError(f"{path} has {rows:,} rows for {self.k:,} regions; it is another's")
        return path

    @cached_property
    def regions(self) -> pa.Table:
        """A row per region, in order: where its exemplar was observed, and its arrivals (docs/format.md)."""
        table = read_table(self._regions_file)
        check_rows(self, table)
        return table

    @property
    def annotated(self) -> bool:
        """Whether there is evidence for its regions."""
        from .annotation import FOLDER

        return (self.path / FOLDER).is_dir()

    @cached_property
    def annotation(self) -> Annotation:
        """Members, examples, logit lens of the regions; EPError, saying what to do, if there are none yet."""
        from .annotation import Annotation

        return Annotation(self)

    def region(self, index: int) -> dict[str, Any]:
        """One row of `regions`, read without the others.

        Args:
            index: of the region.

        Returns:
            Where its exemplar was observed: `token`, `document`, `position`, `context` and others.

        Raises:
            EPError: no such region.
            DataError: the file is damaged.
        """
        with pq.ParquetFile(self._regions_file) as file:
            group = read_groups(self._regions_file, file, [self.check_region(index) // ROW_GROUP])
        check_rows(self, group, first=index // ROW_GROUP * ROW_GROUP)
        return group.slice(index % ROW_GROUP, 1).to_pylist()[0]


def read_exemplars(dictionary: OnDisk, framework: str) -> dict[str, Any]:
    """The `center` [d] and `exemplars` [k, d] of a folder for torch (`pt`) or numpy (`np`), as config.json says.

    Raises:
        DataError: the file is damaged, or another's.
    """
    path, expected = dictionary.verified("exemplars.safetensors"), (dictionary.k, dictionary.config.width)
    tensors = read_tensors(path, ("center", "exemplars"), framework)
    if any(not str(tensor.dtype).endswith("float32") for tensor in tensors.values()):
        raise DataError(f"{path} must hold float32; got {[str(t.dtype) for t in tensors.values()]}")
    if (shape := tuple(tensors["exemplars"].shape)) != expected:
        raise DataError(
            f"{dictionary.path}: config.json says k = {expected[0]}, d_model = {expected[1]}; "
            f"exemplars.safetensors holds {' x '.join(map(str, shape))}"
        )
    return tensors


def verified(listing: Path, files: dict[str, FileRecord], name: str) -> Path:
    """One of the files that a JSON file beside them lists; DataError unless it is what was written."""
    if name not in files:
        raise DataError(f"{listing} is damaged: it does not list {name}")
    path = listing.with_name(name)
    verify(path, files[name].sha256, files[name].bytes)
    return path


def find(root: Path) -> list[Path]:
    """Dictionary folders at or below a folder, by site, then percentile."""
    if (root / "config.json").is_file():
        return [root]
    if (root / ".build" / JOURNAL).is_file():  # some may have taken their places, and others not
        return []
    folders = [file.parent for file in root.glob("*/p*/config.json")]

    def order(folder: Path) -> tuple[list[Any], float]:
        name = folder.parent.name
        layer = re.search(r"\.(\d+)(?=\.|$)", name)
        return [int(layer[1]) if layer else -1, name], _percentile_of(folder)

    return sorted(folders, key=order)


def builds(root: Path) -> list[Path]:
    """Folders of builds in a folder: in the order that runs.json names, else by name, 2 before 10.

    Raises:
        EPError: there is none.
    """
    within = {file.parents[2].name for file in root.glob("*/*/p*/config.json")}
    if not within:
        raise EPError(f"{root} holds no folders of builds; give the folders one after another")
    listed = [run["folder"] for run in read_json(root / RUNS)["runs"]] if (root / RUNS).is_file() else []
    names = [name for name in listed if name in within] or sorted(within, key=natural)
    return [root / name for name in names]


def layers(root: Path, site: str | None = None, percentile: float | str | None = None) -> list[Path]:
    """Dictionaries of a build at one percentile and one place in several blocks, by block.

    Args:
        root: folder of the build.
        site: name or glob of those that are meant, such as resid_post.*; needed where there are several places.
        percentile: needed where there are several.

    Raises:
        EPError: several places or percentiles, fewer than two blocks, or places that share no coordinates.
    """
    percentile, folders = as_percentile(percentile), find(root) if root.is_dir() else []
    folders = [
        folder
        for folder in folders
        if fnmatchcase(folder.parent.name, site or "*") and percentile in (None, _percentile_of(folder))
    ]
    points = sorted({folder.parent.name.rpartition(".")[0] for folder in folders})
    percentiles = sorted({_percentile_of(folder) for folder in folders})
    if len(points) > 1 or len(percentiles) > 1:
        raise EPError(
            f"{root} holds {', '.join(points)} at percentiles {', '.join(f'{p:g}' for p in percentiles)}; follow one "
            f"place at one percentile, as with --site '{points[0]}.*' --percentile {percentiles[0]:g}"
        )
    if len(folders) < 2:
        raise EPError(
            f"{root} holds {len(folders)} dictionaries of that place and percentile; expected several blocks'"
        )
    if read_config(folders[0]).site.width is not None:
        raise EPError(
            f"{points[0]} of one block and of the next have no coordinates in common; follow a place of the residual "
            "stream, such as resid_post.*"
        )
    return folders


def natural(name: str) -> list[Any]:
    """By which names are sorted as people do: 2 before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def percentile_name(percentile: float) -> str:
    """Folder of a percentile: `p2`, `p2.5`; different percentiles never share one."""
    return f"p{float(percentile)!r}".removesuffix(".0")


def new_place(out: str | Path, site: str, percentile: float) -> Path:
    """The folder of a dictionary to be written; EPError if it is there already."""
    folder = Path(out) / site / percentile_name(percentile)
    if folder.exists():
        raise EPError(f"{folder} exists already; choose another folder with --out")
    return folder


def _percentile_of(folder: Path) -> float:
    try:
        return float(folder.name.removeprefix("p"))
    except ValueError:
        return float("inf")


def choose(root: Path, site: str | None, percentile: float | str | None) -> Path:
    """The folder of the dictionary that fits; EPError, saying which there are, if none or several do."""
    percentile = as_percentile(percentile)
    if not root.is_dir():
        raise EPError(f"no folder {root}; give the folder that `ep build` wrote")
    folders = find(root)
    if not folders:
        raise EPError(f"{root} holds no dictionary{_why_none(root)}")
    fitting = [
        folder
        for folder in folders
        if (site is None or site in (folder.parent.name, *_spellings(folder)))
        and (percentile is None or _percentile_of(folder) == percentile)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and site is not None and (known := _canonical(site)) != site:
        return choose(root, known, percentile)
    have = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in (fitting or folders))
    asked = " and ".join(
        f"{name} {value}" for name, value in (("site", site), ("percentile", percentile)) if value is not None
    )
    problem = "several dictionaries fit" if fitting else f"no dictionary for {asked}"
    raise EPError(f"{problem} in {root}; choose one by site and percentile: {have}")


def as_percentile(percentile: float | str | None) -> float | None:
    """A percentile as people give it, as a number; EPError for anything else."""
    try:
        return None if percentile is None else float(percentile)
    except ValueError:
        raise EPError(f"percentile is {percentile!r}; expected a number such as 2 or 0.5") from None


def _why_none(root: Path) -> str:
    """What the folder is instead, and what to do."""
    if (root / ".build").is_dir():
        return " yet: its build has not finished; continue it with --resume"
    if any(root.glob("p*/config.json")):
        return f" of its own: it is the folder of a site; give {root.parent} and --site {root.name}"
    builds = sorted({file.parents[2] for file in root.glob("*/*/p*/config.json")})
    if builds:
        return f" of its own; builds are in it: give {' or '.join(map(str, builds[:4]))}"
    if (above := next((folder for folder in root.parents[:2] if (folder / "config.json").is_file()), None)) is not None:
        return f"; it lies in the folder of one: give {above}"
    return ": it is empty" if not any(root.iterdir()) else "; give the folder that `ep build` wrote"


def _canonical(site: str) -> str:
    from ..models.sites import named_site

    return site if (known := named_site(site)) is None else str(known)


def _spellings(folder: Path) -> tuple[str, ...]:
    site = read_config(folder).site
    return tuple(name for name in (site.name, site.transformer_lens, site.module_path) if name)


def read_config(folder: Path) -> Config:
    """config.json of a dictionary folder, checked."""
    path = folder / "config.json"
    raw = read_json(path)
    if raw.get("format") != "exemplar-partitioning/dictionary":
        raise DataError(f"{path} does not describe a dictionary of this package")
    version = str(raw.get("schema_version"))
    if version not in SCHEMA_VERSIONS:
        raise DataError(
            f"{path} has schema version {version}; this package reads {' and '.join(SCHEMA_VERSIONS)}: "
            "if it comes from a newer exemplar-partitioning, install that"
        )
    config = validated(Config, raw, path)
    check_seal(path)
    check_config(folder, config)
    return config
