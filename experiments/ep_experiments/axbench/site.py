"""Every method of concept detection at one site of a model, each a piece of work that is done once.

Shapes: t texts, n tokens, d = d_model, c concepts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.errors import DataError
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.files import disk_errors, to_json, write_new

from .. import nulls
from ..activations import Report, TextActivations
from ..concepts import Concept, ConceptSet
from . import baselines, readouts
from .readouts import Encode, Examples, Pooled, Rule, auroc, pool

KINDS = ("auroc", "negative", "hard")
Training = Literal["own", "all"]
"""Texts that a rule may look at: AxBench's, which are the concept's and the negative ones of its genre; or also those
of the set's other concepts, which are of other genres as well, as evaluation texts are."""
CHOICES: dict[str, Rule] = {
    "contrast": readouts.contrast,
    "best": readouts.best,
    "five best": readouts.several(5),
    "profile": readouts.profile,
    "ridge": readouts.ridge(),
}
SAE_CHOICES = {name: CHOICES[name] for name in ("best", "five best", "profile", "ridge")}
MEAN_CHOICES = {"ridge": readouts.ridge("mean", 0.003)}  # a penalty found for it likewise
TOGETHER = ("profile", "ridge")  # rules whose scores are also added up over percentiles
TRAININGS: tuple[Training, ...] = ("own", "all")


@dataclass(frozen=True)
class Finished:
    """Pieces of long work, each a JSON file in a folder, so that work that was cut off goes on; None keeps nothing."""

    folder: Path | None

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the piece of that name came to, made now if it has not been."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.json"
        if path.is_file():
            try:
                return json.loads(path.read_bytes())
            except ValueError as error:
                raise DataError(f"{path} is damaged ({error}); remove it") from error
        value = make()
        with disk_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_new(path, to_json(value))
        return value


@dataclass(frozen=True, eq=False)
class Basis:
    """A way to features, made when it is needed, and the rules that are tried on them."""

    name: str
    encode: Callable[[], Encode]
    rules: Mapping[str, Rule]
    share: Encode = readouts.shares
    percentile: float | None = None
    detail: str = ""
    """What else tells its piece of work from others of that name."""


def bases(
    x_nd: Tensor, parts: Mapping[float, Dictionary], saes: Mapping[str, SparseAutoencoder], seed: int
) -> Iterator[Basis]:
    """Every unsupervised way to features at a site: of the same ordinary activations, at equal numbers of columns."""
    finest = min(parts)
    center_d = parts[finest].center

    def around(center_d: Tensor, found: Callable[[], np.ndarray | Tensor]) -> Callable[[], Encode]:
        return lambda: baselines.cosines(center_d, found())

    def directions() -> Tensor:
        return baselines.centred(x_nd, center_d)

    for percentile, d in parts.items():
        yield Basis("exemplar", around(d.center, lambda d=d: d.exemplars), CHOICES, percentile=percentile)
    k = parts[finest].k
    equal = {
        "k-means": lambda: baselines.spherical_kmeans(directions(), k, seed),
        "random exemplars": lambda: nulls.random_exemplars(directions(), k, seed),
    }
    for name, found in equal.items():
        yield Basis(name, around(center_d, found), CHOICES, percentile=finest)
    for percentile, d in parts.items():
        means = around(d.center, lambda d=d: baselines.mean_members(d, x_nd))
        yield Basis("mean", means, CHOICES, percentile=percentile)
    yield Basis("PCA", around(center_d, lambda: baselines.principal(directions())), CHOICES)
    for name, sae in saes.items():
        detail = hashlib.sha256(sae.W_enc.contiguous().numpy().tobytes()).hexdigest()[:8]
        yield Basis(name, lambda sae=sae: sae.encode, SAE_CHOICES, torch.relu, detail=detail)
    yield Basis("mean activation", lambda: baselines.standardised(x_nd), MEAN_CHOICES, torch.relu)


