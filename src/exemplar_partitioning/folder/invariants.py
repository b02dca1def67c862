"""What holds in a dictionary's files whatever wrote them, and tells when contents were exchanged and hashes made right.

Records check the ranges of their own numbers (schema, annotation). Here is what joins the files of a folder: rows are
checked when a table is first used; `check` goes on to what takes a pass over everything.

Shapes: k regions, d = d_model, e examples.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..errors import DataError

if TYPE_CHECKING:
    from .annotation import Annotation
    from .dictionary import StoredDictionary
    from .listing import OnDisk
    from .schema import Config

_ROWS = 1024
_ROUNDING = 1e-6  # of a cosine of two float32 directions
_FOREIGN_ROUNDING = 1e-4  # of one decided in float32 by another program
_HEAT = 2e-3  # of a token's distance, kept in thousandths
_IDENTITY = 1e-4  # between a region's distances and its mean direction, both rounded


def require(holds: Any, path: Path, what: str) -> None:
    """Raise DataError, saying what is wrong in which file, unless something holds."""
    if not bool(np.all(holds)):
        raise DataError(f"{path} is damaged: {what}; copy the whole folder again")


def check_config(folder: Path, config: Config) -> None:
    """That a configuration belongs to the folder it lies in, and lists its files and no other."""
    from .listing import percentile_name

    path, site, percentile = folder / "config.json", config.site.name, config.calibration.percentile
    require(set(config.files) <= {"exemplars.safetensors", "regions.parquet"}, path, "it lists other files than it has")
    require(not {"/", "\\"} & set(site) and site not in ("", ".", ".."), path, f"{site[:40]!r} is no site")
    if re.fullmatch(r"p\d+(\.\d+)?", folder.name):
        require(
            folder.name == percentile_name(percentile), path, f"it is of percentile {percentile:g}, not {folder.name}"
        )
        if re.fullmatch(r"[a-z_]+\.\d+", folder.parent.name):
            require(folder.parent.name == site, path, f"it is of the site {site}, not {folder.parent.name}")


def check_center(dictionary: StoredDictionary) -> None:
    """That the centre is as long as config.json says."""
    norm = float(dictionary.center.double().norm())
    stated = dictionary.config.calibration.center_norm
    path = dictionary.path / "exemplars.safetensors"
    require(abs(norm - stated) <= 1e-4 * max(1.0, norm), path, f"its centre has length {norm:.6g}, not {stated:.6g}")


def content_ids(exemplars_kd: np.ndarray) -> list[str]:
    """A name for each exemplar that follows from its bytes alone: 16 hex digits of their sha256."""
    rows = np.ascontiguousarray(exemplars_kd, dtype="<f4")
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in rows]


def check_rows(dictionary: OnDisk, table: pa.Table, first: int = 0) -> None:
    """That rows of regions.parquet, from one on, have possible numbers and are their exemplars', if these are read."""
    path, end = dictionary.path / "regions.parquet", first + len(table)
    require(end <= dictionary.k, path, f"it has rows beyond the {dictionary.k:,} regions")
    require(table["region"].to_numpy() == np.arange(first, end), path, "its regions are not in order")
    if (exemplars := getattr(dictionary, "exemplars", None)) is not None:
        ids = content_ids(exemplars[first:end].numpy(force=True))
        require(table["content_id"].to_pylist() == ids, path, "its rows belong to other exemplars")
    raw_k = table["raw_norm"].to_numpy()
    require(np.isnan(raw_k) | (np.isfinite(raw_k) & (raw_k > 0)), path, "an activation has no length")
    for column, least in (("arrivals", 0), ("position", 0), ("token_id", -1), ("arrival_index", -1)):
        require(table[column].to_numpy() >= least, path, f"{column} below {least}")


