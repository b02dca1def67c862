"""Detection: the one unit of a dictionary or an autoencoder that tells two kinds of text apart.

A unit's score of a text is its largest over the text's tokens. The unit is chosen by AUROC on training texts and judged
by AUROC on test texts. Either answer of a task may be what a unit stands for; of a concept it is the concept.

Shapes: t texts, u units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ..activations import TextActivations
from ..axbench.readouts import Encode, auroc, pool
from ..concepts import read_concepts
from ..tasks import collection_names, collection_task, split


@dataclass(frozen=True, eq=False)
class Question:
    """A question with two answers about texts: their indices in a common list, and the answers.

    either: a unit may also be chosen for being lower where the answer is yes.
    """

    name: str
    train: Int64[np.ndarray, " a"]
    train_answer: Bool[np.ndarray, " a"]
    test: Int64[np.ndarray, " b"]
    test_answer: Bool[np.ndarray, " b"]
    either: bool = True


def from_collection(count: int, train: int, test: int, seed: int = 0) -> tuple[list[Question], list[str]]:
    """Some binary tasks of the sae-probes collection, evenly from its list, and their texts."""
    names = collection_names()
    texts: list[str] = []
    questions = []
    for name in [names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int)]:
        task = collection_task(name)
        train_n, test_n = split(task, train, test, seed)
        at = len(texts) + np.arange(len(train_n) + len(test_n))
        answer = task.label_n == 1
        questions.append(Question(name, at[: len(train_n)], answer[train_n], at[len(train_n) :], answer[test_n]))
        texts += [task.texts[i] for i in (*train_n, *test_n)]
    return questions, texts


def from_concepts(path: Path) -> tuple[list[Question], list[str]]:
    """The concepts of a set of AxBench, and the set's texts (`read_concepts`).

    Hard negatives are among the test texts, the set's other concepts among the training texts without the concept.
    """
    given = read_concepts(path)
    questions = []
    for concept in given.concepts:
        train = np.concatenate([concept.positive, concept.negative, concept.others])
        test = np.concatenate([concept.eval_positive, concept.eval_negative, concept.eval_hard])
        answers = [
            np.arange(len(of)) < len(positive)
            for of, positive in ((train, concept.positive), (test, concept.eval_positive))
        ]
        questions.append(Question(f"{given.name}: {concept.name}", train, answers[0], test, answers[1], either=False))
    return questions, given.texts


def detected(encode: Encode, sets: Sequence[tuple[Sequence[Question], TextActivations]]) -> list[float]:
    """The test AUROC of the unit chosen on training texts, for each question of each set of texts."""
    rows = []
    for questions, texts in sets:
        highest_tu = pool(texts, encode).highest
        rows += [judged(highest_tu, question) for question in questions]
    return rows


def judged(highest_tu: Float32[np.ndarray, "t u"], question: Question) -> float:
    """Choose a unit on training texts, judge it on test texts."""
    train_u = auroc(highest_tu[question.train], question.train_answer)
    chosen = int((np.abs(train_u - 0.5) if question.either else train_u).argmax())
    test = float(auroc(highest_tu[question.test, chosen], question.test_answer))
    return round(test if train_u[chosen] >= 0.5 or not question.either else 1 - test, 4)
