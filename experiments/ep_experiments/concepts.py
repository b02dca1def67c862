"""Texts with and without a concept, as AxBench has them (Wu et al. 2025, arXiv:2501.17148).

Where they are found, for each set of concepts:

    <folder>/generate/train_data.parquet, <folder>/inference/latent_eval_data.parquet    AxBench's own layout
    <stem>_train.<ending>, <stem>_eval.<ending>                                          .jsonl, .jsonl.gz or .parquet

Rows have `input` and `output` (instruction and answer, read one after the other), `category`, `concept_id`,
`concept_genre` and `output_concept`. As in AxBench, a concept is trained on its positive texts and on the shared
negative ones of its genre, and evaluated on positive, negative (of all genres) and hard negative texts of its own: in
these, the concept's words have another meaning.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from exemplar_partitioning.errors import DataError, EPError

_COLUMNS = ("input", "output", "category", "concept_id", "concept_genre", "output_concept")
_ENDINGS = (".jsonl.gz", ".jsonl", ".parquet")
_LAYOUT = ("generate/train_data.parquet", "inference/latent_eval_data.parquet")
_SHARED = -1  # concept_id of negative training texts, which belong to all concepts of their genre
_EVAL = {"positive": "eval_positive", "negative": "eval_negative", "hard negative": "eval_hard"}
_ROWS = ("positive", "negative", "others", *_EVAL.values())
FEWEST = 4  # training texts of each kind; fewer cannot be cut into folds

Rows = Int64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Concept:
    """One concept: indices of its texts in its set's `texts`.

    others: training texts with other concepts of the set, which AxBench fits nothing to.
    """

    name: str
    genre: str
    positive: Rows
    negative: Rows
    others: Rows
    eval_positive: Rows
    eval_negative: Rows
    eval_hard: Rows


@dataclass(frozen=True, eq=False)
class ConceptSet:
    """Concepts and all their texts. repeated: evaluation texts left out because they are training texts, too."""

    name: str
    texts: list[str]
    concepts: list[Concept]
    repeated: int


def read_concepts(path: str | Path) -> ConceptSet:
    """Read a set of concepts from a folder of AxBench's layout, or from a pair of files by their common stem.

    Raises:
        EPError: nothing of that form there, no evaluation texts, or a concept without texts of one kind.
        DataError: a file that cannot be read or lacks columns.
    """
    path = Path(path)
    train_file, eval_file = _files(path)
    train, evaluation = _rows(train_file), _rows(eval_file)
    known = {(row["input"], row["output"]) for row in train}
    fresh = [row for row in evaluation if (row["input"], row["output"]) not in known]
    texts = [f"{row['input']}\n{row['output']}" for row in [*train, *fresh]]
    ids = sorted({row["concept_id"] for row in train} - {_SHARED})
    concepts = [_concept(path.name, number, train, fresh) for number in ids]
    if not concepts:
        raise EPError(f"{train_file} names no concept: every concept_id is {_SHARED}, which is for shared negatives")
    return ConceptSet(path.name, texts, concepts, len(evaluation) - len(fresh))


def first_concepts(given: ConceptSet, count: int) -> ConceptSet:
    """The first few concepts of a set, and only their texts."""
    kept = given.concepts[:count]
    own = [np.concatenate([rows for name, rows in vars(c).items() if name in _ROWS and name != "others"]) for c in kept]
    old = np.unique(np.concatenate(own))

    def renumbered(concept: Concept) -> Concept:
        rows = {name: np.searchsorted(old, np.intersect1d(getattr(concept, name), old)) for name in _ROWS}
        return replace(concept, **rows)

    return ConceptSet(given.name, [given.texts[i] for i in old], [renumbered(c) for c in kept], given.repeated)


def _files(path: Path) -> tuple[Path, Path]:
    pairs = [tuple(path / part for part in _LAYOUT)] + [
        (path.with_name(f"{path.name}_train{ending}"), path.with_name(f"{path.name}_eval{ending}"))
        for ending in _ENDINGS
    ]
    for train_file, eval_file in pairs:
        if train_file.is_file() and eval_file.is_file():
            return train_file, eval_file
        if train_file.is_file():
            raise EPError(
                f"{path} has training texts ({train_file}) and no evaluation texts; expected {eval_file} beside them"
            )
    raise EPError(
        f"no concepts at {path}: expected a folder with {' and '.join(_LAYOUT)}, or a stem such that {path.name}_train"
        f"{_ENDINGS[0]} and {path.name}_eval{_ENDINGS[0]} (or .jsonl, .parquet) exist"
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            from exemplar_partitioning.files import read_table

            rows: list[dict[str, Any]] = read_table(path).to_pylist()
        else:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            rows = [json.loads(line) for line in data.splitlines()]
    except (OSError, EOFError, ValueError) as error:  # what gzip, json and arrow raise alike
        raise DataError(f"{path} cannot be read: {error}") from error
    missing = sorted({column for row in rows for column in _COLUMNS if not isinstance(row.get(column), str | int)})
    if missing or not rows:
        what = f"lacks {', '.join(missing)} in some row" if rows else "has no rows"
        raise DataError(f"{path} {what}; expected the columns {', '.join(_COLUMNS)}, filled in every row")
    return rows


def _concept(of: str, number: int, train: list[dict[str, Any]], evaluation: list[dict[str, Any]]) -> Concept:
    positive = [row for row in train if row["concept_id"] == number]
    name = Counter(row["output_concept"] for row in positive).most_common(1)[0][0]
    genre = Counter(row["concept_genre"] for row in positive).most_common(1)[0][0]
    parts: dict[str, list[int]] = {part: [] for part in _ROWS}
    for index, row in enumerate(train):
        mine, shared = row["concept_id"] == number, row["concept_id"] == _SHARED
        if row["category"] == "positive":
            parts["positive" if mine else "others"].append(index)
        elif mine or (shared and row["concept_genre"] == genre):
            parts["negative"].append(index)
    for index, row in enumerate(evaluation, start=len(train)):
        if row["concept_id"] == number:
            kind = "hard negative" if row["category"].startswith("hard negative") else row["category"]
            if kind in _EVAL:
                parts[_EVAL[kind]].append(index)
    for part, least in (("positive", FEWEST), ("negative", FEWEST), ("eval_positive", 1), ("eval_negative", 1)):
        if len(parts[part]) < least:
            kind = f"{part.removeprefix('eval_')} {'evaluation' if part.startswith('eval_') else 'training'} texts"
            raise EPError(
                f"concept {number} of {of} ({name[:60]!r}, genre {genre}) has {len(parts[part])} {kind}; "
                f"expected at least {least}"
            )
    return Concept(name, genre, **{part: np.array(found, np.int64) for part, found in parts.items()})