def check_evidence(annotation: Annotation, table: pa.Table) -> None:
    """That the annotation's rows are those of the regions, and its numbers possible."""
    path = annotation.path / "regions.parquet"
    record, k = annotation.record, annotation.dictionary.k
    n = {name: table[name].to_numpy() for name in ("members", "within", "half", "examples")}
    require(table["region"].to_numpy() == np.arange(k), path, "its regions are not in order")
    for name, count_k in n.items():
        require(count_k >= 0, path, f"a count of {name} is negative")
    require(n["within"] <= n["members"], path, "more members within theta than members")
    require(n["half"] <= n["members"], path, "more members in half of the documents than members")
    require(n["members"].sum() == record.n_activations, path, f"its members are not {record.n_activations:,} together")
    require((n["members"] == 0).sum() == record.empty, path, f"{record.empty:,} regions should be without members")
    for name, (low, high) in _RANGES.items():
        values = table[name].drop_null().to_numpy()
        require((values >= low - 1e-6) & (values <= high + 1e-6), path, f"{name} not between {low} and {high}")
    for name in ("top_tokens", "before_tokens", "lens_top", "lens_bottom", "mean_lens_top", "mean_lens_bottom"):
        for field in table[name].combine_chunks().flatten().flatten():
            if pa.types.is_floating(field.type):
                require(np.isfinite(field.to_numpy(zero_copy_only=False)), path, f"a number of {name} is not finite")


_RANGES = {"coherence": (0, 1), "mean_distance": (0, 2), "std_distance": (0, 2), "stability": (-1, 1)}


def check_means(annotation: Annotation, tensors: dict[str, np.ndarray]) -> None:
    """That means.safetensors has a direction and a histogram for each region, of as many members as it has."""
    from .annotation import BINS

    path, d = annotation.path / "means.safetensors", annotation.dictionary
    mean_kd, histogram = tensors["mean_directions"], tensors["histogram"]
    shapes = (mean_kd.shape, mean_kd.dtype.name, histogram.shape, histogram.dtype.name)
    require(
        shapes == ((d.k, d.d_model), "float32", (d.k, BINS), "int32"),
        path,
        "other shapes than docs/format.md says",
    )
    require(np.isfinite(mean_kd), path, "a mean direction is not finite")
    length_k = np.linalg.norm(mean_kd, axis=1)
    require((length_k == 0) | (np.abs(length_k - 1) < 1e-4), path, "a mean direction is no unit vector")
    require(histogram >= 0, path, "a count of the histogram is negative")
    members_k = annotation.regions["members"].to_numpy()
    require(histogram.sum(axis=1, dtype=np.int64) == members_k, path, "a histogram counts other members")


def check_examples(annotation: Annotation, region: int, rows: list[dict[str, Any]]) -> None:
    """That examples of a region are its own, in order, and point into their tokens."""
    from .annotation import KINDS

    path = annotation.path / "examples.parquet"
    require([row["region"] == region for row in rows], path, f"examples of region {region} are another's")
    require([row["kind"] in KINDS for row in rows], path, f"a kind of example that is none of {', '.join(KINDS)}")
    keys = [(KINDS.index(row["kind"]), row["rank"]) for row in rows]
    require(keys == sorted(set(keys)), path, f"examples of region {region} are not in order")
    for row in rows:
        lengths = {len(row[name]) for name in ("token_ids", "tokens", "distances")}
        require(len(lengths) == 1 and 0 <= row["at"] < min(lengths), path, f"an example of region {region} is cut")
        heat = [x for x in (row["distance"], *row["distances"]) if x is not None]
        require([0 <= x <= 2 for x in heat], path, f"a distance in region {region} is not between 0 and 2")


def check(path: str | Path) -> StoredDictionary:
    """Read everything in a dictionary's folder, and see that all of it fits together.

    Args:
        path: of one dictionary.

    Returns:
        The dictionary.

    Raises:
        DataError: what does not, and in which file.
    """
    from .dictionary import load
    from .labels import Labels
    from .origin import read_origin
    from .sole_covers import read_sole_covers

    dictionary = load(path)
    origin = (read_origin(dictionary) or {}).get("operation")
    _check_counts(dictionary, origin)
    read_sole_covers(dictionary.path, dictionary.regions["content_id"].to_pylist())
    _check_windows(dictionary, origin)
    if origin != "transport":  # carried elsewhere, regions may come to lie closer
        _check_net(dictionary)
    if dictionary.annotated:
        _check_annotation(dictionary)
    Labels.read(dictionary)
    return dictionary


