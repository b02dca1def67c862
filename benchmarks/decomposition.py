"""Decomposition: rows in 32 steps over 2,700 random activations as atoms (d = 576), beside scikit-learn.

The textbook is `orthogonal_mp_gram` of scikit-learn on the same rows, with the inner products of the atoms, and of
atoms and rows, given. It takes one row at a time, so it gets fewer, and its time is scaled up. Signed `omp` must
give the same weights; plain and non-negative pursuit have no textbook there and stand beside the same time. Seconds are
of the processor, of all threads together; compiled is what numba makes (the extra `fast`), tensors is without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import orthogonal_mp_gram

from exemplar_partitioning.core import dictionary
from exemplar_partitioning.core.dictionary import Dictionary

from . import data
from .measure import Row, alternate, arguments, peak_memory, write

K, STEPS = 2700, 32
KINDS = {"mp": ("mp", True), "omp": ("omp", True), "omp, signed": ("omp", False)}
WAYS = {"compiled": 0, "tensors": sys.maxsize}
TARGETS = {"mp, compiled": ">= 10x, >= 10,000 rows/s", "omp, compiled": ">= 10x, >= 2,000 rows/s"}


def prepared(n: int) -> tuple[Dictionary, np.ndarray]:
    """Atoms and rows from different activations, in random order."""
    x_nd = data.activations(8 * data.BATCH)
    chosen = np.random.default_rng(data.SEED).permutation(len(x_nd))[: K + n]
    center_d = torch.from_numpy(x_nd[chosen[:K]].mean(axis=0))
    atoms_kd = torch.nn.functional.normalize(torch.from_numpy(x_nd[chosen[:K]]) - center_d, dim=1)
    return Dictionary(center_d, atoms_kd, 0.5), x_nd[chosen[K:]]


def ours(d: Dictionary, x_nd: np.ndarray, kind: str, way: str) -> Any:
    method, nonnegative = KINDS[kind]
    dictionary.MANY = WAYS[way]
    return d.decompose(x_nd, STEPS, method=method, nonnegative=nonnegative)  # type: ignore[arg-type]


def by_the_book(d: Dictionary, x_nd: np.ndarray) -> np.ndarray:
    atoms_kd, a_nd = d.exemplars.double().numpy(), x_nd.astype(np.float64) - d.center.double().numpy()
    return orthogonal_mp_gram(atoms_kd @ atoms_kd.T, atoms_kd @ a_nd.T, n_nonzero_coefs=STEPS).T


def prepare(kind: str, way: str, n: int) -> Callable[[], Any]:
    d, x_nd = prepared(n)
    ours(d, x_nd[:64], kind, way)  # what is loaded once
    return lambda: ours(Dictionary(d.center, d.exemplars, d.threshold), x_nd, kind, way)


def main() -> None:
    given = arguments(__doc__)
    n, book, turns = (1_000, 20, 1) if given.quick else (2_000, 20, 2)
    d, x_nd = prepared(n)
    rows = []
    for kind in KINDS:
        for way in WAYS:
            ours(d, x_nd[:64], kind, way)  # the atoms' inner products, once for a dictionary, and compiled code
        sides = {way: lambda way=way: ours(d, x_nd, kind, way) for way in WAYS}  # noqa: B023
        times, results = alternate({**sides, "textbook": lambda: by_the_book(d, x_nd[:book])}, turns, processor=True)
        for way in WAYS:
            found: dict[str, Any] = {"rows per second of a core": round(n / times[way].median)}
            found["of the textbook"] = round(book / times["textbook"].median, 1)
            if kind == "omp, signed":
                mine = results[way][:book].dense().to_dense().numpy()
                off = np.abs(mine - results["textbook"]).max() / np.abs(results["textbook"]).max()
                found["largest difference of weights, as a share of the largest"] = float(f"{off:.1e}")
            rows.append(
                Row(
                    what := f"{kind}, {way}",
                    times[way],
                    times["textbook"].times(n / book),
                    target=TARGETS.get(what),
                    memory_ours=peak_memory(prepare, kind=kind, way=way, n=n),
                    found=found,
                )
            )
    write(
        "decomposition",
        **data.stated(given, __doc__),
        data={"text": data.text_name(), "rows": n, "atoms": K, "d": x_nd.shape[1], "steps": STEPS},
        rows=rows,
    )


if __name__ == "__main__":
    main()
