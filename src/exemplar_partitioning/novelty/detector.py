"""A detector of text unlike what a dictionary was built from, with a rate of false alarms that holds.

Fitted on ordinary documents that the dictionary was not built from. A random quarter of them sets the scale on which
documents of different length are compared; the others are ranked, and a new document's p-value is its place among
them (`conformal.py`). Kept in `ood.json` beside the dictionary's config.json (docs/format.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from ..demo.corpus import documents_of
from ..errors import DataError, EPError
from ..files import sealed, unsealed, write_new
from ..folder.dictionary import StoredDictionary
from ..folder.model import model_of
from ..folder.schema import validated
from ..models.loaded import LoadedModel
from ..text.documents import DocumentSource, Sources
from .conformal import Tail, fewest, sure_level
from .passages import Passage, passages
from .scores import SHARPNESS, Novelty, Score, check_score, token_scores

FILE = "ood.json"
MAX_TOKENS = 500_000  # of text to fit on

_LEARN = 4  # one document in so many sets the scale
_SAME_PREFIX = 16  # tokens from which on two windows do not begin alike by chance
_SAME = 0.02  # cosine distance within which two runs of the model on the same tokens stay


class Scale(BaseModel):
    """What the mean score of a document's n tokens is in ordinary text: `mean`, varying by between + within / n."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float
    within: float = Field(ge=0, description="variance of tokens of one document")
    between: float = Field(ge=0, description="variance of documents beyond that")

    @classmethod
    def of(cls, documents: list[Float64[np.ndarray, " n"]]) -> Scale:
        """From the scores of the tokens of some documents; every document counts alike."""
        mean_t = np.array([scores.mean() for scores in documents])
        within = float(np.mean([scores.var() for scores in documents]))
        expected = within * float(np.mean([1 / len(scores) for scores in documents]))
        return cls(mean=float(mean_t.mean()), within=within, between=max(0.0, float(mean_t.var()) - expected))

    def standard(self, score_n: Float64[np.ndarray, " n"]) -> float:
        """The mean score of a document, in standard deviations of such a mean."""
        variance = self.between + self.within / len(score_n)
        return float((score_n.mean() - self.mean) / np.sqrt(max(variance, 1e-12)))


class FittedOn(BaseModel):
    """The text of the fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    documents: int = Field(ge=1)
    tokens: int = Field(ge=1)
    seed: int = Field(description="of the split in two parts")


class Sure(BaseModel):
    """What was asked for with a confidence: of fits to such documents, so large a share keeps to the rate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: float = Field(gt=0, lt=1, description="share of ordinary documents to be flagged at most")
    confidence: float = Field(gt=0, lt=1)


