"""Texts and tokens for `few.py`: intents, articles in two languages, tokens inside something by a plain rule."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from ep_experiments.activations import text_activations
from exemplar_partitioning.models.loaded import LoadedModel

INTENTS = 25
KNOWN, TESTED = 30, 30  # texts of an intent
OTHERS = 200  # texts of other intents, to train on and to test on
DOCUMENTS = 20  # of tokens, to train on and to test on
LENGTH = 120  # tokens of such a document
TRAINED = 1200  # tokens
NEIGHBOURS = 4
LANGUAGE_CONTEXT = 64  # tokens of a paragraph


@dataclass(frozen=True, eq=False)
class Question:
    """One concept: rows of texts that have it and that do not, to learn from and to be tested on."""

    name: str
    positive: np.ndarray
    negative: np.ndarray
    test_positive: np.ndarray
    test_negative: np.ndarray

    @property
    def kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """The training rows of both kinds."""
        return self.positive, self.negative


def intents(path: Path, first: int = 0) -> tuple[list[str], list[Question]]:
    """Requests of some intents of CLINC-150, from the first in an order at random, against those of other intents."""
    rng = np.random.default_rng(0)
    by: dict[str, list[str]] = {}
    for row in _rows(path):
        if row["label"] != "oos":
            by.setdefault(row["label"], []).append(row["text"])
    names = list(rng.permutation(sorted(by)))
    asked, rest = names[first : first + INTENTS], [*names[:first], *names[first + INTENTS :]]
    texts = [t for name in asked for t in rng.permutation(by[name])[: KNOWN + TESTED]]
    others = rng.permutation([t for name in rest for t in by[name]])[: 2 * OTHERS]
    start = len(texts)
    known, tested = start + np.arange(OTHERS), start + OTHERS + np.arange(OTHERS)
    rows = np.arange(start).reshape(INTENTS, KNOWN + TESTED)
    questions = [
        Question(name, rows[i, :KNOWN], known, rows[i, KNOWN:],
                 np.concatenate([tested, np.delete(rows, i, axis=0)[:, KNOWN:].ravel()]))
        for i, name in enumerate(asked)
    ]  # fmt: skip
    return [*map(str, texts), *map(str, others)], questions


def in_another_language(corpora: Path) -> tuple[list[str], list[Question]]:
    """Articles of XQuAD: five pieces of each in English to learn from, the Spanish paragraphs to be tested on."""
    english = {
        r["id"]: r["text"] for r in _rows(corpora / "prose_web_wiki_news.jsonl.gz") if r["source"] == "wiki_squad"
    }
    spanish: dict[str, list[str]] = {}
    for row in _rows(corpora / "multilingual.jsonl.gz"):
        if row["source"] == "xquad_es":
            spanish.setdefault(row["id"], []).append(row["text"])
    names = sorted(english.keys() & spanish.keys())
    texts: list[str] = []
    of: dict[bool, list[str]] = {True: [], False: []}
    at: dict[bool, list[int]] = {True: [], False: []}
    for name in names:
        for is_english, pieces in ((True, _fifths(english[name])), (False, spanish[name])):
            of[is_english] += [name] * len(pieces)
            at[is_english] += range(len(texts), len(texts) + len(pieces))
            texts += pieces
    rows = {key: (np.array(of[key]), np.array(at[key])) for key in of}
    questions = [
        Question(name, *(rows[key][1][(rows[key][0] == name) == has] for key in (True, False) for has in (True, False)))
        for name in names
    ]
    return texts, questions


def _fifths(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 5:
        return lines
    step = -(-len(text) // 5)
    return [text[i : i + step] for i in range(0, len(text), step)]


Inside = Callable[[str], Bool[np.ndarray, " c"]]
"""Of every character of a text, whether it lies inside."""


def in_comment(text: str) -> Bool[np.ndarray, " c"]:
    """Inside a comment of C; a text that begins in one shows it by an end without a beginning."""
    inside = np.zeros(len(text), bool)
    end, begin = text.find("*/"), text.find("/*")
    if end >= 0 and (begin < 0 or end < begin):
        inside[: end + 2] = True
    for found in re.finditer(r"/\*.*?(\*/|\Z)|//[^\n]*", text, re.DOTALL):
        inside[found.start() : found.end()] = True
    return inside


def in_speech(text: str) -> Bool[np.ndarray, " c"]:
    """Between a quotation mark after a space and one before a space."""
    inside = np.zeros(len(text), bool)
    for found in re.finditer(r'(?:^|(?<=[\s(-]))"(?=\S)[^"]*"', text):
        inside[found.start() : found.end()] = True
    return inside


def in_formula(text: str) -> Bool[np.ndarray, " c"]:
    """Between dollar signs; the first pair that holds no prose tells which open and which close."""
    inside = np.zeros(len(text), bool)
    marks = [found.span() for found in re.finditer(r"\${1,2}", text)]
    between = (text[marks[i][1] : marks[i + 1][0]] for i in range(len(marks) - 1))
    first = next((i for i, part in enumerate(between) if not re.search(r"[a-z]{3,} [a-z]{2,}", part)), 0)
    for i in range(first % 2, len(marks) - 1, 2):
        inside[marks[i][0] : marks[i + 1][1]] = True
    return inside


KINDS_OF_TOKENS: dict[str, tuple[str, tuple[str, ...], Inside]] = {
    "comment": ("code.jsonl.gz", ("C", "C++"), in_comment),
    "speech": ("prose_novels.jsonl.gz", ("novel",), in_speech),
    "formula": ("math.jsonl.gz", ("stacks_project_tex",), in_formula),
}


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens with a label, of documents to learn from and others to be tested on.

    halves: activations of both.  words: the token and its neighbours of both, as columns.
    """

    halves: tuple[Float32[Tensor, "n d"], Float32[Tensor, "m d"]]
    words: tuple[Float32[np.ndarray, "n v"], Float32[np.ndarray, "m v"]]
    inside_train: Bool[np.ndarray, " n"]
    inside_test: Bool[np.ndarray, " m"]
    document_test: Int64[np.ndarray, " m"]


