"""Text for `ood/separate.py`: ordinary documents in parts that share no source document, and novel ones.

A suite has one kind of ordinary text. Its tasks each have novel documents and, where those come from a source of
their own, ordinary documents of that source to compare with, so that nothing but what the task is about differs.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exemplar_partitioning.demo.corpus import documents_of, genre_of
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.models.identity import special_token_ids
from exemplar_partitioning.models.loaded import LoadedModel

CHARACTERS = 600  # of a document that are used: about the tokens of a window

PROSE = "corpora/prose_web_wiki_news.jsonl.gz"
CODE = "corpora/code.jsonl.gz"
MATH = "corpora/math.jsonl.gz"
CHAT = "corpora/chat.jsonl.gz"
NOVELS = "corpora/prose_novels.jsonl.gz"
LANGUAGES = "labelled/pud_18_languages.jsonl.gz"
CLINC = "labelled/clinc150_oos_plus.jsonl.gz"


@dataclass(frozen=True)
class Sizes:
    """Documents of each part; build: characters of text to build dictionaries from, which also feed the rivals."""

    build: int = 1_200_000
    fit: int = 400
    test: int = 150


@dataclass(frozen=True)
class Task:
    """ordinary: to compare with; None for the suite's own held-out documents."""

    name: str
    novel: list[str]
    ordinary: list[str] | None = None


@dataclass(frozen=True)
class Suite:
    """build: to make dictionaries and rivals from.  fit: to set thresholds on.  held_out: new ordinary text."""

    name: str
    about: str
    build: list[str]
    fit: list[str]
    held_out: list[str]
    tasks: list[Task] = field(default_factory=list)


Skip = Callable[[str], None]
"""Told what is left out, and why."""


def suites(
    names: Sequence[str], data: Path | None, loaded: LoadedModel, sizes: Sizes, seed: int, skip: Skip
) -> list[Suite]:
    """Suites by name, as far as their text is there.

    Raises EPError for an unknown name, or if no suite is left.
    """
    makers = {"packaged": _packaged, "prose": _prose, "clinc": _clinc}
    if unknown := [name for name in names if name not in makers]:
        raise EPError(f"there is no suite {unknown[0]!r}; expected some of {', '.join(makers)}")
    source = _Source(data, skip)
    made = [suite for name in names if (suite := makers[name](source, loaded, sizes, random.Random(seed))) is not None]
    if not made:
        raise EPError(
            f"no text for any of {', '.join(names)}: --data is {data or 'not given'}; expected a folder with "
            f"{PROSE} or {CLINC}, or the suite `packaged`"
        )
    return made


@dataclass(frozen=True)
class _Source:
    """Files below a folder; those that are not there are told of."""

    folder: Path | None
    skip: Skip

    def rows(self, name: str, what: str) -> list[dict[str, Any]] | None:
        """Objects of a file of one a line, each with a text; None if there is no such file."""
        if self.folder is None or not (path := self.folder / name).is_file():
            self.skip(f"{what}: no file {name}{'' if self.folder is None else f' in {self.folder}'}")
            return None
        rows = []
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    row["text"] = _beginning(row["text"])
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{path}, line {number}: expected an object with a text ({error!r})") from error
                rows.append(row)
        return rows


