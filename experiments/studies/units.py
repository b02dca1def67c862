"""One named unit by 32 texts, again: intents not asked before, five orders of the stream, trained autoencoders.

    python -m experiments.studies.units DATA ACTIVATIONS AUTOENCODERS --cache DIR --out FILE

Question, arms and rule: `ep_experiments/axbench/PREREGISTRATION.md`. ACTIVATIONS is a safetensors file with `x` [n, d]
of ordinary text at the site (`reconstruction_sites` keeps one); AUTOENCODERS a folder of `reconstruction` with
dictionary-15, topk-1 and batchtopk-1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ep_experiments import nulls
from ep_experiments.activations import text_activations
from ep_experiments.axbench import readouts
from ep_experiments.axbench.baselines import centred, cosines, partitions, spherical_kmeans
from ep_experiments.axbench.columns import both_signs, of_table
from ep_experiments.axbench.readouts import Encode, pool
from ep_experiments.record import write_study
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.models.load import load_model

from .concepts import SITE
from .few import Study, judged
from .few_data import INTENTS, intents

PERCENTILE = 2.0
ORDERS, DRAWS = 5, 2
COUNT = 32  # labelled texts
K = 32  # of the autoencoders


def arguments(about: str | None) -> argparse.Namespace:
    """Where the data, ordinary activations and autoencoders are, and where to write."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path)
    options.add_argument("activations", type=Path)
    options.add_argument("autoencoders", type=Path)
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    return options.parse_args()


def main() -> None:
    given = arguments(__doc__)
    begun = time.monotonic()
    loaded = load_model("smollm2-135m-instruct", dtype="bfloat16", device="cpu")
    texts, questions = intents(given.data / "labelled" / "clinc150_oos_plus.jsonl.gz", first=INTENTS)
    fitted_on = sorted({int(i) for q in questions for i in np.concatenate([q.positive, q.negative])})
    acts = text_activations(loaded, [SITE], texts, cache=given.cache, context_size=64)[SITE]
    x_nd = load_file(given.activations)["x"].float()

    def tried(columns: readouts.Pooled) -> list[float]:
        return [Study._by_few(columns, q, [(COUNT, readouts.best)])[0] for q in questions]

    orders = [partitions(x_nd[shuffled(len(x_nd), order)], [PERCENTILE])[PERCENTILE] for order in range(ORDERS)]
    by_order = [tried(pool(acts, cosines(d.center, d.exemplars))) for d in orders]
    scores: dict[str, list[list[float]]] = {
        "regions": by_order,
        "words": [tried(of_table(nulls.words(texts, fitted_on)))],
    }
    for name, encode in rivals(x_nd, orders[0].center, orders[0].k):
        scores.setdefault(name, []).append(tried(pool(acts, encode)))
    wide: dict[str, list[list[float]]] = {}
    for name, encode in trained(given.autoencoders):
        wide[name] = [tried(pool(acts, encode))]
    settings = [judged(name, {arm: np.mean(draws, axis=0) for arm, draws in of.items()})
                for name, of in (("one unit, five orders", scores), ("one unit, wide", wide))]  # fmt: skip
    about = {
        "site": SITE,
        "percentile": PERCENTILE,
        "activations": len(x_nd),
        "k": [d.k for d in orders],
        "orders": [round(float(np.mean(of)), 4) for of in by_order],
    }
    write_study(given.out, "units", loaded.info, begun, about | {"settings": settings}, study="units")


def shuffled(n: int, order: int) -> Tensor:
    """Rows in an order of their own; the first is that of the text."""
    return torch.from_numpy(np.random.default_rng(order).permutation(n)) if order else torch.arange(n)


def rivals(x_nd: Tensor, center_d: Tensor, k: int) -> Iterator[tuple[str, Encode]]:
    """Other units of the same activations, as many."""
    u_nd = centred(x_nd, center_d)
    for draw in range(DRAWS):
        yield "k-means", cosines(center_d, spherical_kmeans(u_nd, k, draw))
        yield "random exemplars", cosines(center_d, nulls.random_exemplars(u_nd, k, draw))
        yield "Gaussian directions", cosines(center_d, nulls.gaussian_directions(x_nd.shape[1], k, draw))
    yield "highest activation", both_signs(x_nd)


def trained(folder: Path) -> Iterator[tuple[str, Encode]]:
    """A dictionary of 200,000 activations, and autoencoders as wide, of five million."""
    d = {name: t.float() for name, t in load_file(folder / "dictionary-15.safetensors").items()}
    yield "regions", cosines(d["center"], d["exemplars"])
    for name, kind in (("topk-1", "topk"), ("batchtopk-1", "jumprelu")):
        tensors: dict[str, Any] = {n: t.float() for n, t in load_file(folder / f"{name}.safetensors").items()}
        sae = SparseAutoencoder(**tensors, kind=kind, k=K if kind == "topk" else None)
        yield name.removesuffix("-1"), sae.encode


if __name__ == "__main__":
    main()
