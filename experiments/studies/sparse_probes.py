"""K-sparse probes on codes: what a few features of a code tell of a text's class.

    python -m experiments.studies.sparse_probes --activations DIR --sae FILE [--sae FILE ...] --cache DIR
        [--out docs/results/reconstruction/sparse.json]

DIR is the folder of `experiments.studies.reconstruction run --small`; directions come from its pool of activations.
FILE is an autoencoder that its full run kept. Part 4 of PREREGISTRATION.md of `ep_experiments/reconstruction`.

Shapes: n training rows, t test rows, f features, d = d_model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from ep_experiments.paired import difference, macro_auroc
from ep_experiments.probes.features import Plan, Rows, read_rows
from ep_experiments.probes.logistic import probe, top_features
from ep_experiments.reconstruction import arms
from ep_experiments.tasks import collection_names, collection_task
from exemplar_partitioning.core.calibration import BATCH, calibrate
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.files import to_json
from exemplar_partitioning.models.load import load_model

KS = (1, 2, 5, 16)
STEPS = 32  # of pursuit
DRAWS = 3  # orders of documents, draws of random activations
SITE, PERCENTILE = 15, 0.7
PLAN = Plan(train=120, test=80, context_size=24)
TOKENS = 30_000  # directions are made from
TASKS = 6

Code = Any  # activations [n, d] to features [n, f], float32


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--activations", type=Path, required=True)
    options.add_argument("--sae", type=Path, action="append", default=[])
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("docs/results/reconstruction/sparse.json"))
    given = options.parse_args()
    codes = dict(of_directions(load_file(given.activations / "pool-activations.safetensors")[str(SITE)].float()))
    for path in given.sae:
        sae, decoder = autoencoder(path)
        name = path.stem.removesuffix("-1")
        codes |= {(name, 0): sae.encode, (f"{name}, pursuit", 0): pursued(decoder)}
    loaded = load_model("smollm2-135m-instruct", dtype="bfloat16")
    names = np.random.default_rng(0).permutation(collection_names())[:TASKS]
    facts = {"tasks": sorted(names.tolist()), "train": PLAN.train, "test": PLAN.test, "context": PLAN.context_size}
    rows: list[dict[str, Any]] = []
    for name in names:
        task = collection_task(str(name))
        read, _ = read_rows(loaded, f"resid_post.{SITE}", task, PLAN, given.cache)
        rows += [{"task": str(name), **row} for row in measured(read, codes, task.texts)]
        given.out.write_bytes(to_json(facts | {"summary": summary(rows), "rows": rows}))
        print(name, len(rows), flush=True)  # noqa: T201


def of_directions(x_nd: Tensor) -> Iterator[tuple[tuple[str, int], Code]]:
    """Pursuit over exemplars, means and random activations, each of some draws."""
    for draw in range(DRAWS):
        order_n = torch.randperm(len(x_nd), generator=torch.Generator().manual_seed(draw))[:TOKENS]
        ordered_nd = x_nd[order_n]
        calibration = calibrate([ordered_nd[:BATCH]], [PERCENTILE])
        center_d = torch.as_tensor(calibration.center).float()
        exemplars_kd = arms.exemplars(ordered_nd, center_d, calibration.thresholds[PERCENTILE])
        sets = {
            "exemplars": exemplars_kd,
            "means": arms.means(exemplars_kd, ordered_nd, center_d),
            "random activations": arms.random_activations(ordered_nd, center_d, len(exemplars_kd), draw),
        }
        for name, directions_kd in sets.items():
            yield (name, draw), pursued(Dictionary(center_d, directions_kd, 1.0))


def pursued(d: Dictionary) -> Code:
    """Weights of pursuit in so many steps."""
    return lambda x_nd: d.encode(x_nd, "pursuit", k=STEPS)


def autoencoder(path: Path) -> tuple[SparseAutoencoder, Dictionary]:
    """One kept by the full run, and its decoder's directions."""
    tensors = {name: t.float() for name, t in load_file(path).items()}
    kind = "jumprelu" if "threshold" in tensors else "topk"
    sae = SparseAutoencoder(**tensors, kind=kind, k=None if "threshold" in tensors else STEPS)
    return sae, Dictionary(sae.b_dec, normalize(sae.W_dec, dim=1), 1.0)


def measured(rows: Rows, codes: dict[tuple[str, int], Code], texts: list[str]) -> Iterator[dict[str, Any]]:
    """AUROC on test rows of every arm at every k; of words and raw activations also with all their features."""
    x_xd = torch.from_numpy(np.array(rows.last_xd))
    every = rows.every
    present, token_n = np.unique(every.token_n, return_inverse=True)
    bag_xf = np.zeros((len(x_xd), len(present)), np.float32)
    np.add.at(bag_xf, (every.text_n, token_n), 1)
    arms_of: dict[tuple[str, int], np.ndarray] = {("raw coordinates", 0): x_xd.numpy(), ("words", 0): bag_xf.clip(0, 1)}
    arms_of |= {key: code(x_xd).numpy() for key, code in codes.items()}
    for (arm, draw), features_xf in arms_of.items():
        train_nf, test_tf = rows.halves(features_xf)
        best = top_features(train_nf, rows.label_n, max(KS))
        for k in KS:
            yield {"arm": arm, "draw": draw, "k": k, "auroc": scored(rows, train_nf[:, best[:k]], test_tf[:, best[:k]])}
        if arm in ("raw coordinates", "words"):
            yield {"arm": arm, "draw": draw, "k": None, "auroc": scored(rows, train_nf, test_tf)}


def scored(rows: Rows, train_nf: np.ndarray, test_tf: np.ndarray) -> float:
    """AUROC of logistic regression on test rows, features brought to unit variance."""
    score_tc, _ = probe(train_nf, rows.label_n, test_tf, standardise=True, seed=0)
    once = np.ones((1, len(rows.label_t)), np.int64)
    return round(float(macro_auroc(score_tc, rows.label_t, once)[0]), 4)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over tasks, differences from exemplars by task, and what re-seeding alone does.

    noise: standard deviation over draws of the mean over tasks.  detectable: the least difference of two arms of one
    draw each that 95 % of re-seedings would not make.
    """
    keys = list(dict.fromkeys((row["arm"], row["k"]) for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    table_at = {}
    for arm, k in keys:
        draws = sorted({row["draw"] for row in rows if row["arm"] == arm})
        at = {(row["task"], row["draw"]): row["auroc"] for row in rows if (row["arm"], row["k"]) == (arm, k)}
        table_at[arm, k] = np.array([[at[task, draw] for draw in draws] for task in tasks])
    lines = []
    for (arm, k), auroc_wd in table_at.items():
        line: dict[str, Any] = {"arm": arm, "k": k, "auroc": round(float(auroc_wd.mean()), 4)}
        if auroc_wd.shape[1] > 1:
            noise = float(auroc_wd.mean(axis=0).std(ddof=1))
            line |= {"noise": round(noise, 4), "detectable": round(1.96 * 2**0.5 * noise, 4)}
        base = table_at.get(("exemplars", k))
        if arm != "exemplars" and base is not None:
            apart = difference(base.mean(axis=1), auroc_wd.mean(axis=1))
            line["exemplars_ahead_by"] = {name: round(value, 4) for name, value in apart.items()}
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()
