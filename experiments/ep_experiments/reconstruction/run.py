"""Every arm on every order, at two numbers of tokens; the rows to rebuild are the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import normalize

from exemplar_partitioning.core.calibration import BATCH, calibrate
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.errors import EPError

from ..nulls import gaussian_directions
from ..streamed import Report, Streamed
from . import arms

KS = (1, 4, 16, 32)
PERCENTILES = (1.0, 2.0, 4.0)
HELD_OUT_ROWS = 500
_ITDA_STEPS = 32
_KMEANS_ROWS = 16_384


@dataclass(frozen=True)
class Sizes:
    """few, many: training tokens of the curve.  orders: of the training documents."""

    few: int = 10_000
    many: int = 30_000
    orders: int = 3


def run(streamed: Streamed, sizes: Sizes = Sizes(), seed: int = 0, report: Report = lambda *_: None) -> dict[str, Any]:
    """FVU of every arm; `PREREGISTRATION.md` says what for. Raises EPError if there are too few activations."""
    held_nd = _held_out(streamed, seed)
    rows = []
    for order in range(sizes.orders):
        train_nd = streamed.rows(_ordered(streamed, sizes.many, seed + order))
        for tokens in (sizes.few, sizes.many):
            report("rebuilding", 2 * order + (tokens == sizes.many), 2 * sizes.orders)
            for arm in _arms(train_nd[:tokens], seed + order, itda=tokens == sizes.few):
                rows.append({"order": order, "tokens": tokens, **arm.facts, "fvu": _fvu(held_nd, arm.dictionary)})
    return {"held_out_rows": len(held_nd), "ks": list(KS), "results": rows, "summary": _summary(rows)}


@dataclass(frozen=True)
class Arm:
    """Directions to decompose over, and what they are."""

    dictionary: Dictionary
    facts: dict[str, Any]


def _arms(x_nd: Float32[Tensor, "n d"], seed: int, *, itda: bool) -> Iterator[Arm]:
    calibration = calibrate([x_nd[:BATCH]], list(PERCENTILES))
    center_d = torch.as_tensor(calibration.center).float()

    def arm(name: str, percentile: float, directions_kd: Tensor, **more: Any) -> Arm:
        facts = {"arm": name, "percentile": percentile, "directions": len(directions_kd), **more}
        return Arm(Dictionary(center_d, directions_kd, 1.0), facts)

    for percentile in PERCENTILES:
        exemplars_kd = arms.exemplars(x_nd, center_d, calibration.thresholds[percentile])
        k = len(exemplars_kd)
        yield arm("exemplars", percentile, exemplars_kd)
        yield arm("means", percentile, arms.means(exemplars_kd, x_nd, center_d))
        yield arm("random activations", percentile, arms.random_activations(x_nd, center_d, k, seed))
        yield arm("k-means", percentile, arms.spherical_kmeans(x_nd[:_KMEANS_ROWS], center_d, k, seed))
        yield arm("Gaussian", percentile, gaussian_directions(x_nd.shape[1], k, seed))
        if itda and percentile == max(PERCENTILES):
            make = partial(_itda, normalize(x_nd - center_d, dim=1), 2 * k)
            atoms_kd, tau = arms.of_size(make, k, 4)
            yield arm("ITDA", percentile, atoms_kd, tau=tau)


def _itda(u_nd: Tensor, most: int, tau: float) -> Tensor:
    return arms.grown(u_nd, tau, _ITDA_STEPS, most)


def _fvu(x_nd: Float32[Tensor, "n d"], d: Dictionary) -> dict[int, float]:
    total = float(((x_nd - x_nd.mean(dim=0)) ** 2).double().sum())
    return {k: float((d.decompose(x_nd, k).residual_norm.double() ** 2).sum()) / total for k in KS if k <= d.k}


def _ordered(streamed: Streamed, tokens: int, seed: int) -> Int64[np.ndarray, " m"]:
    """Rows of training documents, these in an order of their own."""
    rows = streamed.training(tokens)
    documents, first = np.unique(streamed.document_n[rows], return_inverse=True)
    rank = np.random.default_rng(seed).permutation(len(documents))
    return rows[np.argsort(rank[first], kind="stable")]


def _held_out(streamed: Streamed, seed: int) -> Float32[Tensor, "n d"]:
    """Rows of whole held-out documents until there are enough."""
    rows = np.flatnonzero(streamed.held_out)
    if len(rows) < HELD_OUT_ROWS:
        raise EPError(f"{streamed.folder} holds {len(rows):,} held-out activations; {HELD_OUT_ROWS:,} are needed")
    documents = np.random.default_rng(seed).permutation(np.unique(streamed.document_n[rows]))
    sizes = np.array([(streamed.document_n[rows] == document).sum() for document in documents])
    chosen = documents[: int(np.searchsorted(np.cumsum(sizes), HELD_OUT_ROWS)) + 1]
    return streamed.rows(rows[np.isin(streamed.document_n[rows], chosen)])


def _summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least and largest over orders."""
    lines = []
    for key in dict.fromkeys((row["tokens"], row["percentile"], row["arm"]) for row in rows):
        same = [row for row in rows if (row["tokens"], row["percentile"], row["arm"]) == key]
        fvu = {}
        for k in same[0]["fvu"]:
            values = [row["fvu"][k] for row in same]
            fvu[k] = [round(value, 4) for value in (float(np.mean(values)), min(values), max(values))]
        directions = round(float(np.mean([row["directions"] for row in same])))
        lines.append({"tokens": key[0], "percentile": key[1], "arm": key[2], "directions": directions, "fvu": fvu})
    return lines