class _Record(BaseModel):
    """ood.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["exemplar-partitioning/ood"] = "exemplar-partitioning/ood"
    schema_version: Literal["1.0"] = "1.0"
    dictionary: str = Field(description="content id of the dictionary: sha256 of its config.json")
    evidence: str = Field(description="sha256 of the annotation's means.safetensors")
    score: Score
    sharpness: float
    false_alarms: float = Field(gt=0, lt=1, description="a document is flagged when its p-value is at most this")
    token_false_alarms: float = Field(gt=0, lt=1)
    sure: Sure | None = Field(default=None, exclude_if=lambda sure: sure is None)
    fitted_on: FittedOn
    scale: Scale
    documents: Tail
    tokens: Tail

    @model_validator(mode="after")
    def _fits(self) -> _Record:
        assert self.documents.documents == self.tokens.documents, "tails of different documents"
        assert self.tokens.documents < self.fitted_on.documents <= self.fitted_on.tokens, "more documents than it read"
        return self


@dataclass(frozen=True)
class DocumentNovelty:
    """What a detector says of a document.

    Attributes:
        tokens: of text, with a score.
        score: mean over them of the detector's score, in standard deviations of ordinary documents of that length.
        p: how many ordinary documents score as much.
        flagged: whether that is at most the rate of false alarms.
        distance: mean over the tokens.
        beyond: mean over the tokens.
        flagged_tokens: share of them.
        passage: the tokens.
        p_n: p-values of the tokens.
        flagged_n: which of these are at most the rate of false alarms for tokens.
    """

    document: str
    tokens: int
    score: float
    p: float
    flagged: bool
    distance: float
    beyond: float
    flagged_tokens: float
    passage: Passage
    p_n: Float64[np.ndarray, " n"]
    flagged_n: np.ndarray


class Detector:
    """A fitted detector of a dictionary; fitted with `fit`, or read from its folder with `read`."""

    def __init__(self, dictionary: StoredDictionary, record: _Record):
        self.dictionary, self.record = dictionary, record

    @classmethod
    def fit(
        cls,
        dictionary: StoredDictionary,
        texts: Sources | DocumentSource | None,
        model: str | LoadedModel | None = None,
        *,
        false_alarms: float = 0.01,
        token_false_alarms: float | None = None,
        confidence: float | None = None,
        score: str = "surprise",
        max_tokens: int = MAX_TOKENS,
        field: str = "text",
        seed: int = 0,
    ) -> Detector:
        """Fit one on ordinary documents that the dictionary was not built from; `write` keeps it.

        Args:
            dictionary: annotated.
            texts: as for `Detector.score`.
            model: as there.
            false_alarms: share of ordinary documents that may be flagged, on average over fits to such documents.
            token_false_alarms: of tokens, every document counting alike; by default the same.
            confidence: share of such fits that keep to the rate for documents, each by itself; None for the average.
            score: one of SCORES; a document's is the mean over its tokens.
            max_tokens: of text to read; 500,000 unless told.
            field: column or key that holds the text.
            seed: of the part of the documents that sets the scale.

        Returns:
            The detector, not yet kept.

        Raises:
            EPError: a rate outside (0, 1), too few documents for it, text that the dictionary was built from,
                a dictionary that is not annotated, or another model.
        """
        rates = (false_alarms, false_alarms if token_false_alarms is None else token_false_alarms)
        for rate in rates:
            if not 0 < rate < 1:
                raise EPError(f"a rate of false alarms is a share between 0 and 1, such as 0.01; got {rate:g}")
        if confidence is not None and not 0 < confidence < 1:
            raise EPError(f"a confidence is a share between 0 and 1, such as 0.95; got {confidence:g}")
        chosen = check_score(score)
        source = texts if isinstance(texts, DocumentSource) else documents_of(texts, field=field)
        read = list(passages(dictionary, model_of(dictionary, model), source, max_tokens))
        _check_enough(source.name, len(read), max(fewest(min(rates)), fewest(false_alarms, confidence)), min(rates))
        _check_new(dictionary, source.name, read)
        documents = [passage.novelty.by(chosen) for passage in read]
        order = np.random.default_rng(seed).permutation(len(documents))
        learn = [documents[i] for i in order[: len(order) // _LEARN]]
        ranked = [documents[i] for i in order[len(order) // _LEARN :]]
        scale = Scale.of(learn)
        sure = None if confidence is None else Sure(rate=false_alarms, confidence=confidence)
        level = false_alarms if confidence is None else sure_level(false_alarms, confidence, len(ranked))
        return cls(
            dictionary,
            _Record(
                dictionary=dictionary.content_id,
                evidence=_evidence(dictionary),
                score=chosen,
                sharpness=SHARPNESS,
                false_alarms=level,
                token_false_alarms=rates[1],
                sure=sure,
                fitted_on=FittedOn(
                    source=source.name, documents=len(documents), tokens=sum(map(len, documents)), seed=seed
                ),
                scale=scale,
                documents=Tail.of([np.array([scale.standard(scores)]) for scores in ranked]),
                tokens=Tail.of(ranked),
            ),
        )

    @classmethod
    def read(cls, dictionary: StoredDictionary) -> Detector:
        """The detector in a dictionary's folder.

        Args:
            dictionary: in whose folder it lies.

        Returns:
            The detector that `write` put there.

        Raises:
            EPError: there is none.
            DataError: its file is damaged, or another dictionary's.
        """
        path = dictionary.path / FILE
        if not path.exists():
            raise EPError(
                f"{dictionary.path} has no detector yet: run `ep ood fit {dictionary.path} TEXT` with ordinary text "
                "that it was not built from"
            )
        value = unsealed(path)
        if value.get("format") != "exemplar-partitioning/ood":
            raise DataError(f"{path} does not hold a detector of this package")
        record = validated(_Record, value, path)
        of, now = (record.dictionary, record.evidence, record.sharpness), (dictionary.content_id, _evidence(dictionary))
        if of != (*now, SHARPNESS):
            raise DataError(
                f"{path} was fitted to another dictionary, before it was annotated anew, or by another version of this "
                f"package; run `ep ood fit {dictionary.path} TEXT` again"
            )
        return cls(dictionary, record)

    def write(self) -> Path:
        """Keep it in the dictionary's folder, in place of an earlier one.

        Returns:
            The file.

        Raises:
            ResourceError: it cannot be written.
        """
        path = self.dictionary.path / FILE
        write_new(path, sealed(self.record.model_dump(mode="json")))
        return path

    def tokens(self, x_nd: Float[np.ndarray, "n d"] | Tensor) -> tuple[Novelty, Float64[np.ndarray, " n"]]:
        """Scores and p-values of activations [n, d_model] of the dictionary's site.

        Args:
            x_nd: the activations.

        Returns:
            Scores by name, and a p-value each.
        """
        novelty = token_scores(self.dictionary, x_nd)
        return novelty, self.record.tokens.p(novelty.by(self.record.score))

    def score(
        self, texts: Sources | DocumentSource | None, model: str | LoadedModel | None = None, *, field: str = "text"
    ) -> Iterator[DocumentNovelty]:
        """Judge documents, one at a time; those without a token of text are left out.

        Args:
            texts: files, folders, globs, `hf:` dataset or any iterable of strings.
            model: where the model is, or the model itself; None for the one the dictionary names.
            field: column or key that holds the text.

        Returns:
            A judgement a document, as they are read.

        Raises:
            EPError: the model is another one, or no document has a token of text.
        """
        source = texts if isinstance(texts, DocumentSource) else documents_of(texts, field=field)
        empty = True
        for passage in passages(self.dictionary, model_of(self.dictionary, model), source, 10**18):
            empty = False
            yield self._judged(passage)
        if empty:
            raise EPError(f"{source.name}: no document has a token of text; give some words")

    def _judged(self, passage: Passage) -> DocumentNovelty:
        r, novelty = self.record, passage.novelty
        score_n = novelty.by(r.score)
        standard = r.scale.standard(score_n)
        p = float(r.documents.p(np.array([standard]))[0])
        p_n = r.tokens.p(score_n)
        flagged_n = p_n <= r.token_false_alarms
        return DocumentNovelty(
            document=passage.document,
            tokens=len(score_n),
            score=standard,
            p=p,
            flagged=p <= r.false_alarms,
            distance=float(novelty.distance.mean()),
            beyond=float(novelty.beyond.mean()),
            flagged_tokens=float(flagged_n.mean()),
            passage=passage,
            p_n=p_n,
            flagged_n=flagged_n,
        )


def _evidence(dictionary: StoredDictionary) -> str:
    return dictionary.annotation.record.files["means.safetensors"].sha256


def _check_enough(name: str, documents: int, ranked: int, rate: float) -> None:
    """Enough documents to rank new ones among, and some to set the scale."""
    needed = max(_LEARN, _LEARN * (ranked - 1) // (_LEARN - 1) + 1)
    if documents < needed:
        raise EPError(
            f"{name} has {documents:,} documents with text within the token budget; to keep false alarms at {rate:g} "
            f"takes at least {needed:,}, a row or a file each. Give more text, raise --max-tokens, or ask for a higher "
            "rate"
        )


def _check_new(dictionary: StoredDictionary, name: str, read: Iterable[Passage]) -> None:
    """Refuse text the dictionary was built from: there, activations are exemplars themselves.

    In text of the build, one token in (activations / regions) founded a region. In other text next to none has been
    read before together with all that precedes it.
    """
    founding = dictionary.regions["window_tokens"].to_pylist()
    known = {np.asarray(ids, np.int32).tobytes() for ids in founding if len(ids) >= _SAME_PREFIX}
    met, tokens = set(), 0
    for passage in read:
        tokens += len(passage.at_n)
        for row in np.flatnonzero(passage.novelty.distance < _SAME):
            met |= {passage.prefix(int(row)).tobytes()} & known
    expected = tokens * len(known) / max(1, dictionary.config.build.n_activations)
    if len(met) > max(3, 0.2 * expected):
        raise EPError(
            f"{name} holds text that {dictionary.path} was built from ({len(met):,} of its exemplars stand in it); "
            "false alarms would be more than asked for. Give ordinary text that was kept apart"
        )
