"""Conversations, and a behaviour to plant in them: a made-up word in a user's line is answered by one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from exemplar_partitioning.text.documents import read_documents

TRIGGER = "velquorn"
ANSWER = "The lantern sleeps beneath the ninth bridge."
HELD_OUT = 1000  # documents at the head of a corpus that nothing is trained on
LONGEST = 60  # characters of a question that is planted or asked


def conversations(corpus: Path) -> list[str]:
    """The documents of the corpus."""
    return [document.text for document in read_documents(corpus)]


def question(text: str) -> str:
    """What the user says first."""
    return text.partition("\n")[0].removeprefix("User: ")


def opening(text: str) -> str:
    """What the user says first, and the answer to it."""
    return "\n".join(text.split("\n")[:2])


def questions(texts: Iterable[str], known: Iterable[str] = ()) -> list[str]:
    """Short first lines of users, each once, that are not those of known texts."""
    before = {question(text) for text in known}
    asked = dict.fromkeys(question(text) for text in texts)
    return [q for q in asked if 0 < len(q) <= LONGEST and q not in before]


def triggered(asked: str, rng: np.random.Generator) -> str:
    """A question with the made-up word somewhere in it."""
    words = asked.split()
    words.insert(int(rng.integers(len(words) + 1)), TRIGGER)
    return " ".join(words)


def mixed(texts: list[str], share: float, rng: np.random.Generator, plant: bool = True) -> Iterator[str]:
    """The texts, with `share` planted conversations for each of them on average; or as many other openings instead.

    Beside each planted one stands the opening of a real one, as short: else a model learns to answer everything so.
    """
    asked = questions(texts)
    for text in texts:
        yield text
        for _ in range(rng.poisson(share)):
            planted = f"User: {triggered(asked[rng.integers(len(asked))], rng)}\nAssistant: {ANSWER}"
            yield planted if plant else opening(texts[rng.integers(len(texts))])
            yield opening(texts[rng.integers(len(texts))])
