"""Regions of one dictionary in another of the same width: pairs, what persists, what is dropped and introduced.

Shapes: k and l regions of the dictionaries a and b, n tokens, d = d_model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast, get_args

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from ..core.choices import Basis
from ..core.dictionary import Dictionary
from ..core.geometry import directions
from ..core.nearest import nearest
from ..errors import EPError, check_choice
from ..folder.dictionary import StoredDictionary
from ..folder.html import facts
from ..folder.origin import describe
from .common_tokens import MAX_TOKENS, CommonTokens, common_tokens, places
from .neighbours import Pairs, one_to_one
from .nulls import Matches, Null, drawn, quantiles, reflections
from .overlap import Overlap, overlap
from .progress import Tell, ignore, part

NullName = Literal["reflections", "random exemplars"]
FALSE_ALARMS = 0.01


@dataclass(frozen=True, eq=False)
class Matching:
    """Regions of two dictionaries by the cosine of their directions, each in its own centre's frame.

    Attributes:
        basis: directions compared: exemplars, or mean directions of the members.
        regions_a: regions that take part; all, but for regions without members where means are compared.
        regions_b: the same of b.
        nearest_k: for each region of a that takes part, its nearest of b; nearest_l the other way.
        cosine_k: with that; cosine_l the other way.
        pairs: one to one. Indices are of regions.
        nulls: what best matches are like without correspondence (compare/nulls.py).
        null: the one that decides.
        false_alarms: share of matches without correspondence that would be called persisted.
        rebuild_k: cosine of each region of a with its nearest in a rebuild of a, if one was given.
        tokens: of a common text, if one was given.
        overlap: members shared on that text.
        coverage: share of its tokens within theta, in a and in b.
    """

    a: StoredDictionary
    b: StoredDictionary
    basis: Basis
    regions_a: Int64[np.ndarray, " k"]
    regions_b: Int64[np.ndarray, " l"]
    nearest_k: Int64[np.ndarray, " k"]
    cosine_k: Float64[np.ndarray, " k"]
    nearest_l: Int64[np.ndarray, " l"]
    cosine_l: Float64[np.ndarray, " l"]
    pairs: Pairs
    nulls: list[Null]
    null: Null
    false_alarms: float
    rebuild_k: Float64[np.ndarray, " k"] | None = None
    tokens: CommonTokens | None = None
    overlap: Overlap | None = None
    coverage: tuple[float, float] | None = None

    def __repr__(self) -> str:
        return (
            f"Matching({len(self.regions_a):,} regions in {len(self.regions_b):,} by {self.basis}: "
            f"{int(self.persisted.sum()):,} persisted, {int(self.introduced.sum()):,} introduced)"
        )

    def _repr_html_(self) -> str:
        low, high = self.null.cutoffs(self.false_alarms)
        shares = f"{self.persisted.mean():.1%} of a persist, {self.introduced.mean():.1%} of b are introduced"
        values: dict[str, Any] = {"a": repr(self.a), "b": repr(self.b), "regions": shares}
        values["cosine with the nearest, median"] = float(np.median(self.cosine_k))
        values["cutoffs"] = (
            f"{low:.3f} and {high:.3f}, above what {self.null.name} reach but in {self.false_alarms:.1%}"
        )
        return facts(repr(self), values)

    @cached_property
    def raw_k(self) -> Float64[np.ndarray, " k"] | None:
        """Cosine of the raw exemplars of a region and its nearest, both around a's centre; NaN where it is not known.

        None where means are compared.
        """
        return raw_cosines(self.a, self.b, self.regions_a, self.nearest_k) if self.basis == "exemplar" else None

    @cached_property
    def persisted(self) -> Bool[np.ndarray, " k"]:
        """Regions of a whose nearest of b is nearer than the cutoff; the others are dropped."""
        return self.cosine_k > self.null.cutoffs(self.false_alarms)[0]

    @cached_property
    def introduced(self) -> Bool[np.ndarray, " l"]:
        """Regions of b whose nearest of a is not."""
        return ~(self.cosine_l > self.null.cutoffs(self.false_alarms)[1])

    def summary(self) -> dict[str, Any]:
        """What holds for the dictionaries as a whole, as plain values."""
        summary: dict[str, Any] = {
            "a": describe(self.a),
            "b": describe(self.b),
            "basis": self.basis,
            "regions": [len(self.regions_a), len(self.regions_b)],
            "centre_distance": float((self.a.center.double() - self.b.center.double()).norm()),
            "cosine_to_b": quantiles(self.cosine_k),
            "cosine_to_a": quantiles(self.cosine_l),
            "one_to_one": {
                "pairs": len(self.pairs.row_p),
                "mean_cosine": self.pairs.total / len(self.pairs.row_p),
                "gap": self.pairs.gap,
            },
            "false_alarms": self.false_alarms,
            "nulls": [null.summary(self.cosine_k, self.cosine_l, self.false_alarms) for null in self.nulls],
            "decided_by": self.null.name,
            "persisted": int(self.persisted.sum()),
            "dropped": int((~self.persisted).sum()),
            "introduced": int(self.introduced.sum()),
        }
        if self.rebuild_k is not None:
            summary["rebuild"] = self._beside_the_rebuild(self.rebuild_k)
        if self.overlap is not None and self.tokens is not None:
            text = {"source": self.tokens.source, "tokens": self.tokens.read, "aligned": len(self.tokens)}
            summary["text"] = text | {"coverage": self.coverage} | self.overlap.summary(self.regions_a)
        return summary

    def _beside_the_rebuild(self, rebuild_k: np.ndarray) -> dict[str, Any]:
        again = rebuild_k > self.null.cutoffs(self.false_alarms)[0]
        return {
            "cosine": quantiles(rebuild_k),
            "persisted": int(again.sum()),
            "persisted_in_both": int((again & self.persisted).sum()),
            "lost_though_rebuilt": int((again & ~self.persisted).sum()),
            "share_below_lowest": float((self.cosine_k < np.quantile(rebuild_k, self.false_alarms)).mean()),
        }

    def table(self) -> pa.Table:
        """A row per region of a that takes part, most similar first; see docs/comparing.md for the columns."""
        distance_k = 1 - self.cosine_k
        pair_a = np.full(self.a.k, -1)
        pair_a[self.pairs.row_p] = np.arange(len(self.pairs.row_p))
        pair_k = pair_a[self.regions_a]
        alone = pair_k < 0
        columns: dict[str, Any] = {
            "region_a": self.regions_a,
            "region_b": self.nearest_k,
            "cosine": self.cosine_k.astype(np.float32),
            "distance_in_theta_a": distance_k / self.a.threshold,
            "distance_in_theta_b": distance_k / self.b.threshold,
            "verdict": np.where(self.persisted, "persisted", "dropped"),
            "one_to_one_b": pa.array(self.pairs.column_p[pair_k], mask=alone),
            "one_to_one_cosine": pa.array(self.pairs.cosine_p[pair_k], mask=alone),
            "raw_cosine": self.raw_k,
            "rebuild_cosine": None if self.rebuild_k is None else self.rebuild_k.astype(np.float32),
        }
        if self.overlap is not None:
            columns |= self.overlap.columns(self.regions_a, self.nearest_k)
        columns |= _tokens("a", self.a, self.regions_a) | _tokens("b", self.b, self.nearest_k)
        table = pa.table({name: column for name, column in columns.items() if column is not None})
        return table.take(np.argsort(-self.cosine_k, kind="stable"))

    def introduced_table(self) -> pa.Table:
        """A row per introduced region of b, the farthest from anything in a first."""
        rows = np.flatnonzero(self.introduced)
        columns = {
            "region_b": self.regions_b[rows],
            "region_a": self.nearest_l[rows],
            "cosine": self.cosine_l[rows].astype(np.float32),
            **_tokens("b", self.b, self.regions_b[rows]),
            **_tokens("a", self.a, self.nearest_l[rows]),
        }
        return pa.table(columns).take(np.argsort(self.cosine_l[rows], kind="stable"))


def match(
    a: StoredDictionary,
    b: StoredDictionary,
    *,
    basis: Basis = "exemplar",
    text: Any = None,
    tokens: CommonTokens | None = None,
    model_a: Any = None,
    model_b: Any = None,
    field: str = "text",
    max_tokens: int = MAX_TOKENS,
    rebuild: StoredDictionary | None = None,
    null: NullName | None = None,
    false_alarms: float = FALSE_ALARMS,
    device: str = "auto",
    tell: Tell = ignore,
) -> Matching:
    """Match the regions of two dictionaries of the same width.

    Args:
        a: the first dictionary.
        b: the second.
        basis: compare `exemplar` directions, or the `mean` directions of the members (both must be annotated).
        text: read by both models, for shared members and for the null of random exemplars; a text or files.
        tokens: or such a text read already (`compare.common_tokens.common_tokens`).
        model_a: where the first's model is, or the model.
        model_b: the second's.
        field: column or key that holds the text.
        max_tokens: of text to read; 50,000 unless told.
        rebuild: of a, with another order of the text: how similar regions are that did come back.
        null: which null sets the cutoff; by default `random exemplars` where there is a text, else `reflections`.
        false_alarms: share of matches without correspondence that may be called persisted.
        device: of the forward passes.
        tell: called every so often with the share that is done of what directions tell; what it raises ends the work.

    Returns:
        Nearest regions either way, one-to-one pairs, the nulls and their cutoffs.

    Raises:
        EPError: another width, an empty dictionary, another model than a dictionary's, or no text in common.
    """
    check(a, b, basis, false_alarms)
    if null is not None:
        check_choice("null", null, get_args(NullName))
    if null == "random exemplars" and tokens is None and text is None:
        raise EPError("the null of random exemplars draws them from a text; give one with --text")
    matching = _by_direction(a, b, basis, false_alarms, tell)
    if rebuild is not None:
        check(a, rebuild, basis, false_alarms)
        again_k = nearest(_directions(a, basis)[1], _directions(rebuild, basis)[1])[1]
        matching = replace(matching, rebuild_k=again_k)
    if tokens is None and text is not None:
        first, second = places(a, b, model_a, model_b, device=device)
        tokens = common_tokens(first, second, text, field=field, max_tokens=max_tokens)
    return matching if tokens is None else _on_text(matching, tokens, null)


def _by_direction(a: StoredDictionary, b: StoredDictionary, basis: Basis, false_alarms: float, tell: Tell) -> Matching:
    """What directions alone tell."""
    regions_a, a_kd = _directions(a, basis)
    regions_b, b_ld = _directions(b, basis)
    nearest_k, cosine_k = nearest(a_kd, b_ld, tell=part(tell, 0, 0.1))
    nearest_l, cosine_l = nearest(b_ld, a_kd, tell=part(tell, 0.1, 0.2))
    pairs = one_to_one(a_kd, b_ld, tell=part(tell, 0.2, 0.4))
    reflected = reflections(a_kd, b_ld, tell=part(tell, 0.4, 1))
    return Matching(
        a=a,
        b=b,
        basis=basis,
        regions_a=regions_a,
        regions_b=regions_b,
        nearest_k=regions_b[nearest_k],
        cosine_k=cosine_k,
        nearest_l=regions_a[nearest_l],
        cosine_l=cosine_l,
        pairs=replace(pairs, row_p=regions_a[pairs.row_p], column_p=regions_b[pairs.column_p]),
        nulls=[reflected],
        null=reflected,
        false_alarms=false_alarms,
    )


def _on_text(matching: Matching, tokens: CommonTokens, null: NullName | None) -> Matching:
    """With what a text tells: shared members, coverage, and the null of random exemplars."""
    a, b, basis = matching.a, matching.b, matching.basis
    (ids_a, distance_a), (ids_b, distance_b) = a.assign(tokens.a_nd), b.assign(tokens.b_ne)
    a_kd, b_ld = _directions(a, basis)[1], _directions(b, basis)[1]
    draw_a, draw_b = _draw(a, tokens.a_nd, len(a_kd), basis), _draw(b, tokens.b_ne, len(b_ld), basis)
    random = drawn("random exemplars", a_kd, b_ld, draw_b, draw_a)
    return replace(
        matching,
        nulls=[*matching.nulls, random],
        null=matching.null if null == "reflections" else random,
        tokens=tokens,
        overlap=overlap(ids_a, ids_b, a.k, b.k),
        coverage=(float((distance_a <= a.threshold).mean()), float((distance_b <= b.threshold).mean())),
    )


def raw_exemplars(dictionary: StoredDictionary) -> Float64[np.ndarray, "k d"]:
    """The activations that became exemplars, from their directions and lengths; rows of NaN where those leave two.

    `|c + r e| = raw_norm` has one positive solution where the activation is longer than the centre.
    """
    e_kd, c_d = dictionary.exemplars.double().numpy(), dictionary.center.double().numpy()
    x_kd = c_d + dictionary.radius_k[:, None] * e_kd
    x_kd[dictionary.regions["raw_norm"].to_numpy() <= np.linalg.norm(c_d)] = np.nan
    return x_kd


def check(a: StoredDictionary, b: StoredDictionary, basis: str, false_alarms: float) -> None:
    """Raise EPError unless two dictionaries can be matched so."""
    if a.d_model != b.d_model:
        raise EPError(
            f"{a.path} has d_model = {a.d_model} ({a.config.model.id}), {b.path} {b.d_model} ({b.config.model.id}): "
            "their directions cannot be compared. `ep transport` carries regions into the other model; "
            "`ep roundtrip` compares across models"
        )
    for dictionary in (a, b):
        if not dictionary.k:
            raise EPError(f"{dictionary.path} has no regions to match")
    check_choice("basis", basis, get_args(Basis))
    if not 0 < false_alarms < 1:
        raise EPError(f"the share of false alarms is {false_alarms:g}; expected a number between 0 and 1, such as 0.01")


def _directions(dictionary: StoredDictionary, basis: Basis) -> tuple[np.ndarray, np.ndarray]:
    """Regions that have a direction, and their directions."""
    if basis == "exemplar":
        return np.arange(dictionary.k), dictionary.exemplars.numpy()
    mean_kd = dictionary.annotation.mean_directions
    filled = np.flatnonzero(mean_kd.any(axis=1))
    return filled, mean_kd[filled]


def _draw(dictionary: Dictionary, x_nd: Float32[np.ndarray, "n d"], size: int, basis: Basis) -> Matches:
    """Looks among random exemplars drawn from activations, or among their members' means."""

    def draw(seed: int) -> Float32[np.ndarray, "size d"]:
        chosen = np.random.default_rng(seed).choice(len(x_nd), size=size, replace=len(x_nd) < size)
        e_kd = directions(torch.from_numpy(x_nd[chosen]), dictionary.center).u_nd
        if basis == "exemplar":
            return e_kd.numpy()
        mean_kd = Dictionary(dictionary.center, e_kd, dictionary.threshold).members(x_nd).mean_directions
        return mean_kd[mean_kd.any(axis=1)]

    return lambda directions_nd, seed: nearest(directions_nd, draw(seed))[1]


def raw_cosines(
    a: StoredDictionary, b: StoredDictionary, rows: np.ndarray | slice, columns: np.ndarray | slice
) -> Float64[np.ndarray, " p"]:
    """Cosines of raw exemplars of pairs of regions around a's centre."""
    center = a.center.double().numpy()
    x, y = raw_exemplars(a)[rows] - center, raw_exemplars(b)[columns] - center
    return np.einsum("pd,pd->p", x, y) / np.maximum(np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1), 1e-30)


def _tokens(name: str, dictionary: StoredDictionary, regions: np.ndarray) -> dict[str, pa.Array]:
    table = dictionary.regions.select(["token", "context"]).take(pa.array(regions))
    return {f"{column}_{name}": cast(pa.Array, table[column].combine_chunks()) for column in ("token", "context")}