def _check_counts(dictionary: StoredDictionary, origin: str | None) -> None:
    build, path = dictionary.config.build, dictionary.path / "regions.parquet"
    total, streamed = int(dictionary.regions["arrivals"].to_numpy().sum()), build.n_activations - build.skipped
    site, blocks = dictionary.config.site.name, dictionary.config.model.n_layers or 0
    layer = site.rpartition(".")[2]
    beyond = layer.isdecimal() and 0 < blocks <= int(layer)
    require(not beyond, dictionary.path / "config.json", f"{site} in a model of {blocks} blocks")
    ended = tuple(build.growth[-1]) == (build.n_activations, build.k)
    require(ended, dictionary.path / "config.json", "its growth ends elsewhere")
    if origin in (None, "transport"):
        require(total == streamed, path, f"{total:,} arrivals of {streamed:,} activations")
        births_k = dictionary.regions["arrival_index"].to_numpy()
        require(births_k < build.n_activations, path, "an exemplar came after the stream had ended")
        if "imported" not in dictionary.config.versions:
            require(np.diff(births_k) > 0, path, "exemplars are not in the order in which they came")
            require(dictionary.regions["arrivals"].to_numpy() > 0, path, "an exemplar that not even itself arrived at")
            steps = np.array(build.growth)
            grown = np.searchsorted(births_k, steps[:, 0]) == steps[:, 1]
            require(grown, dictionary.path / "config.json", "its growth is not that of its exemplars")
    else:
        require(total <= streamed, path, f"{total:,} arrivals of {streamed:,} activations")


def _check_windows(dictionary: StoredDictionary, origin: str | None) -> None:
    """That a window ends with the exemplar's token, and token ids are the vocabulary's."""
    path, vocabulary = dictionary.path / "regions.parquet", dictionary.config.model.vocab_size
    built = origin is None and "imported" not in dictionary.config.versions
    bos = dictionary.config.text.begins_with if built else None
    longest = (dictionary.config.text.context_size if built else None) or sys.maxsize - 1
    for token, window in zip(
        dictionary.regions["token_id"].to_pylist(), dictionary.regions["window_tokens"].to_pylist(), strict=True
    ):
        require(not window or window[-1] == token, path, f"the window of a token {token} does not end with it")
        if vocabulary and window:
            require(min(window) >= 0 and max(window) < vocabulary, path, "a token id beyond the vocabulary")
        require(not window or bos in (None, window[0]), path, f"a window does not begin with the token {bos}")
        require(len(window) <= longest + 1, path, f"a window of more than {longest} tokens")
    raw_k, c_d = dictionary.regions["raw_norm"].to_numpy().astype(np.float64), dictionary.center.double().numpy()
    across_k = c_d @ c_d - (dictionary.exemplars.double().numpy() @ c_d) ** 2  # no activation along e is shorter
    short_k = raw_k**2 < across_k - 1e-3 * (c_d @ c_d)
    require(~short_k, path, "an activation is shorter than any along its exemplar")


def _check_net(dictionary: StoredDictionary) -> None:
    """That exemplars lie farther than theta from one another (law L3)."""
    from ..core.precision import full_precision

    path, e_kd = dictionary.path / "exemplars.safetensors", dictionary.exemplars
    rounding = _FOREIGN_ROUNDING if "imported" in dictionary.config.versions else _ROUNDING
    with full_precision():
        for start in range(0, len(e_kd), _ROWS):
            near_nk = e_kd[start : start + _ROWS] @ e_kd[start:].T
            near_nk.fill_diagonal_(-1.0)
            if (largest := float(near_nk.max())) >= 1 - dictionary.threshold + rounding:
                raise DataError(
                    f"{path} is damaged: two exemplars have cosine {largest:.6f}, within theta of each other; copy the "
                    "whole folder again"
                )


