"""Labels by contrast for every region of a dictionary, and how well any label tells the region's members from others.

A fixed rule, whoever made the label: its words are looked for in members that were held out when labels were made,
and in members of other regions, half of them of the nearest ones. The score is the share of pairs in which the
region's own member has more of them (AUC; ties count half): 1 is certain, .5 is chance. Beside it stands what the
same rule gives labels that were exchanged among the regions. See docs/labels.md.

What follows from dictionary and annotation alone is kept in the user's cache.

Shapes: k regions, r neighbours.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..demo.wheels import kept
from ..errors import ResourceError
from ..files import sha256
from .annotation import Annotation
from .contrast import FUNCTION, KINDS, NEIGHBOURS, WORD, Evidence, Passage, label
from .listing import read_exemplars

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64

_VERSION = 2  # of the labels and the rule: what was kept by another is made anew
_CLOSE = 4  # words on each side of the member's own that count half, as those farther off count a quarter
_STEM = 6  # letters by which words are alike
_RARE = 0.005  # share of the passages; rarer words weigh no more
_FEWEST = 2  # held-out members for a score
_DRAWN = 2000  # regions given another's label
_SEED = 0
_BLOCK = 512  # rows of cosines at once


class Concepts:
    """Of an annotated dictionary: labels, their scores, and what is needed to score others."""

    def __init__(self, annotation: Annotation):
        self._table = _kept(annotation)
        about = json.loads(self._table.schema.metadata[b"about"])
        self._common: dict[str, float] = about["common"]
        self.chance: float = about["chance"]
        """Mean score of exchanged labels."""
        self.bound: float = about["bound"]
        """Score that one exchanged label in twenty reaches."""

    @cached_property
    def labels(self) -> list[str | None]:
        """[k] made by contrast; None for regions without members."""
        return self._table["label"].to_pylist()

    @cached_property
    def scores(self) -> list[float | None]:
        """[k] of the labels; None where too few members are held out."""
        return self._table["score"].to_pylist()

    def score(self, region: int, text: str) -> float | None:
        """Of any label for a region; None where too few members are held out, or the label has no word to look for."""
        row = self._table.slice(region, 1)
        held = row["held"][0].as_py()
        others = [passage for other in row["others"][0].as_py() for passage in self._table["held"][other].as_py()]
        value = _score(text, [_weights(p) for p in held], [_weights(p) for p in others], self._common)
        return None if np.isnan(value) else value


def held_out(rows: Iterable[dict[str, Any]]) -> set[str]:
    """Documents of a region's examples that no label may be made from: of every other one drawn at random."""
    return {row["document"] for row in rows if row["kind"] == "random" and row["rank"] % 2}


def words_of(text: str) -> set[str]:
    """What a label is looked for by: all words in quotes; others that are no mere words of grammar."""
    inside = re.findall(r"[\u201c\"]([^\u201d\"]*)[\u201d\"]", text)
    outside = re.sub(r"[\u201c\"][^\u201d\"]*[\u201d\"]", " ", text).casefold()
    said = {word for word in WORD.findall(outside) if word[0].isalnum() and word not in FUNCTION | _PUT}
    quoted = {word for quote in inside for word in WORD.findall(quote.casefold()) if quote[0] != "-" or len(quote) == 1}
    return {_stem(word) for word in said | quoted} | {kind for kind in KINDS if text.startswith(kind)}


# how labels are put
_PUT = frozenset({"near", "numbers", "words", "ends", "lines", "line", "word", "token", "tokens", "such"})


def _stem(word: str) -> str:
    return word.removesuffix("s")[:_STEM] or word


def _kept(annotation: Annotation) -> pa.Table:
    """From the user's cache, or made and put there; where nothing can be written, made alone."""
    mark = sha256(annotation.path / "annotation.json")[:32]
    made: list[pa.Table] = []

    def make(path: Path) -> None:
        made.append(_make(annotation))
        pq.write_table(made[0], path, compression="zstd")

    with suppress(ResourceError, OSError):
        path = kept(f"labels/{annotation.dictionary.content_id[:32]}-{mark}-{_VERSION}.parquet", make)
        return made[0] if made else pq.read_table(path)
    return made[0] if made else _make(annotation)


def _make(annotation: Annotation) -> pa.Table:
    nearest_kr = neighbours(annotation)
    evidence, held = _evidence(annotation)
    labels = [label(evidence[i], [evidence[j] for j in near]) for i, near in enumerate(nearest_kr.tolist())]
    weights = [[_weights(passage) for passage in passages] for passages in held]
    others = _others(nearest_kr)
    counts = Counter(word for passages in weights for passage in passages for word in passage)
    n = max(1, sum(map(len, weights)))
    common = {word: count / n for word, count in counts.items() if count > _RARE * n}

    def scored(pairs: Iterable[tuple[int, int]]) -> Float64[np.ndarray, " n"]:
        """How well the label of the second region tells members of the first."""
        return np.array(
            [
                _score(labels[j] or "", weights[i], [passage for m in others[i] for passage in weights[m]], common)
                for i, j in pairs
            ]
        )

    drawn = np.random.RandomState(_SEED).randint(0, max(1, len(labels)), (_DRAWN, 2)).tolist()
    chance = scored((i, j) for i, j in drawn if i != j)
    chance = chance[~np.isnan(chance)]
    about = {"common": common, "chance": float(chance.mean()) if len(chance) else 0.5}
    about["bound"] = float(np.quantile(chance, 0.95)) if len(chance) else 1.0
    columns = {
        "label": pa.array(labels, pa.string()),
        "score": pa.array(scored((i, i) for i in range(len(labels))), from_pandas=True),
        "held": held,
        "others": others,
    }
    return pa.table(columns).replace_schema_metadata({"about": json.dumps(about)})


