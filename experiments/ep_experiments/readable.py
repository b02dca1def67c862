"""Can held-out members of a region be told from others by its label, without a judge? See `READABLE.md`.

Shapes: n activations, k regions, v tokens, d = d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from exemplar_partitioning.compare.overlap import contingency
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.loaded import LoadedModel

from . import nulls
from .activations import TextActivations
from .axbench import baselines
from .axbench.readouts import auroc
from .paired import interval, mean_spread, resamples

SHOWN = 10  # tokens of a label
ITEMS = 10  # held-out members, and others
NEAR = 8  # nearest regions, of which half of the others come
ONE_FORM = 0.9
DRAWS = 2  # of what is drawn at random
RESAMPLES = 4000


@dataclass(frozen=True)
class Plan:
    """site: one.  tokens: of ordinary text, four fifths of them for regions and labels."""

    site: str
    percentiles: tuple[float, ...] = (1.0, 2.0, 4.0)
    tokens: int = 200_000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of tokens. near_km: nearest others of each cluster; None where it has no place."""

    of_n: Int64[np.ndarray, " n"]
    near_km: Int64[np.ndarray, "k m"] | None
    k: int


def run(loaded: LoadedModel, acts: TextActivations, plan: Plan) -> dict[str, Any]:
    """Detection scores of every arm. Raises EPError if there is too little text."""
    n = min(plan.tokens, len(acts.x_nd))
    first_held = int(acts.start_t[np.searchsorted(acts.start_t, n * 4 // 5)])  # a document is held out whole
    if n - first_held < 10 * ITEMS:
        raise EPError(f"{n:,} activations leave {n - first_held:,} held out; give more text")
    x_nd, token_n = torch.from_numpy(np.array(acts.x_nd[:n])), acts.token_n[:n].astype(np.int64)
    forms = [text.strip().casefold() for text in loaded.tokenizer.batch_decode(np.arange(token_n.max() + 1)[:, None])]
    _, form_v = np.unique(forms, return_inverse=True)
    rows = []
    for percentile, regions in baselines.partitions(x_nd[:first_held], plan.percentiles).items():
        of: dict[str, list[Float64[np.ndarray, " k"]]] = {}
        facts: dict[str, dict[str, Any]] = {}
        for name, clusters in _arms(regions, x_nd, first_held, plan.seed):
            score_k = scores(clusters, token_n, first_held, plan.seed)
            of.setdefault(name, []).append(score_k[~np.isnan(score_k)])
            facts.setdefault(name, {"one_form": round(one_form(clusters, form_v[token_n]), 4)})
        rows += [
            {"percentile": percentile, "arm": name, "k": regions.k, "scored": len(draws[0]), **facts[name],
             "score": mean_spread(np.concatenate(draws)),
             "regions_above": _apart(of["regions"][0], np.concatenate(draws))}
            for name, draws in of.items()
        ]  # fmt: skip
    return {"plan": asdict(plan), "activations": n, "held_out": n - first_held, "rows": rows}


def _arms(regions: Dictionary, x_nd: Tensor, first_held: int, seed: int) -> Iterator[tuple[str, Clusters]]:
    u_nd = baselines.centred(x_nd[:first_held], regions.center)

    def cells(e_kd: Tensor) -> Clusters:
        of_n, _ = Dictionary(regions.center, e_kd, regions.threshold).assign(x_nd.numpy())
        cosine_kk = (e_kd @ e_kd.T).fill_diagonal_(-2)
        return Clusters(
            of_n.astype(np.int64), cosine_kk.topk(min(NEAR, len(e_kd) - 1), dim=1).indices.numpy(), len(e_kd)
        )

    real = cells(regions.exemplars)
    yield "regions", real
    for draw in range(DRAWS):
        yield "null regions", cells(nulls.random_exemplars(u_nd, regions.k, seed + draw))
        yield "Gaussian directions", cells(nulls.gaussian_directions(regions.d_model, regions.k, seed + draw))
        order = nulls.permuted(np.arange(len(real.of_n)) >= first_held, np.random.default_rng(seed + draw))
        yield "random clusters", Clusters(real.of_n[order], None, real.k)
    yield "k-means", cells(torch.from_numpy(baselines.spherical_kmeans(u_nd, regions.k, seed)))


def scores(
    clusters: Clusters, token_n: Int64[np.ndarray, " n"], first_held: int, seed: int
) -> Float64[np.ndarray, " k"]:
    """Detection score of each cluster by its label; NaN for one with too few held-out members."""
    rng, of_n = np.random.default_rng(seed), clusters.of_n
    inside = np.flatnonzero(of_n[:first_held] >= 0)
    count_kv = contingency(of_n[inside], token_n[inside], clusters.k, int(token_n.max()) + 1)
    count_v, members_k = count_kv.sum(axis=0), count_kv.sum(axis=1)
    held = first_held + np.flatnonzero(of_n[first_held:] >= 0)
    by = np.split(
        held[np.argsort(of_n[held], kind="stable")], np.cumsum(np.bincount(of_n[held], minlength=clusters.k))[:-1]
    )
    score_k = np.full(clusters.k, np.nan)
    for region, mine in enumerate(by):
        if len(mine) < ITEMS:
            continue
        others = _others(region, by, held, of_n, clusters.near_km, rng)
        start, end = count_kv.indptr[region : region + 2]
        token, count = count_kv.indices[start:end], count_kv.data[start:end]
        lift = np.where(count >= 2, count / count_v[token], 0)
        shown = np.argsort(-lift, kind="stable")[:SHOWN]
        weight = dict(zip(token[shown], np.where(lift[shown] > 0, count[shown] / members_k[region], 0), strict=True))
        items = np.concatenate([rng.choice(mine, ITEMS, replace=False), others])
        score_n = np.array([weight.get(t, 0.0) for t in token_n[items]])
        score_k[region] = auroc(score_n, np.arange(len(items)) < ITEMS)
    return score_k


def _others(
    region: int, by: Sequence[np.ndarray], held: np.ndarray, of_n: np.ndarray, near_km: np.ndarray | None, rng: Any
) -> np.ndarray:
    """Held-out members of other clusters, half of them of the nearest."""
    near = np.concatenate([by[other] for other in near_km[region]]) if near_km is not None else held[:0]
    close = rng.choice(near, min(ITEMS // 2, len(near)), replace=False)
    apart = rng.choice(held, 4 * ITEMS, replace=False) if len(held) >= 4 * ITEMS else rng.permutation(held)
    apart = apart[of_n[apart] != region]
    return np.concatenate([close, apart])[:ITEMS]


def one_form(clusters: Clusters, form_n: Int64[np.ndarray, " n"]) -> float:
    """Share of clusters nearly all of whose members are one word form."""
    inside = clusters.of_n >= 0
    count = contingency(clusters.of_n[inside], form_n[inside], clusters.k, int(form_n.max()) + 1)
    members_k = count.sum(axis=1)
    return float((count.max(axis=1).toarray().ravel() >= ONE_FORM * members_k)[members_k > 0].mean())


def _apart(a_k: Float64[np.ndarray, " a"], b_k: Float64[np.ndarray, " b"]) -> list[float]:
    """Difference of means of two sets of regions, each drawn anew."""
    drawn = [resamples(len(of), RESAMPLES, seed) @ of / len(of) for seed, of in enumerate((a_k, b_k))]
    return [round(v, 4) for v in (float(a_k.mean() - b_k.mean()), *interval(drawn[0] - drawn[1]))]