def _check_annotation(d: StoredDictionary) -> None:
    from .annotation import BIN_WIDTH, BINS

    annotation, path = d.annotation, d.annotation.path / "means.safetensors"
    table, members_k = annotation.regions, annotation.regions["members"].to_numpy()
    filled_k = members_k > 0
    distance_k, coherence_k = (table[name].fill_null(0).to_numpy() for name in ("mean_distance", "coherence"))
    along_k = np.einsum("kd,kd->k", annotation.mean_directions, d.exemplars.numpy()).astype(np.float64)
    identity_k = np.abs(distance_k - (1 - coherence_k * along_k))  # the mean of 1 - u e over the members
    require(identity_k[filled_k] <= _IDENTITY, path, "mean directions do not belong to the members' distances")
    low_b = np.arange(BINS) * BIN_WIDTH
    high_b = np.append(low_b[1:], 2.0)
    for bound_b, sign in ((low_b, 1), (high_b, -1)):
        bound_k = (annotation.histogram @ bound_b)[filled_k] / members_k[filled_k]
        require(sign * (distance_k[filled_k] - bound_k) >= -1e-6, path, "a histogram does not fit its mean distance")
    within = float(table["within"].to_numpy().sum()) / max(1, annotation.record.n_activations)
    require(abs(within - annotation.record.coverage) < 1e-6, annotation.path / "annotation.json", "another coverage")
    _check_sizes(annotation, members_k)
    for region in range(d.k):
        rows = annotation.examples(region)
        for kind, sign in (("nearest", 1), ("farthest", -1)):
            heat = np.array([sign * row["distance"] for row in rows if row["kind"] == kind])
            require(np.diff(heat) >= 0, annotation.path / "examples.parquet", f"examples {kind} are not in order")
        for row in rows:
            heat = row["distances"][row["at"]]
            fits = heat is None or abs(heat - row["distance"]) <= _HEAT
            require(
                fits, annotation.path / "examples.parquet", f"an example of region {region} points to another token"
            )


def _check_sizes(annotation: Annotation, members_k: np.ndarray) -> None:
    """That what is said of the regions' sizes and tokens follows from their members."""
    record, path = annotation.record, annotation.path / "annotation.json"
    vocabulary = annotation.dictionary.config.model.vocab_size or 0
    require(record.n_activations + record.skipped <= record.n_tokens, path, "more activations than tokens")
    require(record.n_documents <= record.n_tokens, path, "more documents than tokens")
    share_k = members_k[members_k > 0] / max(1, members_k.sum())
    require(abs(np.exp(-(share_k * np.log(share_k)).sum()) / record.effective - 1) < 1e-6, path, "another effective")
    for part in (record.quality.dictionary, record.quality.random_exemplars, record.quality.gaussian):
        shares = (part.coverage, part.gini, part.utilisation, part.cohesion / 2, part.nearest_inter / 2)
        require([-1e-6 <= share <= 1 + 1e-6 for share in shares], path, "a metric out of its range")
        require(abs(part.silhouette) <= 1 + 1e-6, path, "a silhouette out of its range")
    path = annotation.path / "regions.parquet"
    for name in ("top_tokens", "before_tokens", "lens_top", "lens_bottom", "mean_lens_top", "mean_lens_bottom"):
        column = annotation.regions[name].combine_chunks()
        tokens, counted = column.flatten(), "count" in [field.name for field in column.type.value_type]
        ids = tokens.field("token_id").to_numpy()
        require((ids >= 0) & ((ids < vocabulary) | (vocabulary == 0)), path, f"{name} beyond the vocabulary")
        require(tokens.field("lift").to_numpy() >= 0, path, f"a lift of {name} is negative")
        if counted:
            of_r = np.repeat(members_k, np.diff(column.offsets.to_numpy()))
            counts = tokens.field("count").to_numpy()
            require((counts > 0) & (counts <= of_r), path, f"{name} counts more than the members")
        else:
            shares = tokens.field("probability").to_numpy()
            require((shares >= 0) & (shares <= 1), path, f"a probability of {name} is none")