def neighbours(annotation: Annotation) -> Int64[np.ndarray, "k r"]:
    """The regions with members nearest to each by their exemplars, itself not among them."""
    e_kd: Float32[np.ndarray, "k d"] = read_exemplars(annotation.dictionary, "np")["exemplars"]
    empty = np.flatnonzero(annotation.regions["members"].to_numpy() == 0)
    r = min(NEIGHBOURS, max(0, len(e_kd) - 1 - len(empty)))
    nearest_kr = np.zeros((len(e_kd), r), np.int64)
    for start in range(0, len(e_kd), _BLOCK) if r else ():
        cosine_nk = e_kd[start : start + _BLOCK] @ e_kd.T
        rows = np.arange(len(cosine_nk))
        cosine_nk[:, empty] = -2
        cosine_nk[rows, start + rows] = -3
        nearest_nr = np.argpartition(-cosine_nk, r - 1, axis=1)[:, :r]
        order = np.argsort(-np.take_along_axis(cosine_nk, nearest_nr, axis=1), axis=1, kind="stable")
        nearest_kr[start : start + _BLOCK] = np.take_along_axis(nearest_nr, order, axis=1)
    return nearest_kr


def _others(nearest_kr: Int64[np.ndarray, "k r"]) -> list[list[int]]:
    """Regions whose held-out members each region's are told from: the nearest, and as many of all."""
    k, r = nearest_kr.shape
    drawn = np.random.RandomState(_SEED).randint(0, max(1, k), (k, r))
    return [
        [*near, *(j for j in any_ if j != i)]
        for i, (near, any_) in enumerate(zip(nearest_kr.tolist(), drawn.tolist(), strict=True))
    ]


def _evidence(annotation: Annotation) -> tuple[list[Evidence], list[list[list[str]]]]:
    """Of each region what labels are made from, and the words of each member that is held out."""
    columns = ["members", "top_tokens", "before_tokens", "examples"]
    regions = annotation.regions.select(columns).to_pylist()
    rows = iter(annotation.example_columns(["kind", "rank", "document", "at", "tokens"]).to_pylist())
    evidence, held = list[Evidence](), list[list[list[str]]]()
    for region in regions:
        examples = [row for row in (next(rows) for _ in range(region["examples"])) if any(row["tokens"])]
        left_out = held_out(examples)
        once = {row["document"]: row for row in examples if row["kind"] != "farthest"}
        passages = [Passage.of(row["tokens"], row["at"]) for name, row in once.items() if name not in left_out]
        kept = [row for row in examples if row["kind"] == "random" and row["document"] in left_out]
        forms, before = _folded(region["top_tokens"]), _folded(region["before_tokens"])
        forms.subtract(form for row in kept if (form := _fold(row["tokens"][row["at"]])) in forms)
        evidence.append(Evidence(max(0, region["members"] - len(kept)), +forms, before, passages))
        held.append([_tiers(Passage.of(row["tokens"], row["at"])) for row in kept])
    return evidence, held


def _folded(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    counts = Counter[str]()
    for row in rows:
        counts[_fold(row["token"])] += row["count"]
    return counts


def _fold(token: str) -> str:
    return token.strip(" ").casefold() or "\u2423"


def _tiers(passage: Passage) -> list[str]:
    """Words of a passage, each behind the quarters it counts: 4 the member's own, 2 close to it, 1 farther off."""
    best = dict.fromkeys([_stem(_fold(passage.token)), *passage.kinds()], 4)
    for i, word in enumerate(passage.words):
        away, stem = abs(i - passage.at), _stem(word.casefold())
        best[stem] = max(best.get(stem, 0), 4 if not away else 2 if away <= _CLOSE else 1)
    return [f"{quarters}{stem}" for stem, quarters in best.items()]


def _weights(passage: list[str]) -> dict[str, int]:
    return {word[1:]: int(word[0]) for word in passage}


def _score(
    text: str, held: Sequence[dict[str, int]], others: Sequence[dict[str, int]], common: dict[str, float]
) -> float:
    """AUC of a label; NaN without enough of either, or without words."""
    words = words_of(text)
    if len(held) < _FEWEST or len(others) < _FEWEST or not words:
        return float("nan")
    rarity = {word: -log(max(_RARE, common.get(word, 0.0))) for word in words}
    own_n, other_m = (
        np.array([sum(rarity[word] * passage[word] for word in words if word in passage) for passage in passages])
        for passages in (held, others)
    )
    above = (own_n[:, None] > other_m).mean() + 0.5 * (own_n[:, None] == other_m).mean()
    return float(above)
