"""Peers: what a user might take instead, on the same real activations, timed and judged on rows held out.

The paper's procedure as the textbook writes it down, at the two batch sizes it is run with; one pass of scikit-learn's
MiniBatchKMeans over the directions, and spherical k-means of faiss where that is installed, with as many
centroids as there are exemplars; Birch, whose members lie the threshold apart on the average, on a twelfth of
the rows, as it goes one by one; and for assignment a product and its argmax in plain torch.

Times are seconds of the processor with one thread, medians of turns in alternation: the machine was shared with other
work, which slows memory down for all sides alike.

Quality is that of unit directions on held-out rows: mean cosine to the nearest, fraction of variance unexplained by
the one best projection (l0 1), and coverage, the share of rows within the threshold of one. Random rows and the
means of members stand beside the exemplars without times.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.cluster import Birch, MiniBatchKMeans

from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.estimator import ExemplarPartition

from . import data, textbook
from .clustering import PERCENTILES, by_the_book, cluster, settled
from .measure import Row, Samples, alternate, arguments, peak_memory, use_threads, write

SMALL = data.BATCH // 8  # the procedure's other batch: 2,032 activations
BATCHES, HELD_OUT = 6, 1
TURNS = 3  # of each side
FAISS = importlib.util.find_spec("faiss") is not None
PASSES = 10  # of faiss


@cache
def rows(batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations to learn from, and held out."""
    n = batches * data.BATCH
    x_nd = data.activations(n + HELD_OUT * data.BATCH)
    return x_nd[:n], x_nd[n:]


def learn(side: str, x_nd: np.ndarray, center_d: np.ndarray, threshold: float, k: int) -> np.ndarray:
    """The unit directions [k, d] that a side makes of activations."""
    name, _, batch = side.partition(", batch ")
    rows_of_batch = int(batch.replace(",", "") or data.BATCH)
    if name == "ours":
        return cluster(x_nd, center_d, threshold, batch=rows_of_batch)[0].exemplars.numpy()
    if name == "procedure":
        return by_the_book(x_nd, center_d, threshold, rows_of_batch)[0].exemplars
    if name == "fit, threshold given":
        return ExemplarPartition(threshold=threshold).fit(x_nd).exemplars_
    if name == "fit, by percentile":
        return ExemplarPartition(percentile=max(PERCENTILES)).fit(x_nd).exemplars_
    u_nd = textbook.directions(x_nd, center_d)
    if name == "MiniBatchKMeans":
        means = MiniBatchKMeans(k, init="random", n_init=1, random_state=data.SEED)
        for start in range(0, len(u_nd), max(SMALL, k)):
            means.partial_fit(u_nd[start : start + max(SMALL, k)])
        return unit(means.cluster_centers_)
    if name == "Birch":
        return unit(Birch(threshold=math.sqrt(threshold), n_clusters=None).fit(u_nd).subcluster_centers_)
    assert name == "faiss"
    means = importlib.import_module("faiss").Kmeans(u_nd.shape[1], k, niter=PASSES, spherical=True, seed=1)
    means.train(u_nd)
    return unit(means.centroids)


def unit(e_kd: np.ndarray) -> np.ndarray:
    return (e_kd / np.linalg.norm(e_kd, axis=1, keepdims=True)).astype(np.float32)


def plain_assign(x_nd: np.ndarray, center_d: np.ndarray, e_kd: np.ndarray) -> torch.Tensor:
    """Nearest exemplars as one writes it in torch: a product and its argmax, batch by batch."""
    e_dk, center = torch.from_numpy(e_kd).T, torch.from_numpy(center_d)
    parts = torch.from_numpy(x_nd).split(SMALL)
    return torch.cat([(torch.nn.functional.normalize(part - center, dim=1) @ e_dk).argmax(dim=1) for part in parts])


def quality(e_kd: np.ndarray, x_nd: np.ndarray, center_d: np.ndarray, threshold: float) -> dict[str, Any]:
    """How well unit directions stand for rows they were not made of."""
    y_nd = torch.from_numpy(x_nd - center_d)
    length_n = y_nd.norm(dim=1)
    projection_n = torch.cat([(part @ torch.from_numpy(e_kd).T).amax(dim=1) for part in y_nd.split(SMALL)])
    cosine_n = projection_n / length_n
    left = (length_n.double() ** 2 - projection_n.double().clamp(min=0) ** 2).sum()
    total = (y_nd.double() - y_nd.double().mean(dim=0)).square().sum()
    return {
        "K": len(e_kd),
        "cosine": float(cosine_n.mean()),
        "FVU": float(left / total),
        "coverage": float((1 - cosine_n <= threshold).float().mean()),
    }


