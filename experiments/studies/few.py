"""Where a region could win: few labels, few units, another language, tokens instead of texts.

    python -m experiments.studies.few DATA --cache DIR --out FILE

Settings, arms and rule: `ep_experiments/axbench/PREREGISTRATION.md`. DATA is a folder with axbench, labelled and
corpora.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ep_experiments.activations import text_activations
from ep_experiments.axbench import readouts
from ep_experiments.axbench.baselines import cosines, standardised
from ep_experiments.axbench.columns import Arm, arms, both_signs, of_table
from ep_experiments.axbench.readouts import Encode, Examples, Pooled, Rule, Weights, auroc, ridge
from ep_experiments.paired import auroc as weighted_auroc
from ep_experiments.paired import clustered, difference, interval, mean_spread, spread
from ep_experiments.record import write_study
from exemplar_partitioning.act.localise import holm
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.models.loaded import LoadedModel

from .concepts import SITE, ordinary_at
from .few_data import KINDS_OF_TOKENS, LANGUAGE_CONTEXT, Question, Tokens, in_another_language, intents, labelled_tokens

PERCENTILE = 2.0
COUNTS = (4, 8, 16, 32)
DRAWS = 5
UNITS = {"one unit": readouts.best, "five units": readouts.several(5)}
NAMED = ("regions", "words", "highest activation", "random exemplars", "k-means", "Gaussian directions")
RIVALS = ("words", "mean activation", "highest activation", "difference of means", "random exemplars", "k-means",
          "Gaussian directions")  # fmt: skip
WIN = 0.02

Scores = dict[str, np.ndarray]
"""AUROC by arm, of every unit of the interval."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path)
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    begun = time.monotonic()
    loaded = load_model("smollm2-135m-instruct", dtype="bfloat16", device="cpu")
    study = Study(loaded, given.data, given.cache)
    settings = [*study.few_labels(), study.language(), study.tokens()]
    about = {"site": SITE, "percentile": PERCENTILE, "k": study.ordinary.regions.k, "rule": WIN}
    write_study(given.out, "few", loaded.info, begun, about | {"settings": settings}, study="few")


