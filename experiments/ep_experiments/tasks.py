"""Labelled texts for probes: the binary tasks of the sae-probes collection, or any table of texts and labels.

The collection (Kantamneni et al. 2025) is read out of the wheel that also holds the packaged text.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from exemplar_partitioning.demo.corpus import CORPUS_FOLDER
from exemplar_partitioning.demo.wheels import DEFAULT_TEXT_WHEEL, fetch_wheel
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.text.formats import csv_rows, format_of, read_rows
from exemplar_partitioning.text.raw import decompressed

FOLDS = 5  # of the cross-validation on training rows, each of which must see every class

# Tasks of the collection with more than two classes, or with numbers for targets, by the number they begin with.
_NOT_BINARY = {
    *(2, 3, 4, *range(8, 21), 25, *range(27, 31), *range(37, 41), 43, 45, 46, 55, 86, 88, 93),
    *(97, 98, 99, 101, 102, 103, 108, 109, 111, 112),
}
_ENDING = ".csv.zst"


@dataclass(frozen=True, eq=False)
class Task:
    """Texts, each with the number of its class in `classes`; no text twice.

    dropped: rows left out, by reason.
    """

    name: str
    texts: list[str]
    label_n: Int64[np.ndarray, " n"]
    classes: list[str]
    dropped: dict[str, int] = field(default_factory=dict)


def collection_names() -> list[str]:
    """The binary tasks of the sae-probes collection, in its order: 113 in version 0.4.2."""
    with zipfile.ZipFile(fetch_wheel(DEFAULT_TEXT_WHEEL)) as wheel:
        names = [n[len(CORPUS_FOLDER) : -len(_ENDING)] for n in wheel.namelist() if n.startswith(CORPUS_FOLDER)]
    binary = [name for name in names if int(name.split("_")[0]) not in _NOT_BINARY]
    return sorted(binary, key=lambda name: int(name.split("_")[0]))


def collection_task(name: str) -> Task:
    """A task of the sae-probes collection by its name, such as `92_glue_sst2`.

    Raises EPError if there is no such task.
    """
    with zipfile.ZipFile(fetch_wheel(DEFAULT_TEXT_WHEEL)) as wheel:
        try:
            data = wheel.read(f"{CORPUS_FOLDER}{name}{_ENDING}")
        except KeyError:
            raise EPError(
                f"there is no task {name!r}: expected a file, or a name of the sae-probes collection such as "
                f"{', '.join(collection_names()[::20])}"
            ) from None
    plain = decompressed(io.BytesIO(data), ".zst")
    rows = (row for _, row, _ in csv_rows(plain, name, lambda names, _: list(names)) if isinstance(row, dict))
    return make_task(name, ((row["prompt"], row["target"]) for row in rows))


def file_task(path: Path, text_field: str = "text", label_field: str = "label") -> Task:
    """A task from a .csv, .jsonl, .json or .parquet file (all but the last also compressed), a text a row.

    Raises EPError for a file of another kind, a column that is missing, or fewer than two classes.
    """
    pairs = []
    for number, row in enumerate(_rows(path)):
        for name in (text_field, label_field):
            if name not in row:
                raise EPError(
                    f"{path.name}, row {number}: no {name!r} among {', '.join(map(str, row)) or 'nothing'}; "
                    "name the columns with --text-field and --label-field"
                )
        pairs.append((row[text_field], row[label_field]))
    return make_task(path.name.split(".")[0], pairs)


def make_task(name: str, pairs: Iterable[tuple[Any, Any]]) -> Task:
    """A task of pairs (text, label).

    Left out and counted: rows without text or label, repeated texts (but for case and white space), and all rows of
    a text that has two labels. Raises EPError if fewer than two classes remain.
    """
    dropped: Counter[str] = Counter()
    labels: dict[str, set[str]] = {}
    first: dict[str, tuple[str, str]] = {}
    for text, label in pairs:
        if not isinstance(text, str) or not (same := " ".join(text.casefold().split())):
            dropped["no text"] += 1
        elif label is None or not str(label).strip():
            dropped["no label"] += 1
        else:
            dropped["repeated"] += same in first
            first.setdefault(same, (text, str(label)))
            labels.setdefault(same, set()).add(str(label))
    kept = [row for same, row in first.items() if len(labels[same]) == 1]
    if ambiguous := len(first) - len(kept):
        dropped["two labels"] = ambiguous
    classes = sorted({label for _, label in kept})
    if len(classes) < 2:
        raise EPError(
            f"task {name}: {len(kept)} different texts with {len(classes)} classes ({', '.join(classes) or 'none'}); "
            "a probe tells classes apart, so there must be two or more: is it the right --label-field?"
        )
    number = {label: i for i, label in enumerate(classes)}
    label_n = np.array([number[label] for _, label in kept], np.int64)
    return Task(name, [text for text, _ in kept], label_n, classes, {k: n for k, n in dropped.items() if n})


def split(
    task: Task, train: int, test: int, seed: int
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " test"]]:
    """Rows to train and to test on, drawn at random with the classes in proportion; both sorted.

    Where the task has fewer rows than `train` and `test` together, they are divided in that ratio.

    Raises:
        EPError: a class has too few rows for every fold of the cross-validation and for the test.
    """
    from sklearn.model_selection import train_test_split

    total = min(train + test, len(task.texts))
    parts = total - round(total * test / (train + test)), round(total * test / (train + test))
    scarce = int(np.bincount(task.label_n).argmin())
    count = int((task.label_n == scarce).sum())
    expected = [count * part / len(task.texts) for part in parts]
    if expected[0] < FOLDS or expected[1] < 1:
        raise EPError(
            f"task {task.name}: {parts[0]} training and {parts[1]} test rows of {len(task.texts)} are too few: class "
            f"{task.classes[scarce]!r} with {count} rows would have about {expected[0]:.1f} and {expected[1]:.1f} of "
            f"them, and needs {FOLDS} and 1; raise --train and --test, or leave out or merge rare classes"
        )
    train_n, test_n = train_test_split(
        np.arange(len(task.texts)), train_size=parts[0], test_size=parts[1], stratify=task.label_n, random_state=seed
    )
    return np.sort(train_n), np.sort(test_n)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a table, as dictionaries by column."""
    if not path.is_file() or format_of(path) in (None, ".txt", ".md"):
        raise EPError(f"{path}: expected a file of texts and labels, .csv, .tsv, .jsonl, .json, .parquet or .arrow")
    for _, row, where in read_rows(path, path.name, lambda names, _: list(names)):
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object a row, with the text and the label in two of its fields")
        yield row
