"""Identical results, however the work is split: real activations, p = 1 and p = 10.

Exemplars, births, online counts, assignments on arrival, and assignments over the frozen dictionary are hashed
for batches of 1 (on a prefix), 256, 4,096 and 16,256 rows, 1 and 2 threads, and every
prefilter; a short prefix is judged by the float64 oracle of the tests as well.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any, get_args

import numpy as np
from tests import oracle

from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.nearest import Prefilter

from . import data
from .clustering import cluster, settled
from .measure import Row, arguments, timed, use_threads, write


def run(
    x_nd: np.ndarray, center_d: np.ndarray, threshold: float, batch: int, prefilter: Any, prefix: int
) -> tuple[str, str, int]:
    """Hash of everything decided on the stream, and on its first `prefix` rows; number of exemplars."""
    mine, ids_n = cluster(x_nd, center_d, threshold, prefilter, batch)
    dictionary = Dictionary(mine.center, mine.exemplars, threshold, prefilter=prefilter)
    assigned = [dictionary.assign(x_nd[i : i + max(batch, 256)]) for i in range(0, len(x_nd), max(batch, 256))]
    frozen = [np.concatenate(part) for part in zip(*assigned, strict=True)]
    whole = _hash(mine.exemplars.numpy(), mine.births, mine.online_counts, ids_n, *frozen)
    k = int((mine.births < prefix).sum())
    return whole, _hash(mine.exemplars[:k].numpy(), mine.births[:k], ids_n[:prefix]), mine.k


def _hash(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


def main() -> None:
    given = arguments(__doc__)
    batches, prefix, judged = (2, 2_048, 256) if given.quick else (data.CACHED_BATCHES, data.BATCH, 1_500)
    n = batches * data.BATCH
    center_d, thresholds = settled(batches)
    x_nd = data.activations(n)
    rows = []
    for percentile in (1.0, 10.0):
        threshold = thresholds[percentile]
        wholes, prefixes, ways, k = set(), set(), 0, 0
        for threads, prefilter, batch in itertools.product((1, 2), get_args(Prefilter), (1, 256, 4096, 16256)):
            use_threads(threads)
            rows_n = prefix if batch == 1 else n
            (whole, first, found_k), seconds, _ = timed(
                lambda: run(x_nd[:rows_n], center_d, threshold, batch, prefilter, prefix)  # noqa: B023
            )
            print(f"  p {percentile:g}, {threads} threads, {prefilter}, batch {batch}: {seconds:.1f} s {whole} {first}")
            ways += 1
            prefixes.add(first)
            if batch > 1:
                wholes.add(whole)
                k = found_k
        e_kd, births, ids, *_ = oracle.leader_clustering(x_nd[:judged], center_d, threshold)
        mine, my_ids = cluster(x_nd[:judged], center_d, threshold)
        agrees = (
            np.array_equal(mine.exemplars.numpy(), e_kd)
            and np.array_equal(mine.births, births)
            and np.array_equal(my_ids, ids)
        )
        rows.append(
            Row(
                f"p = {percentile:g}, K = {k:,}: {ways} ways",
                target="all equal",
                found={
                    "different results": f"{len(wholes) - 1} on {n:,} activations, "
                    f"{len(prefixes) - 1} on the first {prefix:,}",
                    "oracle": f"{'equal' if agrees else 'DIFFERS'} on {judged:,} activations, {len(births):,} regions",
                },
            )
        )
    write(
        "identical",
        **data.stated(given, __doc__),
        data={"text": data.text_name(), "activations": n, "prefix": prefix, "sha256": data.digest(x_nd)},
        rows=rows,
    )


if __name__ == "__main__":
    main()