class Study:
    """The settings, each as its scores by arm, judged."""

    def __init__(self, loaded: LoadedModel, data: Path, cache: Path, percentile: float = PERCENTILE):
        self.loaded, self.data, self.cache = loaded, data, cache
        self.ordinary = ordinary_at(loaded, cache, percentile)

    def few_labels(self) -> Iterable[dict[str, Any]]:
        """All columns by 4 to 32 texts; one and five units by 32."""
        texts, questions = intents(self.data / "labelled" / "clinc150_oos_plus.jsonl.gz")
        for name, scores in self._few(texts, questions, 64).items():
            yield judged(name, scores)

    def _few(self, texts: Sequence[str], questions: Sequence[Question], context: int) -> dict[str, Scores]:
        found: dict[str, dict[str, list[list[float]]]] = {}
        fitted_on = sorted({int(i) for q in questions for i in np.concatenate([q.positive, q.negative])})
        for arm in self._arms(texts, fitted_on, context):
            columns = arm.columns()
            tried: list[tuple[str, int, Rule]] = []
            if arm.name in ("regions", *RIVALS):
                tried += [(f"{count} texts", count, arm.rule) for count in COUNTS]
            if arm.name in NAMED:
                tried += [(name, max(COUNTS), rule) for name, rule in UNITS.items()]
            values = np.array(
                [self._by_few(columns, q, [(count, rule) for _, count, rule in tried]) for q in questions]
            )
            for (setting, _, _), of in zip(tried, values.T, strict=True):
                found.setdefault(setting, {}).setdefault(arm.name, []).append(of.tolist())
        return {s: {arm: np.mean(draws, axis=0) for arm, draws in by.items()} for s, by in found.items()}

    @staticmethod
    def _by_few(columns: Pooled, q: Question, tried: Sequence[tuple[int, Rule]]) -> list[float]:
        """Mean AUROC over draws of training texts, of several rules; every arm sees the same draws."""
        test = columns[np.concatenate([q.test_positive, q.test_negative])]
        has_t = np.arange(len(test.tokens)) < len(q.test_positive)
        drawn: dict[int, list[Examples]] = {}
        for count, _ in tried:
            rng = np.random.default_rng(0)
            drawn[count] = drawn.get(count) or [
                Examples(columns[np.concatenate([rng.choice(k, count // 2, replace=False) for k in q.kinds])],
                         np.arange(count) < count // 2) for _ in range(DRAWS)
            ]  # fmt: skip
        return [
            float(np.mean([auroc(rule(given).score(test), has_t) for given in drawn[count]])) for count, rule in tried
        ]

    def _arms(self, texts: Sequence[str], fitted_on: Sequence[int], context: int) -> list[Arm]:
        acts = text_activations(self.loaded, [SITE], texts, cache=self.cache, context_size=context)[SITE]
        made = arms(acts, texts, fitted_on, self.ordinary, self.cache)
        mean = next(arm for arm in made if arm.name == "mean activation")
        return [*made, Means("difference of means", 0, mean.columns)]

    def language(self) -> dict[str, Any]:
        """Learned in English, tried in Spanish."""
        texts, questions = in_another_language(self.data / "corpora")
        fitted_on = sorted({int(i) for q in questions for i in np.concatenate([q.positive, q.negative])})
        scores: dict[str, list[list[float]]] = {}
        for arm in self._arms(texts, fitted_on, LANGUAGE_CONTEXT):
            if arm.name in ("regions", *RIVALS):
                columns = arm.columns()
                values = [tested(arm.rule(examples(columns, q)), columns, q) for q in questions]
                scores.setdefault(arm.name, []).append(values)
        return judged("another language", {name: np.mean(draws, axis=0) for name, draws in scores.items()})

    def tokens(self) -> dict[str, Any]:
        """Whether a token lies inside something: by all columns, and by one."""
        differences: Scores = {}
        values: dict[str, list[np.ndarray]] = {}
        for kind in KINDS_OF_TOKENS:
            given = labelled_tokens(self.loaded, kind, self.data / "corpora", self.cache, SITE)
            weight_bn = np.concatenate(
                [np.ones((1, len(given.inside_test)), np.int64), clustered(given.document_test, 1000, 0)]
            )
            found: dict[str, list[np.ndarray]] = {}
            for name, train, test in self._token_columns(given):
                examples_of = Examples(of_table(train), given.inside_train)
                rules: dict[str, Rule] = {"": ridge()} | ({", one unit": readouts.best} if name in NAMED else {})
                for which, rule in rules.items():
                    score_n = rule(examples_of).score(of_table(test))
                    found.setdefault(name + which, []).append(weighted_auroc(score_n, given.inside_test, weight_bn))
            for name, draws in found.items():
                values.setdefault(name, []).append(np.mean(draws, axis=0))
        mean_b = {name: np.mean(of, axis=0) for name, of in values.items()}
        for name in mean_b:
            of = "regions, one unit" if name.endswith("one unit") else "regions"
            if name != of:
                differences[name] = mean_b[of] - mean_b[name]
        return from_resamples("tokens", mean_b, differences)

    def _token_columns(self, given: Tokens) -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
        centre = self.ordinary.regions.center
        for name in ("regions", "random exemplars", "Gaussian directions", "k-means"):
            for e_kd in self.ordinary.draws(name):
                encode = cosines(centre, e_kd)
                yield name, *_both(encode, given)
        scaled = standardised(self.ordinary.x_nd)
        yield "activation", *_both(scaled, given)
        yield "highest activation", *_both(both_signs(self.ordinary.x_nd), given)
        yield "words", *given.words


def _both(encode: Encode, given: Tokens) -> tuple[np.ndarray, np.ndarray]:
    train, test = given.halves
    return encode(train).numpy(), encode(test).numpy()


class Means(Arm):
    """An arm whose rule is the difference of mean activations."""

    @property
    def rule(self) -> Rule:
        return difference_of_means


def examples(columns: Pooled, q: Question) -> Examples:
    """All training texts of a question."""
    rows = np.concatenate([q.positive, q.negative])
    return Examples(columns[rows], np.arange(len(rows)) < len(q.positive))


def tested(weights: Weights, columns: Pooled, q: Question) -> float:
    """AUROC on a question's test texts."""
    rows = np.concatenate([q.test_positive, q.test_negative])
    return float(auroc(weights.score(columns[rows]), np.arange(len(rows)) < len(q.test_positive)))


def difference_of_means(given: Examples) -> Weights:
    """Mean activations of the two kinds of texts, one from the other."""
    mean_mk = given.texts.mean
    apart_k = mean_mk[given.positive_m].mean(axis=0) - mean_mk[~given.positive_m].mean(axis=0)
    return Weights(np.arange(len(apart_k)), apart_k.astype(np.float64), "mean")


def judged(setting: str, scores: Scores) -> dict[str, Any]:
    """Means, paired differences of regions to every rival, and what the rule says."""
    rivals = [name for name in scores if name != "regions"]
    found = [difference(scores["regions"], scores[name]) for name in rivals]
    table = [{"arm": name, "auroc": mean_spread(value_c)} for name, value_c in scores.items()]
    return _verdict(setting, len(scores["regions"]), table, rivals, found)


def from_resamples(setting: str, value_b: Scores, difference_b: Scores) -> dict[str, Any]:
    """The same where a figure is of all items together: its first entry is that of the data."""
    found = []
    for apart_b in difference_b.values():
        low, high = interval(apart_b[1:])
        below = float((apart_b[1:] <= 0).mean())
        p = max(2 * min(below, 1 - below), 1 / len(apart_b))
        found.append({"difference": float(apart_b[0]), "low": low, "high": high, "p": p})
    table = [{"arm": name, "auroc": spread(of)} for name, of in value_b.items()]
    return _verdict(setting, len(KINDS_OF_TOKENS), table, list(difference_b), found)


def _verdict(
    setting: str, units: int, table: list[dict[str, Any]], rivals: list[str], found: list[dict[str, float]]
) -> dict[str, Any]:
    p = holm(np.array([row["p"] for row in found]))
    pairs = [
        {"above": name} | {k: _round(v) for k, v in (row | {"p": float(q)}).items()}
        for name, row, q in zip(rivals, found, p, strict=True)
    ]
    wins = all(row["difference"] >= WIN and row["low"] > 0 for row in found)
    loses = any(row["difference"] <= -WIN and row["high"] < 0 for row in found)
    verdict = "win" if wins else "lose" if loses else "level"
    return {"setting": setting, "units": units, "verdict": verdict, "table": table, "pairs": pairs}


_round: Callable[[float], float] = lambda value: round(float(value), 4)  # noqa: E731


if __name__ == "__main__":
    main()
