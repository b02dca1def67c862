"""Does a dictionary report text it was not made for? Its scores against detectors that keep far more.

For each suite (`tasks.py`): dictionaries are built from ordinary text, the rivals (`methods.py`) are made from the
activations of the same text, and all score the same activations of novel and of held-out ordinary documents. A
document's score is the mean over its tokens, for every method. Then a detector of the finest dictionary is fitted on
ordinary documents that nothing has seen, and its alarms are counted (`exemplar_partitioning.novelty`).

Protocol 2.8 with what it lacks: a BOS, held-out text of the same kind, AUROC and FPR95 with intervals, rivals.

Shapes: n activations, t documents, d = d_model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from exemplar_partitioning.act.localise import wilson
from exemplar_partitioning.api import annotate, build
from exemplar_partitioning.folder.annotation import FOLDER as ANNOTATION
from exemplar_partitioning.folder.dictionary import StoredDictionary, load
from exemplar_partitioning.folder.listing import find
from exemplar_partitioning.models.load import bos_id
from exemplar_partitioning.models.loaded import LoadedModel
from exemplar_partitioning.novelty.detector import Detector, DocumentNovelty
from exemplar_partitioning.novelty.scores import SCORES, token_scores

from ..activations import Report, TextActivations, text_activations
from ..nulls import random_rows
from ..paired import resampled_by_kind, spread
from .methods import Method, mahalanobis, nearest, norm, pca_residual
from .metrics import separation
from .tasks import Sizes, Suite, Task

PERPLEXITY = "perplexity"
NEIGHBOURS = {"k-NN, k = 1": 1, "k-NN, k = 10": 10}

CONTEXT = 128  # tokens of a document that are read, if the model's context allows

_TIMED = 2048  # activations
_BATCH = 8  # documents in a forward pass to the logits


@dataclass(frozen=True)
class Plan:
    """site, percentiles: of the dictionaries.  samples: of the documents, for the intervals.

    false_alarms: asked of the detector.  calibration: activations of a batch of it, if not the build's default.
    """

    site: str | None = None
    percentiles: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    samples: int = 200
    false_alarms: tuple[float, ...] = (0.01, 0.05)
    seed: int = 0
    calibration: int | None = None
    sizes: Sizes = field(default_factory=Sizes)


def run(loaded: LoadedModel, suites: Sequence[Suite], plan: Plan, out: Path, report: Report) -> dict[str, Any]:
    """The whole experiment; its dictionaries and cached activations stay in `out`. Returns plain values."""
    return {"suites": [_Suite(loaded, suite, plan, out / suite.name, report).run() for suite in suites]}


class _Suite:
    def __init__(self, loaded: LoadedModel, suite: Suite, plan: Plan, out: Path, report: Report):
        self.loaded, self.suite, self.plan, self.out, self.report = loaded, suite, plan, out, report
        self.context = min(CONTEXT, (loaded.architecture.max_length or CONTEXT + 1) - 1)  # and a BOS

    def run(self) -> dict[str, Any]:
        dictionaries = self._dictionaries()
        self.site = dictionaries[0].config.site.name
        stored = self._activations("build", self.suite.build)
        methods = [*_ours(dictionaries), *_rivals(stored, dictionaries, self.plan.seed)]
        held_out = self._scored("held out", self.suite.held_out[: self._test], methods)
        tasks = []
        for task in self.suite.tasks:
            ordinary = held_out if task.ordinary is None else self._scored("ordinary", task.ordinary, methods)
            tasks.append(self._compared(task, self._scored(task.name, task.novel, methods), ordinary))
        return {
            "name": self.suite.name,
            "about": self.suite.about,
            "documents": {
                "build": len(self.suite.build),
                "fit": len(self.suite.fit),
                "held_out": len(self.suite.held_out),
            },
            "stored": {"activations": len(stored.x_nd), "bytes": 4 * stored.x_nd.size},
            "dictionaries": [_described(d) for d in dictionaries],
            "methods": self._costs(methods, stored),
            "tasks": tasks,
            "detector": self._alarms(dictionaries[0]),
        }

    @property
    def _test(self) -> int:
        return len(self.suite.held_out) // 3

    def _dictionaries(self) -> list[StoredDictionary]:
        folder = self.out / "dictionaries"
        if not find(folder):
            self.report(f"{self.suite.name}: dictionaries", 0, 1)
            sample: dict[str, Any] = {}
            if self.plan.calibration is not None:
                sample = {"calibration_batch": self.plan.calibration, "calibration_sample": self.plan.calibration}
            build(
                self.loaded,
                iter(self.suite.build),
                out=folder,
                sites=self.plan.site,
                percentiles=self.plan.percentiles,
                context_size=self.context,
                seed=self.plan.seed,
                resume=True,
                **sample,
            )
        if not all((written / ANNOTATION).is_dir() for written in find(folder)):
            self.report(f"{self.suite.name}: evidence", 0, 1)
            annotate(folder, iter(self.suite.build), model=self.loaded)
        return [load(written) for written in find(folder)]

    def _activations(self, name: str, texts: list[str]) -> TextActivations:
        def report(what: str, done: int, total: int) -> None:
            self.report(f"{self.suite.name}: {what}, {name}", done, total)

        return text_activations(
            self.loaded, [self.site], texts, cache=self.out / "activations", context_size=self.context, report=report
        )[self.site]

    def _scored(self, what: str, texts: list[str], methods: Sequence[Method]) -> dict[str, list[np.ndarray]]:
        """Scores of the tokens of each document that has some, by method."""
        activations = self._activations(what, texts)
        ends = np.unique(activations.start_t)[1:-1]  # of documents with tokens
        x_nd = np.array(activations.x_nd)
        scored: dict[str, list[np.ndarray]] = {}
        self.report(f"{self.suite.name}: scores, {what}", 0, 1)
        for method in methods:
            for name, score_n in zip(method.names, method.scores(x_nd), strict=True):
                scored[name] = np.split(score_n, ends)
        self.report(f"{self.suite.name}: {PERPLEXITY}, {what}", 0, 1)
        begun = time.perf_counter()
        scored[PERPLEXITY] = losses(self.loaded, np.split(activations.token_n, ends))
        self.seconds_a_token = (time.perf_counter() - begun) / len(x_nd)
        return scored

    def _compared(self, task: Task, novel: dict[str, list], ordinary: dict[str, list]) -> dict[str, Any]:
        self.report(f"{self.suite.name}: intervals, {task.name}", 0, 1)
        first = next(iter(novel))
        length_t = np.array([len(scores) for scores in novel[first] + ordinary[first]])
        novel_t = np.arange(len(length_t)) < len(novel[first])
        weight_bt = resampled_by_kind(novel_t, self.plan.samples, self.plan.seed)
        weight_bn, novel_n = np.repeat(weight_bt, length_t, axis=1), np.repeat(novel_t, length_t)
        compared: dict[str, dict[str, Any]] = {}
        sampled: dict[tuple[str, str], np.ndarray] = {}
        for name in novel:
            documents = novel[name] + ordinary[name]
            means = np.array([scores.mean() for scores in documents])
            token, sampled[name, "token"] = separation(np.concatenate(documents), novel_n, weight_bn)
            document, sampled[name, "document"] = separation(means, novel_t, weight_bt)
            compared[name] = {"token": token, "document": document}
        for level in ("token", "document"):
            best = max(NEIGHBOURS, key=lambda name: sampled[name, level][0])
            for name in compared:
                compared[name][level]["minus_knn"] = spread(sampled[name, level] - sampled[best, level])
        return {
            "name": task.name,
            "documents": {"novel": int(novel_t.sum()), "ordinary": int((~novel_t).sum())},
            "tokens": {"novel": int(length_t[novel_t].sum()), "ordinary": int(length_t[~novel_t].sum())},
            "methods": compared,
        }

    def _costs(self, methods: Sequence[Method], stored: TextActivations) -> dict[str, dict[str, Any]]:
        """Memory and time of each method beside the forward pass; of the perplexity, all of its own pass."""
        x_nd = np.array(stored.x_nd[:_TIMED])
        costs: dict[str, dict[str, Any]] = {}
        for method in methods:
            method.scores(x_nd[:64])
            begun = time.perf_counter()
            method.scores(x_nd)
            micro = round(1e6 * (time.perf_counter() - begun) / len(x_nd), 2)
            cost = {"bytes": method.bytes, "microseconds_a_token": micro, "ours": method.ours}
            costs |= dict.fromkeys(method.names, cost)
        micro = round(1e6 * self.seconds_a_token, 2)
        return costs | {PERPLEXITY: {"bytes": 0, "microseconds_a_token": micro, "ours": False}}

    def _alarms(self, dictionary: StoredDictionary) -> list[dict[str, Any]]:
        """What detectors flag: of new ordinary documents, which they may at their rate; and of novel ones."""
        self.report(f"{self.suite.name}: detector", 0, 1)
        seed, rates = self.plan.seed, self.plan.false_alarms
        detector = Detector.fit(dictionary, iter(self.suite.fit), self.loaded, false_alarms=min(rates), seed=seed)
        rows = [("held out", self.suite.held_out), *((task.name, task.novel) for task in self.suite.tasks)]
        judged = {name: list(detector.score(iter(texts), self.loaded)) for name, texts in rows}
        return [
            {
                "rate": rate,
                "fitted_on": len(self.suite.fit),
                "flagged": {name: _flagged(found, rate) for name, found in judged.items()},
            }
            for rate in rates
        ]


def _flagged(judged: Sequence[DocumentNovelty], rate: float) -> dict[str, Any]:
    """Documents whose p-value is at most a rate, and the share of tokens; every document counts alike."""
    flagged = sum(row.p <= rate for row in judged)
    low, high = wilson(np.array([flagged]), np.array([len(judged)]))
    return {
        "documents": len(judged),
        "flagged": flagged,
        "low": round(float(low[0]), 4),
        "high": round(float(high[0]), 4),
        "flagged_tokens": round(float(np.mean([(row.p_n <= rate).mean() for row in judged])), 4),
    }


def losses(loaded: LoadedModel, documents: Sequence[np.ndarray]) -> list[Float64[np.ndarray, " n"]]:
    """Negative log likelihood of each token of documents, given those before it and a BOS; the documents' ids [n]."""
    losses_of: list[np.ndarray] = [np.empty(0)] * len(documents)
    order = np.argsort([len(ids) for ids in documents], kind="stable")
    for first in range(0, len(order), _BATCH):
        batch = order[first : first + _BATCH]
        ids_bs = np.full((len(batch), 1 + max(len(documents[i]) for i in batch)), bos_id(loaded), np.int64)
        for row, i in enumerate(batch):
            ids_bs[row, 1 : 1 + len(documents[i])] = documents[i]
        with torch.inference_mode():
            ids = torch.from_numpy(ids_bs).to(loaded.model.device)
            logits_bsv = loaded.model(ids, use_cache=False).logits[:, :-1]
            for row, i in enumerate(batch):
                n = len(documents[i])
                loss_n = torch.nn.functional.cross_entropy(
                    logits_bsv[row, :n].float(), ids[row, 1 : 1 + n], reduction="none"
                )
                losses_of[i] = loss_n.double().cpu().numpy()
    return losses_of


