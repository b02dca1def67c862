"""A dictionary: the Voronoi partition of the centred unit sphere that exemplars make.

Regions are arrays, not objects: region i is exemplar i. Everything here works on any vectors.

Shapes: n activations, k regions, m of them with a direction, s steps of pursuit, d = d_model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, get_args
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import DataError, EPError, check_choice
from .atoms import Atoms, Rule
from .choices import STEPS, Basis, Method
from .decomposition import Decomposition
from .geometry import Block, check_threshold, directions, reference_directions
from .intake import Rows, as_float32, intake
from .nearest import ROWS, ExemplarMatrix, Prefilter, Search, nearest
from .precision import full_precision
from .pursuit import MANY, check_count, pursue
from .statistics import MemberStatistics

READOUTS = ("topk", "topk_norm", "signed", "cosine", "binary", "pursuit")

# features of several regions that are not weights of one sum and still alive, by id: `decode` overshoots on them
_summed: WeakValueDictionary[int, Any] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Frozen exemplars with their centre and threshold.

    Args:
        center: [d] float32, subtracted before anything else.
        exemplars: [k, d] float32 unit directions; row i anchors region i.
        threshold: cosine distance within which an activation counts as covered.
        device: where nearest exemplars are searched; results do not depend on it.
        prefilter: dtype of the rough products before the exact ones; results do not depend on it.

    Methods take activations as they are held ([d], [n, d] or [batch, tokens, d]; see `core.intake`) and
    answer with the same leading axes: tensors (on the CPU) for a tensor, arrays for all else. A row that is
    not finite or equals the centre belongs nowhere: region -1 at distance infinity. Another width is an EPError.
    """

    center: Tensor
    exemplars: Tensor
    threshold: float
    device: str = "cpu"
    prefilter: Prefilter | None = None

    @full_precision()
    def __post_init__(self) -> None:
        center, exemplars = as_float32(self.center).cpu(), as_float32(self.exemplars).cpu()
        if center.ndim != 1 or exemplars.ndim != 2 or exemplars.shape[1] != len(center):
            raise EPError(
                f"a dictionary has a centre [d] and exemplars [k, d]; got {list(center.shape)} "
                f"and {list(exemplars.shape)}"
            )
        if not (torch.isfinite(center).all() and torch.isfinite(exemplars).all()):
            raise DataError("centre and exemplars must be finite; got NaN or infinity")
        lengths = exemplars.norm(dim=1)
        if len(exemplars) and float((lengths - 1).abs().max()) > 1e-4:
            raise DataError(f"exemplars must be unit directions; lengths go up to {float(lengths.max()):.4g}")
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "exemplars", exemplars)
        object.__setattr__(self, "threshold", check_threshold(self.threshold))

    def __getstate__(self) -> dict[str, Any]:
        made = ("_search", "_atoms", "_by_means")  # anew when asked for
        state = {name: value for name, value in self.__dict__.items() if name not in made}
        return state | {"exemplars": self.exemplars.clone()}  # may be a view of what the search holds

    def __len__(self) -> int:
        return self.k

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, d_model={self.d_model}, threshold={self.threshold:.4f})"

    @property
    def k(self) -> int:
        """Number of regions."""
        return self.exemplars.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.exemplars.shape[1]

    def check_region(self, index: int) -> int:
        """The index, if a region has it; EPError otherwise."""
        if not 0 <= index < self.k:
            raise EPError(f"region {index} does not exist: regions are numbered 0 to {self.k - 1}")
        return index

    @cached_property
    @full_precision()
    def _search(self) -> Search:
        matrix = ExemplarMatrix.of(self.exemplars, self.device, self.prefilter)
        if matrix.e_kd.device == self.exemplars.device:  # once in memory is enough
            object.__setattr__(self, "exemplars", matrix.e_kd)
        return Search(matrix)

    def blocks(self, x: Any) -> Iterator[tuple[slice, Block]]:
        """Activations as prepared blocks, each with the rows of x it was made from."""
        x_nd = intake(x, self.d_model)
        center = self.center.to(self.device)
        for start in range(0, len(x_nd), ROWS):
            rows = slice(start, min(start + ROWS, len(x_nd)))
            yield rows, directions(x_nd[rows].to(self.device), center)

    @full_precision()
    def assign_block(self, block: Block) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"]]:
        """Region and distance (float64, reference arithmetic) of every row of a prepared block."""
        if not self.k:
            return torch.full((len(block),), -1), torch.full((len(block),), torch.inf, dtype=torch.float64)
        ids_n, sim_n = self._search.nearest(block)
        return ids_n, (1 - sim_n).clamp(0, 2)

    @cached_property
    @full_precision()
    def _by_means(self) -> tuple[Dictionary, Int64[Tensor, " m"]]:
        """The partition around the mean directions of members, and the regions it has: those with members."""
        means = getattr(self, "mean_directions", None)  # a stored dictionary has them once it is annotated
        if means is None:
            raise EPError(
                "this dictionary knows no mean directions: load an annotated one (`ep annotate` makes it so), "
                "or use basis='exemplar'"
            )
        means_kd = torch.as_tensor(means)
        regions_m = means_kd.any(dim=1).nonzero()[:, 0]
        return Dictionary(self.center, means_kd[regions_m], self.threshold, self.device, self.prefilter), regions_m

    def _around(self, basis: Basis) -> tuple[Dictionary, Int64[Tensor, " m"]]:
        """The partition around directions of a basis, and which region each of them is of."""
        check_choice("basis", basis, get_args(Basis))
        return self._by_means if basis == "mean" else (self, torch.arange(self.k))

    @cached_property
    @full_precision()
    def _atoms(self) -> Atoms:
        return Atoms(self.exemplars.to(self.device))

    def check_pursuit(
        self,
        k: int,
        *,
        basis: Basis = "exemplar",
        method: Method = "omp",
        nonnegative: bool = True,
        tolerance: float | None = None,
    ) -> Rule:
        """What `decompose` would go by, if it can be asked for so; EPError otherwise."""
        most = min(self._around(basis)[0].k, self.d_model)
        check_count(k, most, "the smaller of d_model and regions")
        check_choice("method", method, get_args(Method))
        if tolerance is not None and not (isinstance(tolerance, Real) and 0 <= tolerance <= 1):
            raise EPError(f"tolerance is a share of an activation's length, from 0 to 1; got {tolerance!r}")
        return Rule(steps=k, method=method, nonnegative=nonnegative, tolerance=tolerance or 0.0)

    @full_precision()
    def decompose(
        self,
        x: Any,
        k: int = STEPS,
        *,
        basis: Basis = "exemplar",
        method: Method = "omp",
        nonnegative: bool = True,
        tolerance: float | None = None,
    ) -> Decomposition:
        """Write activations as sums of at most k directions of regions, by matching pursuit (docs/decomposition.md).

        Starting from `x - c`, each step picks the direction with the largest inner product with what is left; of
        those within 1e-6 |x - c| of the largest, the lowest id. A row ends after k steps, when no inner product
        exceeds 1e-6 |x - c|, or when at most `tolerance` is left. The answer for a row depends on that row alone.

        Args:
            x: activations [..., d]; the shape is kept. Rows without a direction get no regions, and a warning.
            k: steps, from 1 to the smaller of d_model and the number of regions.
            basis: directions of the exemplars, or of mean members, which an annotated dictionary has.
            method: "omp" solves least squares on all directions picked after each step, and picks none twice; "mp"
                leaves earlier weights as they are and may add to one again: faster, and more is left.
            nonnegative: only positive inner products count, and weights stay positive, as codes of SAEs do ("omp":
                non-negative least squares). Otherwise sizes count, and weights have either sign.
            tolerance: share of |x - c| that may be left, from 0 to 1.

        Returns:
            Regions [..., s] and weights [..., s] of s = k steps, and what is left of each row, in the kind of `x`.

        Raises:
            EPError: k, basis, method or tolerance out of range, other shapes, or no annotation for basis "mean".
        """
        around, regions_m = self._around(basis)
        rule = self.check_pursuit(k, basis=basis, method=method, nonnegative=nonnegative, tolerance=tolerance)
        x_nd = intake(x, self.d_model)
        region_ns = torch.full((len(x_nd), k), -1, dtype=torch.int64)
        weight_ns, left_n = torch.zeros((len(x_nd), k)), torch.full((len(x_nd),), torch.nan)
        for rows, block in self.blocks(x_nd):
            u_nd, norm_n = reference_directions(block.x_nd, block.c_d)
            codes = pursue(around._atoms, u_nd, rule, many=len(x_nd) * k >= MANY)
            at = rows.start + block.rows_n.cpu()
            picks_ns = codes.picks_nk.cpu()
            region_ns[at] = regions_m[picks_ns.clamp(min=0)].masked_fill(picks_ns < 0, -1)
            weight_ns[at] = (codes.weights_nk * norm_n[:, None]).float().cpu()
            left_n[at] = (codes.left_n.sqrt() * norm_n).float().cpu()
        if missing := int(left_n.isnan().sum()):
            warnings.warn(
                f"{missing:,} of {len(left_n):,} activations have no direction (not finite, zero or the centre): "
                "they get no regions, and NaN is left of them",
                stacklevel=3,
            )
        directions_md = self.exemplars
        if basis == "mean":
            directions_md = torch.zeros_like(self.exemplars).index_copy(0, regions_m, around.exemplars)
        return Decomposition(
            regions=x_nd.like(region_ns),
            weights=x_nd.like(weight_ns),
            residual_norm=x_nd.like(left_n),
            directions=directions_md,
            center=self.center,
            as_numpy=not x_nd.tensors,
        )

    @full_precision()
    def assign(self, x: Any, *, basis: Basis = "exemplar") -> tuple[Any, Any]:
        """Region (int64 [n]) and distance to its exemplar (float64 [n], cosine distance) of each row.

        The exemplar of largest `u . e` counts, lowest id on an exact tie, whether or not it lies within
        the threshold; compare the distance with `threshold` for coverage. With basis "mean" the nearest mean direction
        counts instead. Activations are read block by block: a memory-mapped file larger than memory will do.

        Args:
            x: activations.
            basis: directions of exemplars, or of mean members (an annotated dictionary has them).
        """
        x_nd = intake(x, self.d_model)
        around, regions_m = self._around(basis)
        ids_n = torch.full((len(x_nd),), -1, dtype=torch.int64)
        distance_n = torch.full((len(x_nd),), torch.inf, dtype=torch.float64)
        for rows, block in around.blocks(x_nd):
            ids, distance = around.assign_block(block)
            ids_n[rows.start + block.rows_n.cpu()] = ids.cpu() if around is self else regions_m[ids.cpu()]
            distance_n[rows.start + block.rows_n.cpu()] = distance.cpu()
        return x_nd.like(ids_n), x_nd.like(distance_n)

    @full_precision()
    def ids(self, x: Any) -> Any:
        """Region of each row as `assign` gives it (int64 [n]), without distances, which cost more.

        Args:
            x: activations.
        """
        x_nd = intake(x, self.d_model)
        ids_n = torch.full((len(x_nd),), -1, dtype=torch.int64)
        for rows, block in self.blocks(x_nd) if self.k else ():
            ids_n[rows.start + block.rows_n.cpu()] = self._search.ids(block).cpu()
        return x_nd.like(ids_n)

    @full_precision()
    def assign_directions(self, directions_nd: Any) -> tuple[Any, Any]:
        """As `assign`, for directions around the centre instead of activations, such as other exemplars.

        Args:
            directions_nd: [n, d_model], from the centre; of any length.
        """
        given = intake(directions_nd, self.d_model)
        ids_n, cosine_n = nearest(given[:], self._search.matrix)
        distance_n = torch.where(ids_n < 0, torch.inf, (1 - cosine_n).clamp(0, 2))
        return given.like(ids_n), given.like(distance_n)

    @full_precision()
    def distances(self, x: Any) -> Any:
        """Cosine distance of each row to every exemplar: float32 [n, k], the whole matrix.

        Args:
            x: activations.
        """
        x_nd = intake(x, self.d_model)
        return x_nd.like((1 - self._cosines(x_nd)).clamp_(0, 2))

    @full_precision()
    def margins(self, x: Any) -> Any:
        """How much farther the second nearest exemplar is than the nearest: float32 [n]; infinite if it is alone.

        Args:
            x: activations.
        """
        x_nd = intake(x, self.d_model)
        margin_n = torch.full((len(x_nd),), torch.nan)
        for rows, block in self.blocks(x_nd):
            top_n2 = self._products(block).topk(min(2, self.k), dim=1).values
            margin = top_n2[:, 0] - top_n2[:, 1] if self.k > 1 else torch.full((len(block),), torch.inf)
            margin_n[rows.start + block.rows_n.cpu()] = margin.cpu()
        return x_nd.like(margin_n)

    @full_precision()
    def encode(self, x: Any, readout: str = "topk", *, k: int = 1, basis: Basis = "exemplar") -> Any:
        """Features [n, number of regions], float32.

        - `topk`: the k largest projections `(x - c) . e`, negative ones cut to 0, the rest 0.
        - `topk_norm`: the same on unit directions.
        - `signed`: all projections `(x - c) . e`.
        - `cosine`: all similarities `u(x) . e`.
        - `binary`: 1 at the region the activation belongs to.
        - `pursuit`: weights of `decompose` with k steps, which `decode` adds up to what is nearest.

        With basis "mean", `e` are mean directions of members; regions without members then have features 0.

        Args:
            x: activations.
            readout: one of the above.
            k: regions for one activation, of `topk`, `topk_norm` and `pursuit`.
            basis: directions of exemplars, or of mean members (an annotated dictionary has them).

        Raises:
            EPError: an unknown readout, a k out of range, or another width than the dictionary's.
        """
        check_choice("readout", readout, READOUTS)
        x_nd = intake(x, self.d_model)
        if basis != "exemplar":
            around, regions_m = self._around(basis)
            part_nm = as_float32(around.encode(x_nd, readout, k=k)).reshape(len(x_nd), around.k)
            return x_nd.like(torch.zeros((len(x_nd), self.k)).index_copy_(1, regions_m, part_nm))
        if readout == "pursuit":
            return x_nd.like(self.decompose(x_nd, k).dense().to_dense().reshape(len(x_nd), self.k))
        if readout == "binary":
            ids_n = torch.as_tensor(self.assign(x_nd)[0]).reshape(-1)
            features = torch.zeros((len(x_nd), self.k))
            inside = ids_n >= 0
            features[inside, ids_n[inside]] = 1
            return x_nd.like(features)
        if readout in ("cosine", "topk_norm"):
            features = self._cosines(x_nd)
        else:
            features = (x_nd[:].cpu() - self.center) @ self.exemplars.T
        if readout.startswith("topk"):
            check_count(k, self.k, "the number of regions")
            top = features.topk(k, dim=1)
            features = torch.zeros_like(features).scatter_(1, top.indices, top.values.relu())
        answer = x_nd.like(features)
        if k > 1 or not readout.startswith("topk"):
            _summed[id(answer)] = answer
        return answer

    @full_precision()
    def decode(self, features: Any, *, basis: Basis = "exemplar") -> Any:
        """Activations [n, d] from features [n, k]: `f E + c`, float32.

        Exemplars are fixed points of encoding by `topk` with k = 1 and decoding, and `pursuit` decodes to what is
        nearest, `binary` to the exemplar. Other readouts overshoot, as exemplars are not orthogonal: decoding what
        `encode` returned for more than one region warns of it.

        Args:
            features: [n, number of regions].
            basis: directions of exemplars, or of mean members (an annotated dictionary has them).
        """
        given = intake(features)
        if given.width != self.k:
            raise EPError(f"features must be [n, {self.k}], one column a region; got {given.width} columns")
        if _summed.get(id(features)) is features:
            warnings.warn(
                "projections on several regions overlap, so their sum overshoots: encode with readout 'pursuit' "
                "to decode several regions",
                stacklevel=3,
            )
        around, regions_m = self._around(basis)
        f_nm = given[:].cpu() if around is self else given[:].cpu()[:, regions_m]
        return given.like(f_nm @ around.exemplars + self.center)

    @full_precision()
    def members(self, x: Any) -> MemberStatistics:
        """Member statistics of these activations over the frozen exemplars; mergeable.

        Args:
            x: activations.
        """
        sums = MemberStatistics.empty(self.k, self.d_model)
        for rows, block in self.blocks(x):
            sums.add(block, *self.assign_block(block))
            sums.skipped += rows.stop - rows.start - len(block)
        return sums

    def _cosines(self, x_nd: Rows) -> Float[Tensor, "n k"]:
        cosine_nk = torch.full((len(x_nd), self.k), torch.nan)
        for rows, block in self.blocks(x_nd):
            cosine_nk[rows.start + block.rows_n.cpu()] = self._products(block).cpu()
        return cosine_nk

    def _products(self, block: Block) -> Float[Tensor, "n k"]:
        return block.u_nd @ self._search.matrix.e_kd.T
