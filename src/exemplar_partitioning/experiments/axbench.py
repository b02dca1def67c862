"""Concept detection: which texts have a concept, told by regions, autoencoders and directions (AxBench's protocol).

Dictionaries and the other unsupervised directions come from ordinary text. For every concept a rule looks at training
texts, and its score is tried on evaluation texts that nothing has seen before: AUROC of positive ones against negative
and hard negative ones together, as in AxBench, and against each kind.

Shapes: t texts, n tokens, d = d_model, c concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..dictionary import Dictionary
from ..errors import EPError
from ..importing import SparseAutoencoder
from ..models.load import LoadedModel
from ..models.sites import Site, resolve_sites
from ..reading import check_model
from ..store import StoredDictionary
from ..text.documents import DocumentSource
from . import baselines, readouts
from .activations import Tell, TextActivations, text_activations
from .concepts import Concept, ConceptSet
from .readouts import Encode, Pooled, Rule, Weights, auroc, pool
from .resampling import interval, resamples

KINDS = ("auroc", "negative", "hard")
RESAMPLES = 4000
ORDINARY_CONTEXT = 128  # tokens of an ordinary text that are read, as in a build
_TEXTS_AT_ONCE = 500


@dataclass(frozen=True)
class Plan:
    """What is tried. tokens: of ordinary text.  context_size: tokens of a labelled text that are read."""

    sites: tuple[str, ...]
    percentiles: tuple[float, ...] = (1.0, 2.0, 4.0)
    tokens: int = 200_000
    context_size: int = 256
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Basis:
    """A way to features, and the rules that are tried on them."""

    name: str
    encode: Encode
    rules: Mapping[str, Rule]
    share: Encode = readouts.shares
    percentile: float | None = None


CHOICES: dict[str, Rule] = {
    "contrast": readouts.contrast,
    "best": readouts.best,
    "five best": readouts.several(5),
    "profile": readouts.profile,
}
SAE_CHOICES = {name: CHOICES[name] for name in ("best", "five best", "profile")}


def run(
    loaded: LoadedModel,
    sets: Sequence[ConceptSet],
    plan: Plan,
    *,
    cache: Path | None,
    text: DocumentSource,
    dictionaries: Sequence[StoredDictionary] = (),
    saes: Mapping[str, SparseAutoencoder] = {},
    tell: Tell = lambda *_: None,
) -> dict[str, Any]:
    """Every method on every concept at every site.

    Args:
        cache: folder for activations, so that a second run is quick; None keeps them in memory.
        text: ordinary text.
        dictionaries: to be tried in place of ones made here, at their sites.
        saes: by name; each is tried at the sites whose name or TransformerLens name it bears, or at all of its width
            if it names none.

    Returns plain values: `rows`, each with AUROCs in the order of `sets` and their concepts.

    Raises:
        EPError: nothing fits together: no sets, a dictionary of another model, an autoencoder of another width.
    """
    if not sets:
        raise EPError("expected at least one set of concepts")
    resolved = resolve_sites(list(plan.sites), loaded.architecture)
    sites = [str(site) for site in resolved]
    _check_fit(loaded, dictionaries, saes)

    def read(texts: Sequence[str], context_size: int) -> dict[str, TextActivations]:
        return text_activations(loaded, sites, texts, cache=cache, context_size=context_size, tell=tell)

    acts = [read(found.texts, plan.context_size) for found in sets]
    ordinary = read(_ordinary(loaded, text, plan.tokens), ORDINARY_CONTEXT)
    made: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number, site in enumerate(sites):
        given = [d for d in dictionaries if d.config.site.name == site]
        x_nd = torch.from_numpy(np.array(ordinary[site].x_nd[: plan.tokens]))
        parts = {d.config.calibration.percentile: d for d in given} or baselines.partitions(x_nd, plan.percentiles)
        made += [
            {"site": site, "percentile": p, "k": d.k, "threshold": round(d.threshold, 4), "given": bool(given)}
            for p, d in parts.items()
        ]
        at = _Site(site, sets, [a[site] for a in acts], tell)
        for basis in _bases(x_nd, parts, _of_site(saes, resolved[number]), plan.seed):
            rows += at.tried(basis)
        rows += at.together(f"{len(parts)} percentiles") + at.supervised(plan.seed)
    return {
        "plan": asdict(plan),
        "text": {"source": text.name, "activations": len(ordinary[sites[0]].x_nd[: plan.tokens])},
        "sets": [_described(found, a[sites[0]], plan.context_size) for found, a in zip(sets, acts, strict=True)],
        "dictionaries": made,
        "saes": {name: {"features": sae.W_dec.shape[0], "kind": sae.kind, "k": sae.k} for name, sae in saes.items()},
        "rows": rows,
    }


class _Site:
    """The labelled texts at one site, and every method on them."""

    def __init__(self, site: str, sets: Sequence[ConceptSet], acts: Sequence[TextActivations], tell: Tell):
        self.site, self.sets, self.acts, self.tell = site, sets, acts, tell
        self.exemplars: list[list[Pooled]] = []  # of every percentile, by set

    def tried(self, basis: Basis) -> list[dict[str, Any]]:
        """All rules of a basis."""
        self.tell(f"{self.site}: {basis.name}", 0, 1)
        pooled = [pool(acts, basis.encode, basis.share) for acts in self.acts]
        if basis.name == "exemplar":
            self.exemplars.append(pooled)
        return [self._tried(basis.name, name, rule, pooled, basis.percentile) for name, rule in basis.rules.items()]

    def together(self, detail: str) -> list[dict[str, Any]]:
        """Profiles over the regions of all percentiles, each score in its standard deviations, added up."""
        found = []
        for given, parts in zip(self.sets, zip(*self.exemplars, strict=True), strict=True):
            for concept in given.concepts:
                weights = [fitted(readouts.profile, texts, concept) for texts in parts]
                scores = [w.score(texts) for w, texts in zip(weights, parts, strict=True)]
                score_t = sum(score_t / score_t[training(concept)].std() for score_t in scores)
                found.append(judged(score_t, concept))
        columns = sum(one[0].highest.shape[1] for one in self.exemplars)
        return [self._row(f"exemplar, {detail}", "profile", None, columns, found)]

    def supervised(self, seed: int) -> list[dict[str, Any]]:
        """Directions found with the labels of the tokens' texts: one column a concept."""
        methods: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
            "DiffMean": baselines.difference_of_means,
            "logistic probe": baselines.logistic,
            "LAT": lambda x_nd, positive_n: baselines.lat(x_nd, positive_n, seed),
        }
        found: dict[str, list[list[np.ndarray]]] = {name: [] for name in methods}
        for given, acts in zip(self.sets, self.acts, strict=True):
            self.tell(f"{self.site}: directions of {given.name}", 0, 1)
            tokens = [baselines.tokens_of(acts, concept) for concept in given.concepts]
            for name, method in methods.items():
                found[name].append([method(x_nd, positive_n) for x_nd, positive_n in tokens])
        rows = []
        for name, directions in found.items():
            pooled = [
                pool(acts, baselines.linear(np.stack(own, axis=1))).highest
                for acts, own in zip(self.acts, directions, strict=True)
            ]
            judgements = [
                judged(texts[:, c], concept)
                for given, texts in zip(self.sets, pooled, strict=True)
                for c, concept in enumerate(given.concepts)
            ]
            rows.append(self._row(name, "", None, 1, judgements))
        raw = [pool(acts, lambda x_nd: x_nd) for acts in self.acts]
        means = [Pooled(texts.mean, texts.mean, texts.mean, texts.tokens) for texts in raw]
        return [*rows, self._tried("mean activation", "profile", readouts.profile, means)]

    def _tried(self, basis: str, name: str, rule: Rule, pooled: Sequence[Pooled], p: float | None = None) -> dict:
        found = [
            judged(fitted(rule, texts, concept).score(texts), concept)
            for given, texts in zip(self.sets, pooled, strict=True)
            for concept in given.concepts
        ]
        return self._row(basis, name, p, pooled[0].highest.shape[1], found)

    def _row(
        self, basis: str, rule: str, percentile: float | None, columns: int, found: Sequence[dict[str, float]]
    ) -> dict[str, Any]:
        values = {kind: [_rounded(one[kind]) for one in found] for kind in KINDS}
        return {"site": self.site, "basis": basis, "percentile": percentile, "rule": rule, "k": columns, **values}


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def summary(values: Sequence[float | None]) -> tuple[float, float, float]:
    """Mean over concepts, and the middle 95 % of it over resampled concepts; NaN if no concept has a value."""
    value_c = np.array([value for value in values if value is not None])
    if not len(value_c):
        return np.nan, np.nan, np.nan
    mean_b = resamples(len(value_c), RESAMPLES, seed=0) @ value_c / len(value_c)
    return float(value_c.mean()), *interval(mean_b)