def prepare(side: str, batches: int, percentile: float, k: int, n: int) -> Callable[[], Any]:
    x_nd, _ = rows(batches)
    center_d, thresholds = settled(batches)
    return lambda: learn(side, x_nd[:n], center_d, thresholds[percentile], k)


def assigning(x_nd: np.ndarray, center_d: np.ndarray, e_kd: np.ndarray, threshold: float) -> dict[str, Callable]:
    """Regions with exact distances, regions alone, and what plain torch makes of it."""
    dictionary = Dictionary(torch.from_numpy(center_d), torch.from_numpy(e_kd), threshold)
    return {
        "regions and distances": lambda: dictionary.assign(x_nd)[0],
        "regions alone": lambda: dictionary.ids(x_nd),
        "plain torch": lambda: plain_assign(x_nd, center_d, e_kd).numpy(),
    }


def at(percentile: float, batches: int, turns: int) -> list[Row]:
    """All peers at one percentile."""
    (x_nd, held_nd), (center_d, thresholds) = rows(batches), settled(batches)
    threshold = thresholds[percentile]
    exemplars = learn("ours", x_nd, center_d, threshold, 0)
    k = len(exemplars)
    what = f"percentile {percentile:g}, K {k:,}: "

    def judged(e_kd: np.ndarray) -> dict[str, Any]:
        return quality(e_kd, held_nd, center_d, threshold)

    def against(peer: str, mine: str, n: int) -> Row:
        sides = {side: lambda side=side: learn(side, x_nd[:n], center_d, threshold, k) for side in (peer, mine)}
        times, made = alternate(sides, turns, processor=True)
        told_apart = percentile == max(PERCENTILES) and (peer.startswith("procedure") or mine.startswith("fit"))
        given: dict[str, Any] = {"batches": batches, "percentile": percentile, "k": k, "n": n}
        memory = {side: peak_memory(prepare, side=side, **given) for side in sides if told_apart}
        told = f" against {mine}" if mine.startswith("fit") else ""
        named = what + peer + told + f", {n:,} rows"
        return _row(named, mine, peer, times=times, memory=memory, found=judged(made[peer]))

    means = Dictionary(torch.from_numpy(center_d), torch.from_numpy(exemplars), threshold).members(x_nd).mean_directions
    random = np.random.default_rng(data.SEED).choice(len(x_nd), k, replace=False)
    found = [
        Row(what + "exemplars", found=judged(exemplars)),
        Row(what + "means of members", found=judged(means[means.any(axis=1)])),
        Row(what + "random rows", found=judged(textbook.directions(x_nd[random], center_d))),
    ]
    for batch in (f"{data.BATCH:,}", f"{SMALL:,}"):
        found.append(against(f"procedure, batch {batch}", f"ours, batch {batch}", len(x_nd)))
    found.append(against("MiniBatchKMeans", "ours", len(x_nd)))
    found.append(against("MiniBatchKMeans", "fit, threshold given", len(x_nd)))
    if percentile == max(PERCENTILES):
        found.append(against("MiniBatchKMeans", "fit, by percentile", len(x_nd)))
        found.append(against("Birch", "ours", len(x_nd) // 12))
    if FAISS:
        found.append(against("faiss", "ours", len(x_nd)))
    else:
        found.append(Row(what + "faiss", found={"faiss": "is not installed"}))
    times, made = alternate(assigning(x_nd, center_d, exemplars, threshold), turns, processor=True)
    for mine in ("regions and distances", "regions alone"):
        differ = {"regions that differ": f"{(made[mine] != made['plain torch']).mean():.3%}"}
        named = f"{what}assign, {mine}, against plain torch"
        found.append(_row(named, mine, "plain torch", times=times, memory={}, found=differ))
    return found


def _row(
    what: str, mine: str, peer: str, *, times: dict[str, Samples], memory: dict[str, float], found: dict[str, Any]
) -> Row:
    kept: dict[str, Any] = {"memory_ours": memory.get(mine), "memory_textbook": memory.get(peer)}
    return Row(what, times[mine], times[peer], found=found, **kept)


def main() -> None:
    given = arguments(__doc__)
    use_threads(1)
    batches, turns = (1, 1) if given.quick else (BATCHES, TURNS)
    percentiles = PERCENTILES[-1:] if given.quick else PERCENTILES[::-1]
    (x_nd, held_nd), (_, thresholds) = rows(batches), settled(batches)
    judged: list[Row] = []
    for percentile in percentiles:  # written as far as it is, since it takes long
        judged += at(percentile, batches, turns)
        write(
            "peers",
            **data.stated(given, __doc__),
            data={
                **data.described(x_nd),
                "held out": len(held_nd),
                "thresholds": {f"{p:g}": thresholds[p] for p in percentiles},
            },
            rows=judged,
        )


if __name__ == "__main__":
    main()
