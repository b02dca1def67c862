"""Few labels on AxBench's concepts, and one unit carried to another dictionary.

    python -m experiments.studies.few_concepts DATA ACTIVATIONS AUTOENCODERS --cache DIR --out FILE

Question, arms and rule: `ep_experiments/axbench/PREREGISTRATION.md`. The arguments are those of `units`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from ep_experiments import nulls
from ep_experiments.activations import TextActivations, text_activations
from ep_experiments.axbench import readouts
from ep_experiments.axbench.baselines import centred, cosines, partitions, spherical_kmeans
from ep_experiments.axbench.columns import of_table
from ep_experiments.axbench.readouts import Encode, Examples, Pooled, auroc, pool
from ep_experiments.concepts import read_concepts
from ep_experiments.record import write_study
from exemplar_partitioning.models.load import load_model

from .concepts import CONTEXT, SITE
from .few import COUNTS, DRAWS, WIN, Scores, Study, judged
from .few_data import INTENTS, Question, intents
from .units import arguments, trained

PERCENTILE = 1.0
CARRIED = 2.0  # the percentile of what is carried
SAES = ("topk", "batchtopk")  # carried from the first to the second
SETS = ("concept10_2b_l10", "conceptFD_2b_l10")
Kind = tuple[str, Encode, Encode, np.ndarray]
"""Units: columns of the set they are chosen in, of the one they are carried to, and where each goes."""


def main() -> None:
    given = arguments(__doc__)
    begun = time.monotonic()
    loaded = load_model("smollm2-135m-instruct", dtype="bfloat16", device="cpu")
    study = Study(loaded, given.data, given.cache, PERCENTILE)
    kinds = list(halves(load_file(given.activations)["x"].float()))
    few: list[dict[str, Scores]] = []
    carried: list[Scores] = []
    for name in SETS:
        texts, questions = asked(given.data / "axbench" / name)
        acts = text_activations(loaded, [SITE], texts, cache=given.cache, context_size=CONTEXT)[SITE]
        few.append(study._few(texts, questions, CONTEXT))
        carried.append(by_carried(acts, texts, questions, kinds))
    texts, questions = intents(given.data / "labelled" / "clinc150_oos_plus.jsonl.gz", first=INTENTS)
    acts = text_activations(loaded, [SITE], texts, cache=given.cache, context_size=64)[SITE]
    scores = {setting: joined([of[setting] for of in few]) for setting in few[0]}
    scores |= {
        "carried, concepts": joined(carried),
        "carried, intents": by_carried(acts, texts, questions, [*kinds, autoencoders(given.autoencoders)]),
    }
    settings = [settled(name, of) for name, of in scores.items()]
    about = {"site": SITE, "percentile": PERCENTILE, "k": study.ordinary.regions.k, "carried_k": len(kinds[0][3])}
    write_study(given.out, "few", loaded.info, begun, about | {"rule": WIN, "settings": settings}, study="few_concepts")


def asked(stem: Path) -> tuple[list[str], list[Question]]:
    """A set's concepts against the negative texts of all genres and its other concepts; tested with hard negatives."""
    given = read_concepts(stem)
    every = np.unique(np.concatenate([c.negative for c in given.concepts]))
    return given.texts, [
        Question(c.name, c.positive, np.concatenate([every, c.others]), c.eval_positive,
                 np.concatenate([c.eval_negative, c.eval_hard])) for c in given.concepts
    ]  # fmt: skip


def joined(parts: list[Scores]) -> Scores:
    """Scores of several sets of concepts, one after another."""
    return {arm: np.concatenate([part[arm] for part in parts]) for arm in parts[0]}


def settled(setting: str, scores: Scores) -> dict[str, Any]:
    """The verdict; autoencoders that units are carried between are shown and do not count."""
    if (beside := scores.get("autoencoders")) is None:
        return judged(setting, scores)
    found = judged(setting, {arm: of for arm, of in scores.items() if arm != "autoencoders"})
    pair = judged(setting, {"regions": scores["regions"], "autoencoders": beside})
    return found | {"beside": {"arm": "autoencoders", **pair["table"][1], **pair["pairs"][0]}}


def halves(x_nd: Tensor) -> Iterator[Kind]:
    """Directions of every kind, as many from one half of the activations as from the other."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x_nd)))
    parts = [x_nd[rows] for rows in order.split(-(-len(order) // 2))]
    d = [partitions(part, [CARRIED])[CARRIED] for part in parts]
    u = [centred(part, of.center) for part, of in zip(parts, d, strict=True)]
    kinds = {
        "regions": [of.exemplars for of in d],
        "random exemplars": [nulls.random_exemplars(u[i], d[i].k, i) for i in (0, 1)],
        "k-means": [torch.from_numpy(spherical_kmeans(u[i], d[i].k, i)) for i in (0, 1)],
        "Gaussian directions": [nulls.gaussian_directions(x_nd.shape[1], d[i].k, i) for i in (0, 1)],
    }
    for name, (e_kd, f_ld) in kinds.items():
        yield name, cosines(d[0].center, e_kd), cosines(d[1].center, f_ld), nearest(e_kd, f_ld)


def nearest(e_kd: Float[Tensor, "k d"], f_ld: Float[Tensor, "l d"]) -> np.ndarray:
    """Of each direction, the one of another set with the highest cosine."""
    return (normalize(e_kd, dim=1) @ normalize(f_ld, dim=1).T).argmax(dim=1).numpy()


def autoencoders(folder: Path) -> Kind:
    """One autoencoder's features, carried to another's."""
    encode = dict(trained(folder))
    first, second = (load_file(folder / f"{name}-1.safetensors")["W_dec"].float() for name in SAES)
    return "autoencoders", encode[SAES[0]], encode[SAES[1]], nearest(first, second)


def by_carried(acts: TextActivations, texts: list[str], questions: list[Question], kinds: list[Kind]) -> Scores:
    """AUROC of the unit that was carried, the mean of the draws; of words, of the word itself."""
    fitted_on = sorted({int(i) for q in questions for i in np.concatenate([q.positive, q.negative])})
    words = of_table(nulls.words(texts, fitted_on))
    found = {"words": np.array([one_carried(words, words, None, q) for q in questions])}
    for name, encode, encode_there, match_k in kinds:
        here, there = pool(acts, encode), pool(acts, encode_there)
        found[name] = np.array([one_carried(here, there, match_k, q) for q in questions])
    return found


def one_carried(here: Pooled, there: Pooled, match_k: np.ndarray | None, q: Question) -> float:
    """Mean over draws of labelled texts."""
    rng, count = np.random.default_rng(0), max(COUNTS)
    test = np.concatenate([q.test_positive, q.test_negative])
    values = []
    for _ in range(DRAWS):
        rows = np.concatenate([rng.choice(kind, count // 2, replace=False) for kind in q.kinds])
        unit = int(readouts.best(Examples(here[rows], np.arange(count) < count // 2)).columns[0])
        score_n = there.highest[test, unit if match_k is None else match_k[unit]]
        values.append(float(auroc(score_n, np.arange(len(test)) < len(q.test_positive))))
    return float(np.mean(values))


if __name__ == "__main__":
    main()
