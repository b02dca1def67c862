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
    from .dictionary import StoredDictionary
    from .listing import OnDisk
    from .schema import Config

_ROWS = 1024
_ROUNDING = 1e-6  # of a cosine of two float32 directions
_FOREIGN_ROUNDING = 1e-4  # of one decided in float32 by another program


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


def check(path: str | Path) -> StoredDictionary:
    """Read everything in a dictionary's folder, and see that all of it fits together.

    Args:
        path: of one dictionary.

    Returns:
        The dictionary.

    Raises:
        DataError: what does not, and in which file.
    """
    from . import bookmarks
    from .annotation_invariants import check_annotation
    from .dictionary import load
    from .labels import Labels
    from .origin import read_origin
    from .sole_covers import read_sole_covers

    dictionary = load(path)
    origin = (read_origin(dictionary) or {}).get("operation")
    _check_counts(dictionary, origin)
    _check_covers(dictionary, read_sole_covers(dictionary.path, dictionary.regions["content_id"].to_pylist()))
    _check_windows(dictionary, origin)
    if origin != "transport":  # carried elsewhere, regions may come to lie closer
        _check_net(dictionary)
    if dictionary.annotated:
        check_annotation(dictionary)
    Labels.read(dictionary)
    bookmarks.read(dictionary)
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
            require(births_k[0] <= build.skipped, path, "what came before the first exemplar would have been one")
            still = build.n_activations - births_k[-1] >= build.saturation_window
            require(build.stopped != "saturated" or still, path, "an exemplar came after it was saturated")
            _check_order(dictionary)
    else:
        require(total <= streamed, path, f"{total:,} arrivals of {streamed:,} activations")


def _check_covers(dictionary: StoredDictionary, sole_k: np.ndarray | None) -> None:
    """That the missing mass is what the sole covers come to, each of them an arrival."""
    from ..core.missing_mass import missing_mass

    if sole_k is None:
        return
    build, path = dictionary.config.build, dictionary.path / "sole_covers.json"
    require(sole_k < dictionary.regions["arrivals"].to_numpy(), path, "an exemplar covers more than came to it")
    mass = missing_mass(sole_k, build.n_activations - build.skipped)
    stated = (build.unseen.estimate, build.unseen.low, build.unseen.high)
    require(np.allclose(stated, (mass.estimate, mass.low, mass.high)), path, "the missing mass is another")


def _check_order(dictionary: StoredDictionary) -> None:
    """That exemplars of one window came as far apart as their tokens stand.

    Tokens that do not count are no exemplars; so between two of a window each that is one elsewhere counts. Farther
    apart than a window is long, it was read twice.
    """
    text, path = dictionary.config.text, dictionary.path / "regions.parquet"
    columns = ("document", "position", "arrival_index", "token_id", "window_tokens")
    document_k, position_k, birth_k, token_k, window_k = (dictionary.regions[name].to_pylist() for name in columns)
    count, every, last = set(token_k), text.positions == "all" and not text.roles, dict[Any, int]()
    for row, (document, position, window) in enumerate(zip(document_k, position_k, window_k, strict=True)):
        before = last.get(key := (document, position - len(window)))
        last[key] = row
        if before is None or not window or birth_k[row] - birth_k[before] > len(window):
            continue
        apart, came = position - position_k[before], birth_k[row] - birth_k[before]
        exact = every and count.issuperset(window[-apart:])
        require(came == apart if exact else 0 < came <= apart, path, "exemplars of a window did not come in its order")


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