def training(concept: Concept) -> np.ndarray:
    """The training texts of a concept, those that have it first."""
    return np.concatenate([concept.positive, concept.negative])


def fitted(rule: Rule, texts: Pooled, concept: Concept) -> Weights:
    """A rule, told the training texts of a concept."""
    rows = training(concept)
    return rule(texts[rows], np.arange(len(rows)) < len(concept.positive))


def judged(score_t: np.ndarray, concept: Concept) -> dict[str, float]:
    """AUROC of evaluation texts with the concept against all others, negative ones, and hard negative ones (or NaN)."""
    with_n = score_t[concept.eval_positive]
    without = {"negative": score_t[concept.eval_negative], "hard": score_t[concept.eval_hard]}
    without["auroc"] = np.concatenate(list(without.values()))
    return {
        kind: float(auroc(np.concatenate([with_n, score_n]), np.arange(len(with_n) + len(score_n)) < len(with_n)))
        for kind, score_n in without.items()
    }


def _bases(
    x_nd: Tensor, parts: Mapping[float, Dictionary], saes: Mapping[str, SparseAutoencoder], seed: int
) -> Iterator[Basis]:
    """Every unsupervised way to features at a site, one at a time: each may hold much."""
    first = next(iter(parts.values()))
    u_nd = baselines.centred(x_nd, first.center)
    for percentile, d in parts.items():
        yield Basis("exemplar", baselines.cosines(d.center, d.exemplars), CHOICES, percentile=percentile)
        yield Basis(
            "mean", baselines.cosines(d.center, baselines.mean_members(d, x_nd)), CHOICES, percentile=percentile
        )
    finest = min(parts)
    for name, found in (("k-means", baselines.spherical_kmeans), ("random exemplars", baselines.random_exemplars)):
        encode = baselines.cosines(first.center, found(u_nd, parts[finest].k, seed))
        yield Basis(name, encode, CHOICES, percentile=finest)
    yield Basis("PCA", baselines.cosines(first.center, baselines.principal(u_nd)), CHOICES)
    for name, sae in saes.items():
        yield Basis(name, sae.encode, SAE_CHOICES, torch.relu)