class AtSite:
    """The labelled texts at one site, and every method on them. The pieces are lists of rows of the result."""

    def __init__(
        self, site: str, sets: Sequence[ConceptSet], acts: Sequence[TextActivations], finished: Finished, report: Report
    ):
        self.site, self.sets, self.acts, self.finished, self.report = site, sets, acts, finished, report

    def tried(self, basis: Basis) -> dict[str, Any]:
        """All rules of a basis: `rows`, and in `scores` those of the profile, for each concept."""
        percentile = "" if basis.percentile is None else f"p{basis.percentile:g}"
        piece = "-".join(filter(None, (self.site, basis.name, percentile, basis.detail)))
        return self.finished.get(piece, lambda: self._tried(basis))

    def _tried(self, basis: Basis) -> dict[str, Any]:
        self.report(f"{self.site}: {basis.name}", 0, 1)
        encode = basis.encode()
        pooled = [pool(acts, encode, basis.share) for acts in self.acts]
        k = pooled[0].highest.shape[1]
        scores: dict[tuple[str, Training], list[Scores]] = {(name, t): [] for name in basis.rules for t in TRAININGS}
        for given, texts in zip(self.sets, pooled, strict=True):
            for concept in given.concepts:
                for trained_on in TRAININGS:
                    rows, examples = learned_from(texts, concept, trained_on)
                    for name, rule in basis.rules.items():
                        score_t = rule(examples).score(texts)
                        spread = score_t[rows].std() or 1.0  # scores are in standard deviations of training texts
                        scores[name, trained_on].append(evaluated(score_t / spread, concept))
        return {
            "rows": [self._row(basis.name, name, basis.percentile, k, t, own) for (name, t), own in scores.items()],
            "scores": {
                f"{name} {t}": [[part.tolist() for part in one] for one in own]
                for (name, t), own in scores.items()
                if name in TOGETHER
            },
        }

    def together(self, tried: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Scores of a rule over several percentiles, added up."""
        k, rows = sum(result["rows"][0]["k"] for result in tried), []
        for rule in TOGETHER:
            for texts in TRAININGS:
                pooled = []
                for parts in zip(*(result["scores"][f"{rule} {texts}"] for result in tried), strict=True):
                    pooled.append(tuple(np.sum(kind, axis=0) for kind in zip(*parts, strict=True)))
                rows.append(self._row(f"exemplar, {len(tried)} percentiles", rule, None, k, texts, pooled))
        return rows

    def supervised(self, seed: int) -> list[dict[str, Any]]:
        """Directions found with the labels of the tokens' texts, one a concept."""
        return self.finished.get(f"{self.site}-supervised", lambda: {"rows": self._supervised(seed)})["rows"]

    def _supervised(self, seed: int) -> list[dict[str, Any]]:
        methods: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
            "DiffMean": baselines.difference_of_means,
            "logistic probe": baselines.logistic,
            "LAT": lambda x_nd, positive_n: baselines.lat(x_nd, positive_n, seed),
        }
        scores: dict[tuple[str, Training], list[Scores]] = {(name, t): [] for name in methods for t in TRAININGS}
        for given, acts in zip(self.sets, self.acts, strict=True):
            weights: dict[tuple[str, Training], list[np.ndarray]] = {key: [] for key in scores}
            for number, concept in enumerate(given.concepts):
                self.report(f"{self.site}: directions of {given.name}", number, len(given.concepts))
                for texts in TRAININGS:
                    x_nd, positive_n = baselines.tokens_of(acts, concept.positive, without(concept, texts))
                    for name, method in methods.items():
                        weights[name, texts].append(method(x_nd, positive_n))
            for key, own in weights.items():
                score_tc = pool(acts, baselines.linear(np.stack(own, axis=1))).highest
                scores[key] += [evaluated(score_tc[:, c], concept) for c, concept in enumerate(given.concepts)]
        return [self._row(name, "", None, 1, texts, own) for (name, texts), own in scores.items()]

    def _row(
        self,
        basis: str,
        rule: str,
        percentile: float | None,
        columns: int,
        trained_on: Training,
        judged_texts: Sequence[Scores],
    ) -> dict[str, Any]:
        judgements = [judged(*scores) for scores in judged_texts]
        values = {kind: [_rounded(judgement[kind]) for judgement in judgements] for kind in KINDS}
        name = {"site": self.site, "basis": basis, "percentile": percentile, "rule": rule, "training": trained_on}
        return name | {"k": columns, **values}


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def without(concept: Concept, trained_on: Training) -> np.ndarray:
    """The training texts without a concept."""
    return concept.negative if trained_on == "own" else np.concatenate([concept.negative, concept.others])


def learned_from(texts: Pooled, concept: Concept, trained_on: Training) -> tuple[np.ndarray, Examples]:
    """The training texts of a concept, those that have it first: their rows, and as examples for a rule."""
    rows = np.concatenate([concept.positive, without(concept, trained_on)])
    return rows, Examples(texts[rows], np.arange(len(rows)) < len(concept.positive))


Scores = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of the evaluation texts of a concept: positive, negative and hard negative ones."""


def evaluated(score_t: np.ndarray, concept: Concept) -> Scores:
    """The scores of a concept's evaluation texts."""
    return score_t[concept.eval_positive], score_t[concept.eval_negative], score_t[concept.eval_hard]


def judged(positive: np.ndarray, negative: np.ndarray, hard: np.ndarray) -> dict[str, float]:
    """AUROC of positive texts against all others (`auroc`), negative ones, and hard negative ones (NaN without any)."""
    others = {"auroc": np.concatenate([negative, hard]), "negative": negative, "hard": hard}
    return {
        kind: float(auroc(np.concatenate([positive, columns]), np.arange(len(positive) + len(columns)) < len(positive)))
        for kind, columns in others.items()
    }