def _ours(dictionaries: Sequence[StoredDictionary]) -> list[Method]:
    def method(d: StoredDictionary) -> Method:
        def scores(x_nd: np.ndarray) -> np.ndarray:
            novelty = token_scores(d, x_nd)
            return np.stack([novelty.by(score) for score in SCORES])

        names = tuple(f"{score}, p = {d.config.calibration.percentile:g}" for score in SCORES)
        return Method(names, scores, 4 * (d.k + 1) * d.d_model, ours=True)  # exemplars, or means for the surprise

    return [method(d) for d in dictionaries]


def _rivals(stored: TextActivations, dictionaries: Sequence[StoredDictionary], seed: int) -> list[Method]:
    x_md, center_d = np.asarray(stored.x_nd), dictionaries[0].center
    few = {d.config.calibration.percentile: x_md[np.sort(random_rows(len(x_md), d.k, seed))] for d in dictionaries}
    sample = np.array(x_md[:: max(1, len(x_md) // 50_000)])
    return [
        nearest(NEIGHBOURS, x_md, center_d),
        *(nearest({f"as many random activations as p = {p:g}": 1}, x_kd, center_d) for p, x_kd in few.items()),
        mahalanobis(sample),
        pca_residual(sample),
        norm(sample),
    ]


def _described(dictionary: StoredDictionary) -> dict[str, Any]:
    c = dictionary.config
    return {
        "site": c.site.name,
        "percentile": c.calibration.percentile,
        "threshold": round(c.calibration.threshold, 4),
        "k": dictionary.k,
        "activations": c.build.n_activations,
        "content_id": dictionary.content_id,
    }