def _ordinary(loaded: LoadedModel, text: DocumentSource, tokens: int) -> list[str]:
    """The first texts that give so many tokens, some at a time, each read up to its ORDINARY_CONTEXT-th."""
    texts: list[str] = []
    documents = iter(text)
    while tokens > 0 and (some := [document.text for document in islice(documents, _TEXTS_AT_ONCE)]):
        ids = loaded.tokenizer([body[: 16 * ORDINARY_CONTEXT] for body in some], add_special_tokens=False)["input_ids"]
        tokens -= sum(min(len(own), ORDINARY_CONTEXT) for own in ids)
        texts += some
    if not texts:
        raise EPError("the ordinary text is empty; expected some for the dictionaries")
    return texts


def _check_fit(
    loaded: LoadedModel, dictionaries: Sequence[StoredDictionary], saes: Mapping[str, SparseAutoencoder]
) -> None:
    for dictionary in dictionaries:
        check_model(dictionary, loaded)
    for name, sae in saes.items():
        if sae.W_dec.shape[1] != loaded.info.d_model:
            raise EPError(
                f"the autoencoder {name} has width {sae.W_dec.shape[1]}, activations of {loaded.info.id} have "
                f"{loaded.info.d_model}; give one of this model"
            )


def _of_site(saes: Mapping[str, SparseAutoencoder], site: Site) -> dict[str, SparseAutoencoder]:
    """Autoencoders of a site: by its name in either spelling, or of no site that we know."""
    own = (str(site), site.transformer_lens, None)
    return {name: sae for name, sae in saes.items() if sae.site in own}


def _described(given: ConceptSet, acts: TextActivations, context_size: int) -> dict[str, Any]:
    """A set of concepts for the record: names and numbers of texts, no texts."""
    return {
        "name": given.name,
        "texts": len(given.texts),
        "tokens": len(acts.x_nd),
        "cut": int((np.diff(acts.start_t) >= context_size).sum()),
        "repeated": given.repeated,
        "concepts": [
            {
                "name": concept.name,
                "genre": concept.genre,
                "training": [len(concept.positive), len(concept.negative)],
                "evaluation": [len(concept.eval_positive), len(concept.eval_negative), len(concept.eval_hard)],
            }
            for concept in given.concepts
        ],
    }