def _packaged(source: _Source, loaded: LoadedModel, sizes: Sizes, rng: random.Random) -> Suite | None:
    """Prose of the packaged text against its other kinds."""
    kinds: dict[str, list[str]] = {"prose": [], "code": [], "papers": [], "questions": []}
    wanted = dict.fromkeys(kinds, 2 * sizes.test)
    wanted["prose"] = 2 * (sizes.build // CHARACTERS + sizes.fit) + 4 * sizes.test
    for document in documents_of(None):
        genre = genre_of(document.id.removeprefix("sae-probes/").partition(":")[0])
        kind = "prose" if genre in ("news", "reviews", "people", "stories", "reading") else genre
        if kind in kinds and len(kinds[kind]) < wanted[kind] and len(text := _beginning(document.text)) >= 40:
            kinds[kind].append(text)
        if all(len(kinds[kind]) >= wanted[kind] for kind in kinds):
            break
    suite = _ordinary("packaged", "prose of the packaged text", [[text] for text in kinds["prose"]], sizes, rng)
    tasks = [Task(kind, _some(kinds[kind], sizes.test, rng)) for kind in ("code", "papers", "questions")]
    return _with(suite, tasks + _made(suite, loaded, sizes, rng))


def _prose(source: _Source, loaded: LoadedModel, sizes: Sizes, rng: random.Random) -> Suite | None:
    """Prose of the web, wikis and news against code, math, novels, chat and other languages."""
    rows = source.rows(PROSE, "prose")
    if rows is None:
        return None
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(f"{row.get('source')} {str(row.get('id')).partition('#')[0]}", []).append(row["text"])
    suite = _ordinary("prose", "prose of the web, wikis and news", list(groups.values()), sizes, rng)
    tasks = []
    for name, file in (("code", CODE), ("math", MATH), ("chat", CHAT), ("novels", NOVELS)):
        if (texts := source.rows(file, name)) is not None:
            tasks.append(Task(name, _some([row["text"] for row in texts], sizes.test, rng)))
    if (texts := source.rows(LANGUAGES, "other languages")) is not None:
        english = [row["text"] for row in texts if row["lang"] == "English"]
        others = [row["text"] for row in texts if row["lang"] != "English"]
        tasks.append(Task("other languages", _some(others, 2 * sizes.test, rng), _some(english, sizes.test, rng)))
    return _with(suite, tasks + _made(suite, loaded, sizes, rng))


def _clinc(source: _Source, loaded: LoadedModel, sizes: Sizes, rng: random.Random) -> Suite | None:
    """Requests to an assistant against those outside all of its 150 intents (Larson et al. 2019)."""
    rows = source.rows(CLINC, "out-of-scope requests")
    if rows is None:
        return None
    known = [[row["text"]] for row in rows if row["label"] != "oos"]
    novel = [row["text"] for row in rows if row["label"] == "oos"]
    more = Sizes(sizes.build, 2 * sizes.fit, 3 * sizes.test)  # they are short
    suite = _ordinary("clinc", "requests within 150 intents", known, more, rng)
    return _with(suite, [Task("out of scope", _some(novel, more.test, rng)), *_made(suite, loaded, more, rng)])


def _ordinary(name: str, about: str, groups: list[list[str]], sizes: Sizes, rng: random.Random) -> Suite:
    """Parts of some groups of documents, no group in two of them and no text twice."""
    rng.shuffle(groups)
    seen: set[str] = set()
    texts = iter([[text for text in group if not (text in seen or seen.add(text))] for group in groups])
    fit = _take(texts, sizes.fit)
    held_out = _take(texts, 3 * sizes.test)
    build = [text for group in texts for text in group]
    rng.shuffle(build)
    cut = list(_within(build, sizes.build))
    if len(held_out) < 3 * sizes.test or len(cut) < sizes.test:
        raise EPError(f"suite {name}: {len(seen):,} documents are too few for {sizes}")
    return Suite(name, about, cut, fit, held_out)


def _made(suite: Suite, loaded: LoadedModel, sizes: Sizes, rng: random.Random) -> list[Task]:
    """Tasks made of the suite's own text and the model's own tokens, and the control: more of the same text."""
    n = sizes.test
    first, more = suite.held_out[n : 2 * n], suite.held_out[2 * n :]
    special = special_token_ids(loaded.tokenizer)
    ids = [i for i in range(loaded.info.vocab_size) if i not in special]
    random_texts = [loaded.tokenizer.decode(rng.choices(ids, k=100)) for _ in range(n)]
    return [
        Task("shuffled words", [" ".join(_shuffled(text.split(), rng)) for text in first]),
        Task("random tokens", random_texts),
        Task("control: the same", more),
    ]


def _with(suite: Suite, tasks: list[Task]) -> Suite:
    return Suite(suite.name, suite.about, suite.build, suite.fit, suite.held_out, tasks)


def _take(groups: Iterator[list[str]], count: int) -> list[str]:
    """Documents of whole groups, until there are so many; one group is cut off."""
    texts: list[str] = []
    while len(texts) < count and (group := next(groups, None)) is not None:
        texts += group
    return texts[:count]


def _within(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        characters -= len(text)
        if characters < 0:
            return
        yield text


def _some(texts: list[str], count: int, rng: random.Random) -> list[str]:
    return rng.sample(texts, min(count, len(texts)))


def _shuffled(words: list[str], rng: random.Random) -> list[str]:
    return rng.sample(words, len(words))


def _beginning(text: str) -> str:
    """The first characters of a text, up to the end of a word."""
    text = text.strip()
    return text if len(text) <= CHARACTERS else text[:CHARACTERS].rpartition(" ")[0] or text[:CHARACTERS]
