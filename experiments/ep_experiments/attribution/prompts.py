"""Prompts whose next token is known: induction, the indirect object, the number of a verb."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NOUNS = (
    *("dog", "tree", "car", "house", "king", "river", "book", "table", "road", "fish"),
    *("bird", "stone", "hand", "door", "ship", "horse", "ring", "box", "hill", "snow"),
)
_NAMES = ["John", "Mary", "Tom", "James", "Anna", "Paul", "Sarah", "David", "Peter", "Kate", "Mark", "Laura"]
_PLACES = ["store", "park", "school", "office", "market", "station"]
_OBJECTS = ["drink", "book", "ring", "letter", "gift", "ball"]
_COUNTED = (
    ("key", "keys"),
    ("book", "books"),
    ("dog", "dogs"),
    ("boy", "boys"),
    ("car", "cars"),
    ("letter", "letters"),
    ("house", "houses"),
    ("tree", "trees"),
    ("picture", "pictures"),
    ("teacher", "teachers"),
)
_NEAR = ("near", "behind", "beside", "next to", "in front of")


@dataclass(frozen=True)
class Question:
    """A prompt with the right and the wrong next token."""

    family: str
    prompt: str
    right: str
    wrong: str


def questions(count: int, seed: int) -> list[Question]:
    """So many of each family."""
    rng = np.random.default_rng(seed)
    return [make(rng) for make in (_induction, _indirect_object, _subject_verb) for _ in range(count)]


def _induction(rng: np.random.Generator) -> Question:
    nouns = [str(noun) for noun in rng.choice(_NOUNS, 4, replace=False)]
    return Question("induction", " ".join(nouns + nouns + nouns[:2]), f" {nouns[2]}", f" {nouns[3]}")


def _indirect_object(rng: np.random.Generator) -> Question:
    a, b = (str(name) for name in rng.choice(_NAMES, 2, replace=False))
    prompt = f"When {a} and {b} went to the {rng.choice(_PLACES)}, {b} gave a {rng.choice(_OBJECTS)} to"
    return Question("indirect object", prompt, f" {a}", f" {b}")


def _subject_verb(rng: np.random.Generator) -> Question:
    subject, other = rng.choice(len(_COUNTED), 2, replace=False)
    plural = bool(rng.integers(2))
    prompt = f"The {_COUNTED[subject][plural]} {rng.choice(_NEAR)} the {_COUNTED[other][not plural]}"
    right, wrong = (" are", " is") if plural else (" is", " are")
    return Question("subject and verb", prompt, right, wrong)
