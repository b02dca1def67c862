"""Directions on the centred unit sphere, cosine distance, and the arithmetic that decides.

Shapes: n activations, k exemplars, d = d_model. `x_nd` are activations, `u_nd` unit directions,
`e_kd` exemplars, `c_d` the centre.

Two arithmetics live here. The *reference arithmetic* (law L2) is the definition: directions
in float64, sums by pairwise halving, so that every device, thread count and grouping gives the same
bits. The *fast arithmetic* is float32 with an error bound against the reference that holds for any
order of summation; it may decide only what lies outside that bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ..errors import DataError, EPError
from .precision import full_precision

Array = TypeVar("Array", np.ndarray, Tensor)

UNIT_ROUNDOFF = 2.0**-24  # of float32, round to nearest
MIN_THRESHOLD = 1e-6  # an exemplar is float32: it may lie 6e-8 from the very row it came from
_CACHED = 2**17  # numbers: half a megabyte
_SAFE_NORM = (1e-12, 1e12)  # float32 norms in here come from squares that neither vanish nor overflow


def tree_sum(terms: Any) -> Any:
    """Sum over the last axis of a tensor or array by pairwise halving; overwrites `terms`.

    Element-wise IEEE additions in a fixed order: the result does not depend on the device, the
    number of threads or the number of rows.
    """
    while (width := terms.shape[-1]) > 1:
        half = (width + 1) // 2
        terms[..., : width - half] += terms[..., half:]
        terms = terms[..., :half]
    return terms[..., 0]


def tree_sum_rows(terms_nd: Tensor) -> Tensor:
    """Sum over the first axis by pairwise halving; overwrites `terms_nd`."""
    while (rows := len(terms_nd)) > 1:
        half = (rows + 1) // 2
        terms_nd[: rows - half] += terms_nd[half:]
        terms_nd = terms_nd[:half]
    return terms_nd[0]


def reference_directions(
    x_nd: Float[Tensor, "n d"], c_d: Float[Tensor, " d"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """Unit directions `u(x) = (x - c) / |x - c|` and the norms `|x - c|`, in reference arithmetic.

    A row equal to the centre has norm 0 and a direction of NaNs; callers leave it out.
    """
    u_nd, c_d = torch.empty_like(x_nd, dtype=torch.float64), c_d.double()
    norm_n, terms_md = torch.empty_like(u_nd[:, 0]), _terms(u_nd)
    for part in _near_the_cache(x_nd):
        y_md = u_nd[part].copy_(x_nd[part]).sub_(c_d)
        square_m = tree_sum(torch.mul(y_md, y_md, out=terms_md[: len(y_md)]))
        # numpy's square root is correctly rounded; torch's, from a vector library, is not
        norm_n[part] = torch.from_numpy(np.sqrt(square_m.numpy(force=True)))
        y_md /= norm_n[part, None]
    return u_nd, norm_n


def reference_similarity(u_nd: Float[Tensor, "n d"], e_nd: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Row-wise `u . e` in reference arithmetic: u in float64, e float32 values."""
    sim_n, terms_md = torch.empty_like(u_nd[:, 0], dtype=torch.float64), _terms(u_nd)
    for part in _near_the_cache(u_nd):
        sim_n[part] = tree_sum(terms_md[: len(sim_n[part])].copy_(e_nd[part]).mul_(u_nd[part]))
    return sim_n


def similarity_bound(d: int, device: torch.device | None = None) -> float:
    """Largest difference between a float32 similarity and the reference one, for unit vectors of width d.

    (d/2 + 4) roundings for the direction (subtraction, norm, square root, division) and d for the dot
    product, in whatever order a matrix product sums; the last factor covers products of roundings.
    Tensor cores may cut sums off where others round them, which errs by twice as much.
    """
    roundings = d if device is None or device.type == "cpu" else 2 * d
    return (0.5 * d + roundings + 8) * UNIT_ROUNDOFF * 1.01


@dataclass(frozen=True)
class Block:
    """A run of activations ready to be compared: the rows that have a direction.

    Attributes:
        x_nd: activations, float32.
        c_d: the centre, float32.
        y_nd: activations without the centre in fast arithmetic, float32, of length norm_n: whoever first needs
            directions divides them in place.
        norm_n: float32.
        rows_n: index of each row in the batch it came from; rows without a direction are not here.
    """

    x_nd: Float[Tensor, "n d"]
    c_d: Float[Tensor, " d"]
    y_nd: Float[Tensor, "n d"]
    norm_n: Float[Tensor, " n"]
    rows_n: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return self.x_nd.shape[0]

    @cached_property
    def u_nd(self) -> Float[Tensor, "n d"]:
        """Directions in fast arithmetic, float32."""
        for part in _near_the_cache(self.y_nd):
            self.y_nd[part] /= self.norm_n[part, None]
        self.norm_n.fill_(1)
        return self.y_nd

    @cached_property
    def bfloat16(self) -> tuple[Tensor, Float[Tensor, " n"]]:
        """Directions in bfloat16, and a bound on how far each lies from its float32 one."""
        fast_nd, residual_n = torch.empty_like(self.y_nd, dtype=torch.bfloat16), torch.empty_like(self.norm_n)
        for part in _near_the_cache(self.y_nd):
            u_md = self.y_nd[part].div_(self.norm_n[part, None])
            residual_n[part] = torch.linalg.vector_norm(u_md - fast_nd[part].copy_(u_md), dim=1)
        self.norm_n.fill_(1)
        return fast_nd, residual_n * 1.001

    @cached_property
    def rounded(self) -> tuple[Tensor, Float[Tensor, " n"]]:
        """Activations without the centre in bfloat16, and their lengths: half the work of directions."""
        if "bfloat16" in vars(self):
            return self.bfloat16[0], self.norm_n
        return self.y_nd.bfloat16(), self.norm_n.clone()

    def some(self, rows: Int64[Tensor, " r"]) -> tuple[Float[Tensor, "r d"], Float[Tensor, " r"]]:
        """Some rows of `y_nd`, and their lengths."""
        return self.y_nd.index_select(0, rows), self.norm_n[rows]

    def __getitem__(self, part: slice | Int64[Tensor, " r"]) -> Block:
        return Block(self.x_nd[part], self.c_d, self.y_nd[part], self.norm_n[part], self.rows_n[part])

    def shifted(self, by: int) -> Block:
        """The same rows, counted from another start."""
        return replace(self, rows_n=self.rows_n + by)

    def reference(self, rows: Int64[Tensor, " r"]) -> Float[Tensor, "r d"]:
        """Directions of some rows in reference arithmetic, float64."""
        return reference_directions(self.x_nd[rows], self.c_d)[0]

    @cached_property
    def exact(self) -> Float[Tensor, "n d"]:
        """Directions of all rows in reference arithmetic, float64; kept, as several dictionaries may want them."""
        return reference_directions(self.x_nd, self.c_d)[0]


