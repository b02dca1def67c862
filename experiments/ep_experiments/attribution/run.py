"""Predicted and measured effects, and curves of faithfulness and completeness, for every arm on every prompt.

Shapes: n nodes, s tokens of a prompt, d = d_model, c points of a curve, q prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from exemplar_partitioning.act.attribute import Nodes, PromptAtSite, nodes_of_regions
from exemplar_partitioning.core.decomposition import Decomposition
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.evaluating.codes import Pursuit, of_random_activations
from exemplar_partitioning.evaluating.held_out import held_out
from exemplar_partitioning.folder.dictionary import StoredDictionary
from exemplar_partitioning.models.generate import encode
from exemplar_partitioning.models.loaded import LoadedModel

from ..paired import mean_interval, resamples
from .prompts import Question, questions

K, TOP = 32, 20
SIZES = [2**i for i in range(9)]
_CANDIDATES, _KEPT, _RESAMPLES = 30, 12, 1000

Report = Callable[[str, int, int], None]


def run(
    dictionary: StoredDictionary, loaded: LoadedModel, seed: int = 0, report: Report = lambda *_: None
) -> dict[str, Any]:
    """All that `PREREGISTRATION.md` asks for. Raises EPError if the model gets no prompt right."""
    report("reading other documents", 0, 1)
    pool_nd = held_out(dictionary, loaded, None, max_tokens=256).pool_nd
    (null,) = of_random_activations(dictionary, pool_nd, [K], "omp", seed)
    assert isinstance(null, Pursuit)
    bases: dict[str, Callable[[Tensor], Decomposition]] = {
        "exemplars": lambda x_nd: dictionary.decompose(x_nd, K),
        "means": lambda x_nd: dictionary.decompose(x_nd, K, basis="mean"),
        "random activations": lambda x_nd: null.dictionary.decompose(x_nd, K),
    }
    rows, tried = [], questions(_CANDIDATES, seed)
    for i, question in enumerate(tried):
        report("attributing", i, len(tried))
        if sum(row["family"] == question.family for row in rows) < _KEPT:
            row = _prompt(question, dictionary, loaded, bases, np.random.default_rng([seed, i]))
            rows += [row] if row is not None else []
    if not rows:
        raise EPError(f"{loaded.info.id} gets none of {len(tried)} prompts right; nothing can be attributed")
    return {"sizes": SIZES, "k": K, "prompts": rows, "summary": _summary(rows, seed)}


def _prompt(
    question: Question,
    dictionary: StoredDictionary,
    loaded: LoadedModel,
    bases: dict[str, Callable[[Tensor], Decomposition]],
    rng: np.random.Generator,
) -> dict[str, Any] | None:
    """One prompt, if the model gets it right."""
    ids = [loaded.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (question.right, question.wrong)]
    if any(len(each) != 1 for each in ids):
        return None
    site = dictionary.config.site.name
    prompt = PromptAtSite(loaded, site, encode(loaded, question.prompt, chat=False), (ids[0][0], ids[1][0]))
    curves = Curves(prompt, dictionary.center)
    if prompt.difference < 1 or prompt.difference - curves.none < 1:
        return None
    text = prompt.text_s.nonzero()[:, 0]
    arms = {name: nodes_of_regions(prompt, decompose(prompt.x_sd[text])) for name, decompose in bases.items()}
    of_regions = arms["exemplars"]
    regions_n = (of_regions.of_n >= 0).nonzero()[:, 0]
    top_n = regions_n[of_regions.effect_n[regions_n].abs().argsort(descending=True, stable=True)[:TOP]]
    others = _random_regions(prompt, of_regions, top_n, dictionary, rng)
    every = torch.arange(len(top_n))
    shuffled_n = torch.from_numpy(rng.permutation(len(of_regions.of_n)))
    points = {
        name: curves.of(nodes, nodes.effect_n.abs().argsort(descending=True, stable=True))
        for name, nodes in arms.items()
    }
    neurons = _neurons(prompt, dictionary.center)
    points["neurons"] = curves.of(neurons, neurons.effect_n.abs().argsort(descending=True, stable=True))
    points["random order"] = curves.of(of_regions, shuffled_n)
    errors = float(of_regions.effect_n[of_regions.of_n < 0].sum())
    return {
        "family": question.family,
        "prompt": question.prompt,
        "target": [question.right, question.wrong],
        "difference": round(prompt.difference, 4),
        "none": round(curves.none, 4),
        "nodes": {name: len(nodes.of_n) for name, nodes in (arms | {"neurons": neurons}).items()},
        "effects": {"regions": _effects(of_regions, top_n, prompt), "random regions": _effects(others, every, prompt)},
        "predicted": {"regions": round(float(of_regions.effect_n.sum()) - errors, 4), "errors": round(errors, 4)},
        "curves": points,
    }


class Curves:
    """What is left of the logit difference when nodes are kept, or left out. none: with the centre for all text."""

    def __init__(self, prompt: PromptAtSite, center_d: Float32[Tensor, " d"]):
        self.prompt = prompt
        self.empty_sd = prompt.x_sd.clone()
        self.empty_sd[prompt.text_s] = center_d
        self.none = float(prompt.differences(self.empty_sd[None])[0])

    def of(self, nodes: Nodes, order_n: Int64[Tensor, " n"]) -> dict[str, list[float]]:
        """Faithfulness with the first nodes alone, completeness as faithfulness without them."""
        kept = []
        for size in SIZES:
            for part_n in (order_n[:size], order_n[size:]):
                kept.append(self.empty_sd.index_add(0, nodes.token_n[part_n], nodes.vectors_nd[part_n].float()))
        share_b = (self.prompt.differences(torch.stack(kept)) - self.none) / (self.prompt.difference - self.none)
        with_c, without_c = share_b.view(-1, 2).T
        return {"faithfulness": _rounded(with_c), "completeness": _rounded(without_c)}


def _neurons(prompt: PromptAtSite, center_d: Float32[Tensor, " d"]) -> Nodes:
    """Every coordinate of every text token, around the centre."""
    text, d = prompt.text_s.nonzero()[:, 0], prompt.x_sd.shape[1]
    vectors_ndd = torch.diag_embed(prompt.x_sd[text] - center_d)
    return Nodes.of(prompt, text.repeat_interleave(d), torch.arange(d).repeat(len(text)), vectors_ndd.flatten(0, 1))


def _random_regions(
    prompt: PromptAtSite, nodes: Nodes, top_n: Int64[Tensor, " m"], d: StoredDictionary, rng: np.random.Generator
) -> Nodes:
    """Random regions with the weights of others, at their tokens."""
    region_n = torch.from_numpy(rng.integers(d.k, size=len(top_n)))
    weight_n = torch.linalg.vector_norm(nodes.vectors_nd[top_n], dim=1)
    return Nodes.of(prompt, nodes.token_n[top_n], region_n, weight_n[:, None] * d.exemplars[region_n])


def _effects(nodes: Nodes, some_n: Int64[Tensor, " m"], prompt: PromptAtSite) -> dict[str, list[float]]:
    return {"predicted": _rounded(nodes.effect_n[some_n]), "measured": _rounded(nodes.without(prompt, some_n))}


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


def _summary(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    families = [row["family"] for row in rows]
    groups = {"all": np.ones(len(rows), bool)} | {
        family: np.array([each == family for each in families]) for family in dict.fromkeys(families)
    }
    return {
        name: _of_some([row for row, inside in zip(rows, of, strict=True) if inside], seed)
        for name, of in groups.items()
    }


def _of_some(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Means over prompts with intervals, and paired differences from exemplars."""
    weight_bq = resamples(len(rows), _RESAMPLES, seed)

    def mean(value_q: np.ndarray) -> list[float]:
        return [round(value, 4) for value in mean_interval(value_q, weight_bq)]

    arms: dict[str, Any] = {}
    distance = {}
    for name in rows[0]["curves"]:
        f_qc, g_qc = (
            np.array([row["curves"][name][kind] for row in rows]) for kind in ("faithfulness", "completeness")
        )
        distance[name] = np.abs(1 - f_qc).mean(axis=1)
        arms[name] = {
            "distance": mean(distance[name]),
            "completeness": mean(g_qc.mean(axis=1)),
            "faithfulness_by_size": [round(float(f), 4) for f in f_qc.mean(axis=0)],
            "completeness_by_size": [round(float(g), 4) for g in g_qc.mean(axis=0)],
        }
    against = {
        f"exemplars - {name}": mean(distance["exemplars"] - of) for name, of in distance.items() if name != "exemplars"
    }
    effects = {}
    for kind in rows[0]["effects"]:
        pairs = [np.array([row["effects"][kind][of] for of in ("predicted", "measured")]) for row in rows]
        correlation_q = np.array([np.corrcoef(pair)[0, 1] for pair in pairs])
        effects[kind] = {
            "correlation": mean(correlation_q),
            "mean_size_measured": mean(np.array([np.abs(pair[1]).mean() for pair in pairs])),
        }
    return {"prompts": len(rows), "arms": arms, "distance": against, "effects": effects}
