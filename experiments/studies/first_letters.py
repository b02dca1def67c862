"""First letters: does a feature tell a word's first letter, is it split, are words absorbed by other features?

    python -m experiments.studies.first_letters --activations DIR --sae FILE [--sae FILE ...]
        [--out docs/results/reconstruction/letters.json]

Options are those of `experiments.studies.sparse_probes`. Part 5 of PREREGISTRATION.md of
`ep_experiments/reconstruction`; the task and its terms are those of A is for Absorption (2409.14507).

Shapes: n words, f features, d = d_model, k regions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from safetensors.torch import load_file
from torch import Tensor

from ep_experiments.activations import text_activations
from ep_experiments.paired import mean_spread
from ep_experiments.probes.features import one_hot
from ep_experiments.probes.logistic import prepared
from ep_experiments.reconstruction import arms
from exemplar_partitioning.core.calibration import BATCH, calibrate
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.files import to_json
from exemplar_partitioning.models.load import load_model

from .sparse_probes import SITE, TOKENS, autoencoder, pursued

PERCENTILES = (0.5, 1.0, 2.0, 4.0, 8.0)
WORDS, AT_LEAST = 1500, 40
GAIN, MOST = 0.03, 10  # F1 that a further feature must add; features of a letter at most
FINE, COARSE = 1.0, 4.0
DRAWS = 3  # of training tokens, for the noise of re-seeding


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--activations", type=Path, required=True)
    options.add_argument("--sae", type=Path, action="append", default=[])
    options.add_argument("--out", type=Path, default=Path("docs/results/reconstruction/letters.json"))
    given = options.parse_args()
    loaded = load_model("smollm2-135m-instruct", dtype="bfloat16")
    words = single_tokens(loaded.tokenizer)
    texts = [f"The word is{word}" for word in words]
    site = f"resid_post.{SITE}"
    read = text_activations(loaded, [site], texts, cache=None, positions="last")[site]
    given.out.write_bytes(
        to_json(
            measured(
                np.array([word[1] for word in words]),
                torch.from_numpy(np.array(read.x_nd)),
                load_file(given.activations / "pool-activations.safetensors")[str(SITE)].float(),
                given.sae,
            )
        )
    )


def single_tokens(tokenizer: Any) -> list[str]:
    """Words of one token with a space before them, those that come first in the vocabulary."""
    texts = (tokenizer.decode([token]) for token in range(len(tokenizer)))
    words = (text for text in texts if text[:1] == " " and len(text) > 3 and text[1:].isalpha() and text.islower())
    return [word for word in words if word.isascii()][:WORDS]


@dataclass(frozen=True)
class Letters:
    """Words by first letter. train_n: those that features are chosen on; the others are for test."""

    letter_n: np.ndarray
    train_n: Bool[np.ndarray, " n"]

    @property
    def wanted(self) -> list[str]:
        """Letters with enough words."""
        names, counts = np.unique(self.letter_n, return_counts=True)
        return [str(name) for name, count in zip(names, counts, strict=True) if count >= AT_LEAST]


def measured(letter_n: np.ndarray, x_nd: Tensor, pool_nd: Tensor, saes: list[Path]) -> dict[str, Any]:
    """All arms over all letters."""
    train_n = np.zeros(len(letter_n), bool)
    train_n[np.random.default_rng(0).permutation(len(letter_n))[: len(letter_n) // 2]] = True
    letters = Letters(letter_n, train_n)
    known_nl = regression(letters, x_nd)
    lines, chosen, regions = [], {}, {}
    for name, percentile, active_nf in features(x_nd, pool_nd[:TOKENS], saes, regions):
        rows = [told(letters, letter, active_nf, known_nl[letter]) for letter in letters.wanted]
        lines.append({"arm": name, "percentile": percentile, "features": active_nf.shape[1], **pooled(rows)})
        if name == "exemplars, region":
            chosen[percentile] = {row["letter"]: row["chosen"] for row in rows}
        print(lines[-1], flush=True)  # noqa: T201
    truth = {letter: letter_n[~train_n] == letter for letter in letters.wanted}
    probe = np.array([f1(known_nl[letter][~train_n], truth[letter]) for letter in letters.wanted])
    return {
        "words": len(letter_n),
        "letters": letters.wanted,
        "regression_f1": mean(probe),
        "arms": lines,
        "tree": kin(chosen[FINE], regions[FINE], regions[COARSE]),
        "reseeded": reseeded(letters, known_nl, x_nd, pool_nd),
    }


def reseeded(
    letters: Letters, known_nl: dict[str, Bool[np.ndarray, " n"]], x_nd: Tensor, pool_nd: Tensor
) -> dict[str, dict[str, Any]]:
    """What other training tokens and other seeds make of it, at the fine percentile: estimates of every draw.

    detectable: the least difference of two arms of one draw each that 95 % of re-seedings would not make.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for draw in range(DRAWS):
        drawn_nd = pool_nd[torch.randperm(len(pool_nd), generator=torch.Generator().manual_seed(draw))[:TOKENS]]
        for name, _, active_nf in directions(x_nd, drawn_nd, (FINE,), {}, draw):
            rows = [told(letters, letter, active_nf, known_nl[letter]) for letter in letters.wanted]
            found.setdefault(name, []).append(pooled(rows))
    return {
        name: {figure: _noise([line[figure][0] for line in lines]) for figure in ("main", "union", "absorbed", "split")}
        for name, lines in found.items()
    }