def documents_of_tokens(corpora: Path, kind: str) -> list[str]:
    """Documents at least a tenth of whose beginning lies inside, and a tenth does not."""
    file, sources, inside = KINDS_OF_TOKENS[kind]
    texts = []
    for row in _rows(corpora / file):
        if row["source"] in sources:
            text = row["text"][: 5 * LENGTH]
            if 0.1 < inside(text).mean() < 0.9:
                texts.append(text)
            if len(texts) == 2 * DOCUMENTS:
                break
    return texts


def labelled_tokens(loaded: LoadedModel, kind: str, corpora: Path, cache: Path, site: str) -> Tokens:
    """Activations and labels of the tokens of a kind's documents: TRAINED of one half, every third of the other."""
    texts = documents_of_tokens(corpora, kind)
    acts = text_activations(loaded, [site], texts, cache=cache, context_size=LENGTH)[site]
    inside_n = []
    for i, text in enumerate(texts):
        count = int(acts.start_t[i + 1] - acts.start_t[i])
        spans = loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        inside_c = KINDS_OF_TOKENS[kind][2](text)
        inside_n += [bool(inside_c[(a + b) // 2 if b - a > 1 else min(a, len(text) - 1)]) for a, b in spans[:count]]
    inside_n, text_n = np.array(inside_n), acts.text_n
    assert len(inside_n) == len(text_n), "special tokens in text"
    train = np.flatnonzero(text_n < DOCUMENTS)
    train = np.sort(np.random.default_rng(0).choice(train, min(TRAINED, len(train)), replace=False))
    test = np.flatnonzero(text_n >= DOCUMENTS)[::3]
    x_nd = np.asarray(acts.x_nd)
    halves = tuple(torch.from_numpy(np.array(x_nd[rows])) for rows in (train, test))
    table = _neighbours(acts.token_n, text_n, train)
    return Tokens(halves, (table(train), table(test)), inside_n[train], inside_n[test], text_n[test])  # pyright: ignore


def _neighbours(token_n: np.ndarray, text_n: np.ndarray, train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Columns of the token itself, and of those around it, of the types that training tokens have."""
    types = np.unique(token_n[train])

    def table(rows: np.ndarray) -> np.ndarray:
        columns = np.zeros((len(rows), 2, len(types)), np.float32)
        for step in range(-NEIGHBOURS, NEIGHBOURS + 1):
            at = np.clip(rows + step, 0, len(token_n) - 1)
            place = np.minimum(np.searchsorted(types, token_n[at]), len(types) - 1)
            known = (types[place] == token_n[at]) & (text_n[at] == text_n[rows])
            columns[np.flatnonzero(known), int(step != 0), place[known]] += 1
        return columns.reshape(len(rows), -1)

    return table


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)
