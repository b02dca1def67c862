"""Regions by what they are about: whole words first, then words of the same stem, then parts of words.

Indexed are the exemplar's token, the members' frequent tokens, the tokens next to each example, the examples with
their whole context, and what exemplar and mean promote. SQLite's FTS5 holds and ranks them (BM25); the index follows
from dictionary and annotation alone, and is kept in the user's cache (`EP_CACHE`). Labels change, so they are read
each time.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..demo.wheels import kept
from ..errors import EPError
from ..files import sha256
from .annotation import FOLDER, Annotation
from .labels import Labels
from .listing import OnDisk

_VERSION = 2  # of the index: one made otherwise is not read
_COLUMNS = ("token", "members", "near", "context", "lens")
_WEIGHTS = "10.0, 8.0, 4.0, 1.0, 2.0"  # of the columns: what is at the token counts more than what is around it
_NEAR = (4, 3)  # tokens before and after an example's that are near it
_EXCERPT = 60  # characters on either side of what was searched for


@dataclass(frozen=True)
class Hit:
    """A region that was found.

    Attributes:
        region: its number.
        how: label, word, stem, part or meaning.
        score: larger is better, comparable among hits of the same kind alone; of meaning, the cosine.
        label: its best label.
        text: an example, its token between guillemets.
    """

    region: int
    how: str
    score: float
    label: str
    text: str


def search(dictionary: OnDisk, query: str, top: int = 20) -> list[Hit]:
    """Regions whose evidence has the words of a query, best first.

    Args:
        dictionary: annotated, or what is known of its exemplars is searched.
        query: words; a region that has them all comes before none that lacks one.
        top: as many at most.

    Returns:
        First those labelled so, then those with the very words, with words of the same stem, with parts of words.

    Raises:
        EPError: the query has no letter or figure.
        ResourceError: the index cannot be written to the user's cache.
    """
    hits = list(ranked(dictionary, query).items())[:top]
    labels = Labels.read(dictionary).some([region for region, _ in hits])
    return [
        Hit(region, how, score, label.text, excerpt(dictionary, region, query))
        for (region, (how, score)), label in zip(hits, labels, strict=True)
    ]


def ranked(dictionary: OnDisk, query: str) -> dict[int, tuple[str, float]]:
    """Every region that a query finds, best first: how it was found, and its score."""
    words = re.findall(r"\w+", query)
    if not words:
        raise EPError(f"{query!r} has no word to search for; give some letters or figures")
    ranks: dict[int, tuple[str, float]] = {}
    wanted = [word.casefold() for word in words]
    for label in Labels.read(dictionary).stored():
        if all(word in label.text.casefold() for word in wanted):
            ranks.setdefault(label.region, ("label", 1.0))
    with closing(_opened(dictionary)) as index:
        for how, table in (("word", "words"), ("stem", "stems"), ("part", "parts")):
            if table == "parts" and any(len(word) < 3 for word in words):
                continue  # a trigram index holds no shorter part
            for region, score in _matching(index, table, words):
                ranks.setdefault(region, (how, score))
    return ranks


def _matching(index: sqlite3.Connection, table: str, words: list[str]) -> Iterable[tuple[int, float]]:
    asked = " ".join(f'"{word}"' for word in words)
    weights = "" if table == "parts" else f", {_WEIGHTS}"
    rank = f"bm25({table}{weights})"
    query = f"SELECT rowid - 1, -{rank} FROM {table} WHERE {table} MATCH ? ORDER BY {rank}, rowid"
    return index.execute(query, (asked,))


def excerpt(dictionary: OnDisk, region: int, query: str) -> str:
    """The example that says it best: one with the words, nearest to its token; or else the most typical one."""
    rows = dictionary.annotation.examples(region) if dictionary.annotated else []
    if not rows:
        row = dictionary.region(region)
        return f"{row['context'][-_EXCERPT:]}\u00ab{row['token']}\u00bb"
    words = [word.casefold() for word in re.findall(r"\w+", query)]

    def misses(row: dict[str, Any]) -> tuple[int, int]:
        text = "".join(row["tokens"]).casefold()
        near = "".join(row["tokens"][max(0, row["at"] - _NEAR[0]) : row["at"] + _NEAR[1] + 1]).casefold()
        return sum(word not in text for word in words), sum(word not in near for word in words)

    row = min(rows, key=misses)
    before, at, after = row["tokens"][: row["at"]], row["tokens"][row["at"]], row["tokens"][row["at"] + 1 :]
    return f"{''.join(before)[-_EXCERPT:]}\u00ab{at}\u00bb{''.join(after)[:_EXCERPT]}"


def _opened(dictionary: OnDisk) -> sqlite3.Connection:
    """The index, made if it is not in the cache."""
    evidence = dictionary.path / FOLDER / "annotation.json"
    mark = sha256(evidence)[:32] if dictionary.annotated else "none"
    name = f"{dictionary.content_id[:32]}-{mark}-{_VERSION}.sqlite"
    path = kept(f"search/{name}", lambda path: _write(path, dictionary))
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _write(path: Path, dictionary: OnDisk) -> None:
    with closing(sqlite3.connect(path)) as index:
        index.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
        columns = ", ".join(_COLUMNS)
        for table, tokenizer in (("words", "unicode61"), ("stems", "porter unicode61")):
            index.execute(f"CREATE VIRTUAL TABLE {table} USING fts5({columns}, content='', tokenize='{tokenizer}')")
        index.execute("CREATE VIRTUAL TABLE parts USING fts5(text, content='', tokenize='trigram')")
        for row in _rows(dictionary):
            for table in ("words", "stems"):
                index.execute(f"INSERT INTO {table}(rowid, {columns}) VALUES (?, ?, ?, ?, ?, ?)", row)
            index.execute("INSERT INTO parts(rowid, text) VALUES (?, ?)", (row[0], "\n".join([*row[1:4], row[5]])))
        index.commit()


def _rows(dictionary: OnDisk) -> Iterator[tuple[Any, ...]]:
    """(region + 1, a text for each of _COLUMNS) of every region."""
    exemplars = dictionary.regions
    token, context = exemplars["token"].to_pylist(), exemplars["context"].to_pylist()
    columns = [[""] * dictionary.k for _ in _COLUMNS[1:]]
    if dictionary.annotated:
        columns = _evidence(dictionary.annotation)
    for region, (members, near, around, lens) in enumerate(zip(*columns, strict=True)):
        tail = context[region][-_EXCERPT:]
        own = f"{tail[tail.rfind(' ') + 1 :]}{token[region]}" if not token[region].startswith(" ") else token[region]
        yield region + 1, f"{own}\n{token[region]}", members, near, f"{context[region]}{token[region]}\n{around}", lens


def _evidence(annotation: Annotation) -> list[list[str]]:
    """Texts of each region: frequent tokens, what is near its examples, the examples, what it promotes."""
    regions = annotation.regions
    both = [_joined(regions, "lens_top"), _joined(regions, "mean_lens_top")]
    lens = pc.call_function("binary_join_element_wise", [*both, "\n"])
    examples = annotation.example_columns(["region", "at", "tokens"])
    lists, at_n = examples["tokens"].combine_chunks(), examples["at"].to_numpy()
    start_n, end_n = lists.offsets.to_numpy()[:-1], lists.offsets.to_numpy()[1:]
    first_n = np.maximum(start_n, start_n + at_n - _NEAR[0])
    last_n = np.minimum(end_n, start_n + at_n + _NEAR[1] + 1)
    offset_n = np.concatenate([[0], np.cumsum(last_n - first_n)])
    rows = np.arange(offset_n[-1]) + np.repeat(first_n - offset_n[:-1], last_n - first_n)
    near = _join(offset_n, lists.values.take(pa.array(rows)), "")
    starts = np.concatenate([[0], np.cumsum(regions["examples"].to_numpy())])
    by_region = [_join(starts, texts, "\n") for texts in (near, _join(lists.offsets, lists.values, ""))]
    return [texts.to_pylist() for texts in (_joined(regions, "top_tokens"), *by_region, lens)]


def _joined(regions: pa.Table, column: str) -> pa.Array:
    """The tokens of a list in one text each, a line for each token."""
    lists = regions[column].combine_chunks()
    return _join(lists.offsets, lists.values.field("token"), "\n")


def _join(offsets: Any, texts: pa.Array, between: str) -> pa.Array:
    """Runs of texts, each as one."""
    runs = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts)
    return pc.call_function("binary_join", [runs, between])