def _noise(estimates: list[float]) -> dict[str, Any]:
    return {"draws": estimates, "detectable": round(1.96 * 2**0.5 * float(np.std(estimates, ddof=1)), 4)}


def regression(letters: Letters, x_nd: Tensor) -> dict[str, Bool[np.ndarray, " n"]]:
    """What logistic regression on the whole activation says of every word, learned on training words."""
    from sklearn.linear_model import LogisticRegression

    train_n = letters.train_n
    train, test = prepared(x_nd.numpy()[train_n], x_nd.numpy()[~train_n], standardise=True)
    model = LogisticRegression(C=100.0, max_iter=300).fit(train, letters.letter_n[train_n])
    said_n = np.empty_like(letters.letter_n)
    said_n[train_n], said_n[~train_n] = model.predict(train), model.predict(test)
    return {letter: said_n == letter for letter in letters.wanted}


def features(
    x_nd: Tensor, pool_nd: Tensor, saes: list[Path], regions: dict[float, Dictionary]
) -> Iterator[tuple[str, float | None, Bool[np.ndarray, "n f"]]]:
    """Which features of every arm are active on which words."""
    yield from directions(x_nd, pool_nd, PERCENTILES, regions, 0)
    for path in saes:
        sae, decoder = autoencoder(path)
        name = path.stem.removesuffix("-1")
        yield name, None, sae.encode(x_nd).numpy() > 0
        yield f"{name}, pursuit", None, pursued(decoder)(x_nd).numpy() > 0


def directions(
    x_nd: Tensor, pool_nd: Tensor, percentiles: tuple[float, ...], regions: dict[float, Dictionary], seed: int
) -> Iterator[tuple[str, float, Bool[np.ndarray, "n f"]]]:
    """Of exemplars, k-means and random activations: the region a word lies in, and pursuit; regions: are put there."""
    calibration = calibrate([pool_nd[:BATCH]], list(percentiles))
    center_d = torch.as_tensor(calibration.center).float()
    for percentile in percentiles:
        exemplars_kd = arms.exemplars(pool_nd, center_d, calibration.thresholds[percentile])
        k = len(exemplars_kd)
        sets = {"exemplars": exemplars_kd}
        sets["k-means"] = arms.spherical_kmeans(pool_nd, center_d, k, seed)
        sets["random activations"] = arms.random_activations(pool_nd, center_d, k, seed)
        for name, directions_kd in sets.items():
            d = Dictionary(center_d, directions_kd, 1.0)
            if name == "exemplars":
                regions[percentile] = d
            yield f"{name}, region", percentile, one_hot(d.assign(x_nd)[0].numpy(), k) > 0
            yield f"{name}, pursuit", percentile, pursued(d)(x_nd).numpy() > 0


def told(
    letters: Letters, letter: str, active_nf: Bool[np.ndarray, "n f"], known_n: Bool[np.ndarray, " n"]
) -> dict[str, Any]:
    """The features of a letter, chosen on training words, and what they are worth on the others."""
    is_n, train_n = letters.letter_n == letter, letters.train_n
    chosen: list[int] = []
    union_n, reached = np.zeros(len(is_n), bool), 0.0
    for _ in range(MOST):
        with_nf = active_nf[train_n] | union_n[train_n, None]
        both_f = (with_nf & is_n[train_n, None]).sum(axis=0)
        score_f = 2 * both_f / (with_nf.sum(axis=0) + is_n[train_n].sum())
        best = int(score_f.argmax())
        if chosen and score_f[best] < reached + GAIN:
            break
        chosen.append(best)
        union_n, reached = union_n | active_nf[:, best], float(score_f[best])
    test_n = ~train_n
    sure_n = test_n & is_n & known_n
    return {
        "letter": letter,
        "chosen": chosen,
        "main": f1(active_nf[test_n, chosen[0]], is_n[test_n]),
        "union": f1(union_n[test_n], is_n[test_n]),
        "absorbed": float((~union_n[sure_n]).mean()) if sure_n.any() else np.nan,
    }


def f1(said_n: Bool[np.ndarray, " n"], true_n: Bool[np.ndarray, " n"]) -> float:
    """Of what is said and what is true."""
    return float(2 * (said_n & true_n).sum() / max(1, said_n.sum() + true_n.sum()))


def pooled(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over letters with their intervals."""
    figures = {name: mean(np.array([row[name] for row in rows])) for name in ("main", "union", "absorbed")}
    return figures | {"split": mean(np.array([len(row["chosen"]) for row in rows], float))}


def mean(value_l: np.ndarray) -> list[float]:
    """With its 95 % interval, letters drawn anew."""
    return mean_spread(value_l, 1000)


def kin(chosen: dict[str, list[int]], fine: Dictionary, coarse: Dictionary) -> dict[str, Any]:
    """How often two fine regions share the coarse one they lie in: of one letter, and of two."""
    parent_k: Int64[np.ndarray, " k"] = coarse.assign_directions(fine.exemplars)[0].numpy()
    of = [(letter, int(parent_k[region])) for letter, regions in chosen.items() for region in dict.fromkeys(regions)]
    pairs = [(a[0] == b[0], a[1] == b[1]) for i, a in enumerate(of) for b in of[:i]]
    shares = {}
    for name, same in (("same letter", True), ("other letters", False)):
        kind = [shared for letter, shared in pairs if letter == same]
        shares[name] = {"pairs": len(kind), "share a parent": round(float(np.mean(kind)), 4) if kind else None}
    return shares


if __name__ == "__main__":
    main()