def has_direction(x_nd: Float[Tensor, "n d"], c_d: Float[Tensor, " d"]) -> Bool[Tensor, " n"]:
    """Rows that are finite, not zero, and differ from the centre (law L7)."""
    norm_n = torch.cat(
        [torch.linalg.vector_norm(x_nd[part] - c_d, dim=1) for part in _near_the_cache(x_nd)] or [c_d[:0]]
    )
    if bool(_clearly(x_nd, norm_n).all()):
        return torch.ones_like(norm_n, dtype=torch.bool)
    return torch.isfinite(x_nd).all(dim=1) & (x_nd != c_d).any(dim=1) & (x_nd != 0).any(dim=1)


@full_precision()
def directions(x_nd: Float[Tensor, "n d"], c_d: Float[Tensor, " d"], *, strict: bool = False) -> Block:
    """Prepare activations for comparison; rows without a direction are left out and counted.

    With `strict`, such rows raise DataError instead, naming the first.
    """
    y_nd, norm_n = torch.empty_like(x_nd), torch.empty_like(x_nd[:, 0])
    for part in _near_the_cache(x_nd):
        torch.linalg.vector_norm(torch.sub(x_nd[part], c_d, out=y_nd[part]), dim=1, out=norm_n[part])
    if bool(_clearly(x_nd, norm_n).all()):
        return Block(x_nd, c_d, y_nd, norm_n, torch.arange(len(x_nd), device=x_nd.device))
    good_n = has_direction(x_nd, c_d)
    rows_n = good_n.nonzero()[:, 0]
    skipped = len(x_nd) - len(rows_n)
    if skipped and strict:
        raise no_direction(skipped, len(x_nd), int((~good_n).nonzero()[0, 0]))
    x_nd, y_nd, norm_n = x_nd[rows_n].contiguous(), y_nd[rows_n], norm_n[rows_n]
    extreme = (~_safe(norm_n)).nonzero()[:, 0]  # norms too large or small for float32 squares
    y_nd[extreme], norm_n[extreme] = reference_directions(x_nd[extreme], c_d)[0].float(), 1.0
    return Block(x_nd, c_d, y_nd, norm_n, rows_n)


def _safe(norm_n: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    return (norm_n > _SAFE_NORM[0]) & (norm_n < _SAFE_NORM[1])


def _clearly(x_nd: Float[Tensor, "n d"], norm_n: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Rows that have a direction beyond doubt; a row of zeros is among those that begin with one."""
    return _safe(norm_n) & (x_nd[:, 0] != 0)


def _near_the_cache(x_nd: Tensor) -> Iterator[slice]:
    """Parts of some rows that several passes go over while they are in the cache of a core; all, on a device."""
    rows = _rows_of_a_part(x_nd)
    return (slice(start, start + rows) for start in range(0, len(x_nd), rows))


def _rows_of_a_part(x_nd: Tensor) -> int:
    return max(1, min(len(x_nd), _CACHED // max(1, x_nd.shape[1])) if x_nd.device.type == "cpu" else len(x_nd))


def _terms(x_nd: Tensor) -> Float[Tensor, "m d"]:
    """Room for the terms of sums over one of these parts."""
    return torch.empty((_rows_of_a_part(x_nd), x_nd.shape[1]), dtype=torch.float64, device=x_nd.device)


def no_direction(skipped: int, rows: int, first: int) -> DataError:
    """What to say of rows without a direction where none may be."""
    return DataError(
        f"{skipped} of {rows} activations have no direction (row {first} first): each must be finite, "
        "not zero, and differ from the centre; drop them, or leave out strict to skip and count them"
    )


def angle(distance: Tensor) -> Tensor:
    """Angle in radians of a cosine distance; unlike the distance it obeys the triangle inequality."""
    return torch.arccos((1 - distance).clamp(-1, 1))


def check_threshold(threshold: float) -> float:
    """The threshold as a float, if it is a cosine distance that can separate float32 exemplars."""
    if not MIN_THRESHOLD <= threshold <= 2:
        raise EPError(f"threshold is a cosine distance between {MIN_THRESHOLD:g} and 2; got {threshold:g}")
    return float(threshold)
