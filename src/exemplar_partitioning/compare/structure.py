"""A dictionary and its transport: how far regions moved, and whether what lay together still does.

Both hold the same regions, in spaces that may differ in width. Each measure stands beside its permutation null:
the same measure with the regions of one paired at random with those of the other.

Shapes: k regions, n tokens, d and e the widths of the two spaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int64

from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..folder.html import facts
from .common_tokens import CommonTokens
from .matching import raw_cosines
from .nulls import quantiles
from .overlap import contingency

PERMUTATIONS = 200
NEIGHBOURS = 10
_COMPARED = 2000  # regions at most whose mutual cosines are compared; of more, a random part


@dataclass(frozen=True)
class Measure:
    """One number between two spaces beside its permutation null.

    Attributes:
        null_mean: mean of the permutations.
        null_high: largest of them.
        p: (1 + permutations that reach it) / (1 + all).
    """

    value: float
    null_mean: float
    null_high: float
    p: float


@dataclass(frozen=True)
class Structure:
    """Agreement of a dictionary with its transport.

    Attributes:
        gram: Pearson correlation between the cosines of all pairs of exemplars here and there.
        neighbours: share of an exemplar's ten nearest here that are among its ten nearest there.
        stay: share of tokens of a text whose region is the same here and there; None without a text.
        regions: compared (of more than 2,000, a random part); all regions take part in `stay`.
    """

    gram: Measure
    neighbours: Measure
    stay: Measure | None
    regions: int

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Drift:
    """How far each region's exemplar moved between two checkpoints, both of one width.

    Attributes:
        cosine_k: of the exemplar here and there, each around its own centre.
        raw_k: both around the centre here; NaN where the lengths leave the activation open.
        nearest_k: region whose exemplar there is nearest to this one here.
        null: cosines of exemplars here with those of other regions there, sorted.
    """

    cosine_k: Float64[np.ndarray, " k"]
    raw_k: Float64[np.ndarray, " k"]
    nearest_k: Int64[np.ndarray, " k"]
    null: Float64[np.ndarray, " r"]

    def __repr__(self) -> str:
        return f"Drift({len(self.cosine_k):,} regions, median cosine {float(np.median(self.cosine_k)):.3f})"

    def _repr_html_(self) -> str:
        said = self.summary()
        values = {name: f"{said[name]:.1%}" for name in ("recognised", "recognised_null")}
        values |= {
            name.replace("_", " "): ", ".join(f"{quantile}: {value:.3f}" for quantile, value in said[name].items())
            for name in ("cosine", "cosine_common_centre", "null")
        }
        return facts(repr(self), values)

    def summary(self) -> dict[str, Any]:
        """Quantiles beside those of the null; `recognised` is the share of regions nearest to themselves."""
        k, known_k = len(self.cosine_k), self.raw_k[np.isfinite(self.raw_k)]
        return {
            "cosine": quantiles(self.cosine_k),
            "cosine_common_centre": quantiles(known_k) if len(known_k) else {},
            "null": quantiles(self.null),
            "recognised": float((self.nearest_k == np.arange(k)).mean()),
            "recognised_null": 1 / k,
        }

    def table(self) -> pa.Table:
        """A row per region, in order."""
        return pa.table(
            {
                "region": np.arange(len(self.cosine_k)),
                "cosine": self.cosine_k,
                "cosine_common_centre": self.raw_k,
                "nearest": self.nearest_k,
            }
        )


def drift(a: StoredDictionary, b: StoredDictionary) -> Drift:
    """How far each region moved; b is a transport of a to a model of the same width, such as a later checkpoint.

    Args:
        a: a dictionary.
        b: the same regions elsewhere, as `ep.transport` writes them.

    Returns:
        Cosines of every region with itself, beside those of different regions.

    Raises:
        EPError: another width or other regions.
    """
    _check(a, b)
    if a.d_model != b.d_model:
        raise EPError(
            f"drift compares directions, but {a.path} has d_model = {a.d_model}, {b.path} {b.d_model}; "
            "compare their structure instead (ep.structure)"
        )
    e_kd, f_kd = a.exemplars.numpy(), b.exemplars.numpy()
    rng = np.random.default_rng(0)
    others = [np.einsum("kd,kd->k", e_kd, np.roll(f_kd, int(s), axis=0)) for s in rng.integers(1, max(a.k, 2), 8)]
    return Drift(
        cosine_k=np.einsum("kd,kd->k", e_kd.astype(np.float64), f_kd.astype(np.float64)),
        raw_k=raw_cosines(a, b, slice(None), slice(None)),
        nearest_k=b.assign_directions(e_kd)[0],
        null=np.sort(np.concatenate(others).astype(np.float64)),
    )


def structure(
    a: StoredDictionary, b: StoredDictionary, tokens: CommonTokens | None = None, *, seed: int = 0
) -> Structure:
    """Whether regions lie to each other in b as they do in a; b is a transport of a, to any width.

    Args:
        a: a dictionary.
        b: the same regions elsewhere, as `ep.transport` writes them.
        tokens: of a text read at both places (`common_tokens`), for the share that stay in their region.
        seed: of the permutations, and of the regions compared where there are very many.

    Returns:
        Each measure of agreement beside what permuted regions have.

    Raises:
        EPError: other regions, or fewer than three.
    """
    _check(a, b)
    if a.k < 3:
        raise EPError(f"{a.path} has {a.k} regions; structure takes at least three")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(a.k)[:_COMPARED])
    cosine_a, cosine_b = (d.exemplars.numpy()[chosen] for d in (a, b))
    cosine_a, cosine_b = cosine_a @ cosine_a.T, cosine_b @ cosine_b.T
    permutations = [rng.permutation(len(chosen)) for _ in range(PERMUTATIONS)]
    stay = None
    if tokens is not None:
        ids_a, ids_b = a.assign(tokens.a_nd)[0], b.assign(tokens.b_ne)[0]
        placed_n = (ids_a >= 0) & (ids_b >= 0)
        shared = contingency(ids_a[placed_n], ids_b[placed_n], a.k, b.k).tocoo()
        stay = permuted(
            lambda order: float(shared.data[order[shared.row] == shared.col].sum() / shared.data.sum()),
            np.arange(a.k),
            [rng.permutation(a.k) for _ in range(PERMUTATIONS)],
        )
    return Structure(
        gram=gram_correlation(cosine_a, cosine_b, permutations),
        neighbours=neighbour_overlap(cosine_a, cosine_b, permutations),
        stay=stay,
        regions=len(chosen),
    )


def gram_correlation(
    cosine_a: Float32[np.ndarray, "k k"], cosine_b: Float32[np.ndarray, "k k"], permutations: list[np.ndarray]
) -> Measure:
    """Pearson correlation of the cosines of all pairs i != j."""
    a, b = (_standard(cosine) for cosine in (cosine_a, cosine_b))
    n = a.shape[0] * (a.shape[0] - 1)
    return permuted(lambda order: float(np.vdot(a, b[np.ix_(order, order)]) / n), np.arange(len(a)), permutations)


def neighbour_overlap(
    cosine_a: Float32[np.ndarray, "k k"], cosine_b: Float32[np.ndarray, "k k"], permutations: list[np.ndarray]
) -> Measure:
    """Mean share of the ten nearest of each in one (fewer, of few regions) that are so in the other."""
    k = len(cosine_a)
    size = min(NEIGHBOURS, k - 1)
    near_a, near_b = (_nearest_others(cosine, size) for cosine in (cosine_a, cosine_b))
    table_b = np.zeros((k, k), np.bool_)
    np.put_along_axis(table_b, near_b, True, axis=1)

    def overlap(order: np.ndarray) -> float:
        return float(table_b[order[:, None], order[near_a]].mean())

    return permuted(overlap, np.arange(k), permutations)


def permuted(measure: Callable[[np.ndarray], float], identity: np.ndarray, permutations: list[np.ndarray]) -> Measure:
    """A measure of a pairing of regions, beside what it is for random pairings."""
    value, null = measure(identity), np.array([measure(order) for order in permutations])
    p = (1 + int((null >= value).sum())) / (1 + len(null))
    return Measure(value, float(null.mean()), float(null.max()), p)


def _standard(cosine: np.ndarray) -> np.ndarray:
    """Off-diagonal entries with mean 0 and variance 1; zeros on the diagonal."""
    off = ~np.eye(len(cosine), dtype=np.bool_)
    mean, std = cosine[off].mean(dtype=np.float64), cosine[off].std(dtype=np.float64)
    standard = ((cosine - mean) / max(float(std), 1e-12)).astype(np.float32)
    np.fill_diagonal(standard, 0)
    return standard


def _nearest_others(cosine: np.ndarray, size: int) -> Int64[np.ndarray, "k s"]:
    cosine = cosine.copy()
    np.fill_diagonal(cosine, -np.inf)
    return np.argpartition(-cosine, size - 1, axis=1)[:, :size]


def _check(a: StoredDictionary, b: StoredDictionary) -> None:
    same = a.k == b.k and all(a.regions[name].equals(b.regions[name]) for name in ("document", "position"))
    if not same:
        raise EPError(
            f"{b.path} does not hold the regions of {a.path}; carry them there first: "
            f"ep transport {a.path} --model {b.config.model.id} --to-site {b.config.site.name}"
        )
