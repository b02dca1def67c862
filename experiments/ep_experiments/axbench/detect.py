"""Concept detection: which texts have a concept, told by regions, autoencoders and directions (AxBench's protocol).

Dictionaries and the other unsupervised directions come from ordinary text. For every concept a rule looks at training
texts, and its score is tried on evaluation texts that nothing has seen before: AUROC of positive ones against negative
and hard negative ones together, as in AxBench, and against each kind.

Shapes: t texts, n tokens, d = d_model, c concepts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.folder.dictionary import StoredDictionary
from exemplar_partitioning.folder.model import check_model
from exemplar_partitioning.models.loaded import LoadedModel
from exemplar_partitioning.models.sites import Site, resolve_sites
from exemplar_partitioning.text.documents import DocumentSource

from ..activations import Report, TextActivations, text_activations
from ..concepts import ConceptSet
from ..paired import mean_interval, resamples
from . import baselines, readouts
from .site import AtSite, Finished, bases

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


def run(
    loaded: LoadedModel,
    sets: Sequence[ConceptSet],
    plan: Plan,
    *,
    cache: Path | None,
    text: DocumentSource,
    dictionaries: Sequence[StoredDictionary] = (),
    saes: Mapping[str, SparseAutoencoder] = {},
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """Every method on every concept at every site.

    Args:
        cache: folder for activations and for what is finished, so that a run that was cut off goes on; None keeps
            activations in memory.
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
        return text_activations(loaded, sites, texts, cache=cache, context_size=context_size, report=report)

    acts = [read(found.texts, plan.context_size) for found in sets]
    ordinary = read(ordinary_texts(loaded, text, plan.tokens), ORDINARY_CONTEXT)
    finished = Finished(cache / f"axbench-{_key(loaded, sets, plan, text, dictionaries)}" if cache else None)
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
        at = AtSite(site, sets, [a[site] for a in acts], finished, report)
        tried = [at.tried(basis) for basis in bases(x_nd, parts, _of_site(saes, resolved[number]), plan.seed)]
        rows += [row for result in tried for row in result["rows"]]
        rows += at.together([result for result in tried if result["rows"][0]["basis"] == "exemplar"])
        rows += at.supervised(plan.seed)
    return {
        "plan": asdict(plan),
        "text": {"source": text.name, "activations": len(ordinary[sites[0]].x_nd[: plan.tokens])},
        "sets": [_described(found, a[sites[0]], plan.context_size) for found, a in zip(sets, acts, strict=True)],
        "dictionaries": made,
        "saes": {name: {"features": sae.W_dec.shape[0], "kind": sae.kind, "k": sae.k} for name, sae in saes.items()},
        "rows": rows,
    }


def summary(values: Sequence[float | None]) -> tuple[float, float, float]:
    """Mean over concepts, and the middle 95 % of it over resampled concepts; NaN if no concept has a value."""
    value_c = np.array([value for value in values if value is not None], np.float64)
    return (
        mean_interval(value_c, resamples(len(value_c), RESAMPLES, seed=0)) if len(value_c) else (np.nan, np.nan, np.nan)
    )


def ordinary_texts(loaded: LoadedModel, text: DocumentSource, tokens: int) -> list[str]:
    """The first texts that give so many tokens, some at a time, each read up to its ORDINARY_CONTEXT-th."""
    texts: list[str] = []
    documents = iter(text)
    while tokens > 0 and (some := [document.text for document in islice(documents, _TEXTS_AT_ONCE)]):
        ids = loaded.tokenizer([body[: 16 * ORDINARY_CONTEXT] for body in some], add_special_tokens=False)["input_ids"]
        tokens -= sum(min(len(text_ids), ORDINARY_CONTEXT) for text_ids in ids)
        texts += some
    if not texts:
        raise EPError("the ordinary text is empty; expected some for the dictionaries")
    return texts


def _key(
    loaded: LoadedModel,
    sets: Sequence[ConceptSet],
    plan: Plan,
    text: DocumentSource,
    dictionaries: Sequence[StoredDictionary],
) -> str:
    """What the pieces of a run follow from, but for sites and autoencoders, which the pieces name."""
    digest = hashlib.sha256()
    info = loaded.info
    known = {name: value for name, value in asdict(plan).items() if name != "sites"}
    decided = (readouts.TEMPERATURE, readouts.KEPT, readouts.PENALTY, baselines.PENALTY)
    for part in (info.fingerprint, info.dtype, text.name, known, decided, [d.content_id for d in dictionaries]):
        digest.update(repr(part).encode())
    for given in sets:
        digest.update(repr((given.name, given.texts, [c.name for c in given.concepts])).encode())
    return digest.hexdigest()[:16]


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
    spellings = (str(site), site.transformer_lens, None)
    return {name: sae for name, sae in saes.items() if sae.site in spellings}


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
