"""What answers show: rates with intervals, paired tests, fluency, perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from exemplar_partitioning.act.localise import holm, wilson
from exemplar_partitioning.models.generate import Generation, generate
from exemplar_partitioning.models.loaded import LoadedModel

from ..paired import mcnemar

Judge = Callable[[str], bool]
AGAINST = ("exemplar", "mean member", "difference of means")
_BATCH = 8  # windows read at once


@dataclass(frozen=True)
class Answers:
    """Answers to prompts, and what they show.

    shows: 1 or 0 for each prompt; NaN where the judge failed.  strictly: the same of a stricter judge, if any.
    """

    generations: list[Generation]
    shows: Float64[np.ndarray, " n"]
    strictly: Float64[np.ndarray, " n"] | None

    @property
    def rate(self) -> float:
        """Share of the judged answers that show the behaviour."""
        return float(np.nanmean(self.shows))

    @property
    def unique_words(self) -> float:
        """Different words over words, the mean over answers that have any: falls when a model babbles."""
        words = [g.text.lower().split() for g in self.generations]
        return float(np.mean([len(set(w)) / len(w) for w in words if w] or [0.0]))

    def record(self) -> dict[str, float | int | None]:
        """Rate with its Wilson interval, and fluency, as plain values."""
        judged = int((~np.isnan(self.shows)).sum())
        hits = int(np.nansum(self.shows))
        low, high = wilson(np.array([hits]), np.array([judged]))
        return {
            "n": judged,
            "unscored": len(self.shows) - judged,
            "showing": hits,
            "rate": round(self.rate, 4),
            "low": round(float(low[0]), 4),
            "high": round(float(high[0]), 4),
            "rate_strictly": None if self.strictly is None else round(float(np.nanmean(self.strictly)), 4),
            "unique_words": round(self.unique_words, 4),
        }

    @property
    def scores(self) -> str:
        """A character for each prompt: 1 shows it, 0 does not, - could not be judged."""
        return "".join("-" if np.isnan(score) else str(int(score)) for score in self.shows)


def answers(
    loaded: LoadedModel, prompts: Sequence[str], shows: Judge, strictly: Judge | None = None, *, max_new_tokens: int
) -> Answers:
    """Let a model answer prompts, under whatever interventions are open, and judge the answers.

    A judge that fails on an answer leaves that one unscored.
    """
    generations = generate(loaded, prompts, max_new_tokens=max_new_tokens)
    return Answers(generations, judged(shows, generations), judged(strictly, generations) if strictly else None)


def judged(judge: Judge, generations: Sequence[Generation]) -> Float64[np.ndarray, " n"]:
    """1 or 0 for each answer, NaN where the judge raised."""
    scores = np.full(len(generations), math.nan)
    for i, generation in enumerate(generations):
        try:
            scores[i] = bool(judge(generation.text))
        except Exception:  # a judge is the user's code; one answer must not cost the run
            continue
    return scores


def against(arms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Regions and the difference of means against every kind of null, on the same prompts.

    Of each pair the exact test with the member of the null that is hardest to tell apart, corrected for all members of
    all nulls and for the arms (Holm).
    """
    shows = [np.array([math.nan if c == "-" else float(c) for c in arm["scores"]]) for arm in arms]
    by: dict[str, list[int]] = {}
    for i, arm in enumerate(arms):
        by.setdefault(arm["name"], []).append(i)
    nulls = [name for name in by if name.startswith(("null", "random"))]
    pairs = [(a, null, m) for a in AGAINST for null in nulls for m in by[null]]
    p = holm(np.array([mcnemar(shows[by[a][0]], shows[m])["p"] for a, _, m in pairs], np.float64))
    rows = []
    for a in AGAINST:
        for null in nulls:
            rates = [arms[m]["rate"] for m in by[null]]
            hardest = max(float(q) for (arm, of, _), q in zip(pairs, p, strict=True) if (arm, of) == (a, null))
            facts = {"nulls": len(rates), "null_rate": float(np.mean(rates)), "least": min(rates), "most": max(rates)}
            rows.append({"arm": a, "rate": arms[by[a][0]]["rate"], "null": null, **facts, "p": hardest})
    return rows


def perplexity(loaded: LoadedModel, windows: Sequence[np.ndarray]) -> float:
    """Exp of the mean negative log likelihood of the tokens of windows of one length, the first of each aside."""
    total, count = 0.0, 0
    for start in range(0, len(windows), _BATCH):
        ids_bs = torch.from_numpy(np.stack(windows[start : start + _BATCH]).astype(np.int64)).to(loaded.model.device)
        with torch.inference_mode():
            logits_bsv = loaded.model(ids_bs, use_cache=False).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits_bsv.flatten(0, 1), ids_bs[:, 1:].flatten(), reduction="sum")
        total, count = total + float(loss), count + ids_bs[:, 1:].numel()
    return math.exp(total / count)
