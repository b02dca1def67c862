"""Set algebra on dictionaries as nets: which regions of one does the other have, and one dictionary for both.

Two dictionaries with one centre and threshold are nets on one sphere: exemplars of each lie farther than theta from
one another. A region of a is *in* b if b has an exemplar within theta of its own. So

    a = intersection(a, b) + difference(a, b),    union(a, b) = a + difference(b, a)

are nets again (law L3). What b was built from lies within theta of an exemplar of b, and that within theta of
one of the union: so every activation of either stream lies within the angle 2 arccos(1 - theta) of the union.

`merge` is the union for builds that were calibrated apart. Exemplars of b are put around a's centre, as the
activations that they are; of those, the leader rule keeps what a does not cover. With delta the distance of the
centres, an activation that lies at least rho > delta from b's centre appears from a's turned by no more than
arcsin(delta / rho), so it lies within the angle

    arccos(1 - theta_a) + arccos(1 - theta_b) + 2 arcsin(delta / rho)

of the merged dictionary, where rho is at most the distance of b's nearest exemplar from b's centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ..core.dictionary import Dictionary
from ..core.leader import LeaderClustering
from ..errors import EPError, check_choice
from ..folder.dictionary import StoredDictionary, load, save
from ..folder.invariants import content_ids
from ..folder.listing import new_place
from ..folder.origin import origin
from ..folder.schema import BuildRecord
from ..models.identity import same_model
from .matching import raw_exemplars

Operation = Literal["union", "difference", "intersection", "merge"]


def union(a: Dictionary, b: Dictionary) -> Dictionary:
    """Regions of a, then those of b that a lacks.

    Args:
        a: a dictionary.
        b: another, with the same centre and threshold.

    Returns:
        A dictionary with the same centre and threshold.

    Raises:
        EPError: another centre or threshold.
    """
    return _combined("union", a, b)[0]


def difference(a: Dictionary, b: Dictionary) -> Dictionary:
    """Regions of a that b lacks; perhaps none. Of the same centre and threshold; see `union`.

    Args:
        a: a dictionary.
        b: another, with the same centre and threshold.

    Returns:
        A dictionary with the same centre and threshold.

    Raises:
        EPError: another centre or threshold.
    """
    return _combined("difference", a, b)[0]


def intersection(a: Dictionary, b: Dictionary) -> Dictionary:
    """Regions of a that b has, with a's exemplars; perhaps none. Of the same centre and threshold; see `union`.

    Args:
        a: a dictionary.
        b: another, with the same centre and threshold.

    Returns:
        A dictionary with the same centre and threshold.

    Raises:
        EPError: another centre or threshold.
    """
    return _combined("intersection", a, b)[0]


@dataclass(frozen=True, eq=False)
class Merged:
    """Two dictionaries as one, around a's centre and with its threshold.

    Attributes:
        rows_b: regions of b that a lacks, in order; they follow those of a.
        angle: radians within which every activation of either stream lies from an exemplar, if it is at least `radius`
            (rho) from b's centre; at least pi where nothing can be promised.
    """

    dictionary: Dictionary
    rows_b: Int64[np.ndarray, " m"]
    angle: float
    radius: float


def merge(a: StoredDictionary, b: StoredDictionary) -> Merged:
    """The union of two builds of one model and site that were calibrated apart; see the module for its bound.

    Args:
        a: whose centre and threshold the result has.
        b: another build of the same model and site.

    Returns:
        The dictionary, and which of its regions come from where.

    Raises:
        EPError: another model or site, or lengths that leave the activations of b's exemplars open.
    """
    _check_space(a, b)
    alpha = math.acos(1 - min(a.threshold, 2)) + math.acos(1 - min(b.threshold, 2))
    if torch.equal(a.center, b.center) and a.threshold == b.threshold:
        both, _, rows = _combined("union", a, b)
        return Merged(dictionary=both, rows_b=rows, angle=alpha, radius=0.0)
    x_kd = raw_exemplars(b)
    if unknown := int(np.isnan(x_kd[:, 0]).sum()):
        raise EPError(
            f"{unknown} exemplars of {b.path} are shorter than its centre, which leaves their activations open; "
            "only builds with one centre can be merged here"
        )
    radius_k = np.linalg.norm(x_kd - b.center.double().numpy(), axis=1)
    delta, rho = float((a.center.double() - b.center.double()).norm()), float(radius_k.min())
    x_kd = torch.from_numpy(x_kd.astype(np.float32))
    free = np.flatnonzero(a.assign(x_kd)[1].numpy() > a.threshold)
    kept = LeaderClustering(a.center, a.threshold)
    kept.add(x_kd[free], strict=True)
    shift = 2 * math.asin(delta / rho) if delta < rho else math.pi
    both = Dictionary(a.center, torch.cat([a.exemplars, kept.exemplars]), a.threshold)
    return Merged(dictionary=both, rows_b=free[kept.births], angle=alpha + shift, radius=rho)


def coverage(dictionary: Dictionary, x_nd: Float[Tensor, "n d"] | np.ndarray) -> float:
    """Share of the activations within the threshold of an exemplar; those without a direction count as not."""
    if not len(x_nd):
        raise EPError("no activations to cover")
    return float((np.asarray(dictionary.assign(torch.as_tensor(x_nd))[1]) <= dictionary.threshold).mean())


def combine(operation: Operation, a: StoredDictionary, b: StoredDictionary, out: str | Path) -> StoredDictionary:
    """Write the result of an operation as a dictionary, in which every region keeps where it was observed.

    Args:
        operation: "union", "difference", "intersection" or "merge", as the functions of these names.
        a: a dictionary.
        b: another one.
        out: folder to write; the dictionary is `<out>/<site>/p<percentile>`, named as a's.

    Returns:
        The dictionary that was written.

    Raises:
        EPError: the operation is not defined for these, the result holds no region, or the folder exists.
    """
    check_choice("operation", operation, get_args(Operation))
    _check_space(a, b)
    folder = new_place(out, a.config.site.name, a.config.calibration.percentile)
    details = {}
    if operation == "merge":
        merged = merge(a, b)
        dictionary, rows_a, rows_b = merged.dictionary, np.arange(a.k), merged.rows_b
        details = {"angle": merged.angle, "radius": merged.radius}
    else:
        dictionary, rows_a, rows_b = _combined(operation, a, b)
        if operation == "union":
            details = {"angle": 2 * math.acos(1 - a.threshold), "radius": 0.0}
    if not dictionary.k:
        raise EPError(f"the {operation} of {a.path} and {b.path} holds no region; there is nothing to write")
    regions = pa.concat_tables([a.regions.take(pa.array(rows_a)), b.regions.take(pa.array(rows_b))])
    regions = _column(regions, "region", pa.array(np.arange(dictionary.k, dtype=np.int32)))
    regions = _column(regions, "content_id", pa.array(content_ids(dictionary.exemplars.numpy())))
    build = _both(a.config.build, b.config.build, dictionary.k)
    came = origin(operation, [a, b], regions_of_a=len(rows_a), regions_of_b=len(rows_b), **details)
    save(folder, a.config.model_copy(update={"build": build}), dictionary, regions.combine_chunks(), came)
    return load(folder)


def _combined(operation: Operation, a: Dictionary, b: Dictionary) -> tuple[Dictionary, np.ndarray, np.ndarray]:
    """The result of an operation in one frame, and the regions of a and of b that it holds."""
    _check_frame(a, b)
    rows_a, rows_b = np.arange(a.k), np.zeros(0, np.int64)
    if operation == "union":
        rows_b = np.flatnonzero(_lacking(b, a))
    else:
        rows_a = np.flatnonzero(_lacking(a, b) == (operation == "difference"))
    exemplars = torch.cat([a.exemplars[torch.from_numpy(rows_a)], b.exemplars[torch.from_numpy(rows_b)]])
    return Dictionary(a.center, exemplars, a.threshold), rows_a, rows_b


def _lacking(a: Dictionary, b: Dictionary) -> Bool[np.ndarray, " k"]:
    """Regions of a farther than the threshold from every exemplar of b, decided in reference arithmetic."""
    return b.assign_directions(a.exemplars.numpy(force=True))[1] > b.threshold


def _check_frame(a: Dictionary, b: Dictionary) -> None:
    if a.d_model == b.d_model and torch.equal(a.center, b.center) and a.threshold == b.threshold:
        return
    pairs = {
        "d_model": (a.d_model, b.d_model),
        "theta": (a.threshold, b.threshold),
        "|centre|": (float(a.center.norm()), float(b.center.norm())),
    }
    differing = [f"{name} {x:g} and {y:g}" for name, (x, y) in pairs.items() if x != y]
    raise EPError(
        f"set algebra needs one centre and threshold; got {', '.join(differing) or 'centres that differ'}. "
        "`merge` joins builds that were calibrated apart"
    )


def _check_space(a: StoredDictionary, b: StoredDictionary) -> None:
    mine, theirs = a.config, b.config
    prints = [(config.model.fingerprint or "not known")[:12] for config in (mine, theirs)]
    pairs = {
        "weights": ("", "") if same_model(mine.model, theirs.model) else prints,
        "dtype": (mine.model.dtype, theirs.model.dtype),
        "site": (mine.site.name, theirs.site.name),
    }
    differing = [f"{name} {x} and {y}" for name, (x, y) in pairs.items() if x != y]
    if differing:
        raise EPError(
            f"{a.path} and {b.path} are of different spaces: {'; '.join(differing)}. `ep transport` carries the "
            "regions of one into the other"
        )


def _both(a: BuildRecord, b: BuildRecord, k: int) -> BuildRecord:
    n = a.n_activations + b.n_activations
    changed = {"k": k, "n_activations": n, "skipped": a.skipped + b.skipped, "growth": [(n, k)]}
    return a.model_copy(update=changed)


def _column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), cast(pa.Array, values))
