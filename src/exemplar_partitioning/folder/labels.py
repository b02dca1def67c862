"""labels.json beside a dictionary's config.json (docs/format.md): labels outlive annotations.

Only what people and models said is stored. Labels by contrast with other regions, and those from tokens alone, follow
from the annotation and are made on demand. Beside each stands how well it tells (`folder.concepts`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from ..errors import DataError, EPError, ResourceError
from ..files import alone_in, clear_partials, sealed, unsealed, write_new
from .listing import OnDisk
from .schema import validated
from .token_labels import automatic

FILE = "labels.json"
LIMIT = 200  # characters of a label
MADE = ("contrast", "tokens")
"""Sources of labels that are made here, from the annotation alone, and not stored."""

_EVIDENCE = ["members", "top_tokens", "before_tokens", "lens_top", "mean_lens_top"]
_EXEMPLAR = ["token_id", "token", "context", "document"]


class Label(BaseModel):
    """What a region is called, and who says so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: int = Field(ge=0)
    text: str = Field(min_length=1, max_length=LIMIT)
    source: str = Field(
        pattern=r"^(hand|contrast|tokens|(endpoint|local):.+)$",
        description="hand; endpoint:<model>; local:<model>; contrast (with other regions) and tokens (frequent ones "
        "and lens) are made on demand and never stored",
    )
    prompt: str | None = Field(
        default=None, description="of a model's: sha256 of model and prompt, so that nothing is asked twice"
    )
    score: float | None = Field(
        default=None, exclude=True, description="how well it tells held-out members from others; never stored"
    )

    @property
    def order(self) -> tuple[int, int, str]:
        """By region; in it by hand, then from models, then by contrast, then from tokens."""
        kinds = ("hand", "endpoint", "local", "contrast", "tokens")
        return self.region, kinds.index(self.source.partition(":")[0]), self.source


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["exemplar-partitioning/labels"] = "exemplar-partitioning/labels"
    schema_version: Literal["1.0", "1.1"] = Field("1.0", description="the lowest that can say all this")
    dictionary: str = Field(description="content id of the dictionary: sha256 of its config.json")
    labels: list[Label]


def detection(score: float | None) -> str:
    """What is said of a label's score behind its source."""
    return "" if score is None else f", detection {score:.2f}"


class Labels:
    """The labels of a dictionary's regions as they were when read; `set` and `add` read again before they write.

    So several processes may label at once: what one says about a region takes the place of what the same
    source said before, and of nothing else.
    """

    def __init__(self, dictionary: OnDisk):
        self.dictionary, self.path = dictionary, dictionary.path / FILE
        self._stored = self._read()

    @classmethod
    def read(cls, dictionary: OnDisk) -> Labels:
        """Labels of a dictionary; none stored is fine. DataError if the file is damaged or another dictionary's."""
        return cls(dictionary)

    def best(self, region: int) -> Label:
        """The label to show: by hand before a model's before the one by contrast before that from tokens."""
        return self.some([self.dictionary.check_region(region)])[0]

    def all(self, region: int) -> list[Label]:
        """Every label of a region with its score, best first; the last is always the one from tokens."""
        self.dictionary.check_region(region)
        stored = sorted((label for label in self._stored.values() if label.region == region), key=lambda x: x.order)
        by_contrast = self._by_contrast(region)
        labels = [*stored, *([by_contrast] if by_contrast else []), self._automatic([region])[0]]
        return [self._scored(label) for label in labels]

    def some(self, regions: Sequence[int]) -> list[Label]:
        """The best label of each of some regions with its score, in their order; much faster than one by one."""
        wanted = set(regions)
        stored = [label for label in self._stored.values() if label.region in wanted]
        best = {label.region: label for label in sorted(stored, key=lambda label: label.order, reverse=True)}
        made = {region: label for region in regions if region not in best and (label := self._by_contrast(region))}
        rest = {label.region: label for label in self._automatic(r for r in regions if r not in best and r not in made)}
        return [self._scored((best | made | rest)[int(region)]) for region in regions]

    def every(self) -> list[Label]:
        """The best label of each region, in order."""
        return self.some(range(self.dictionary.k))

    def stored(self) -> list[Label]:
        """Those that people and models gave."""
        return list(self._stored.values())

    def by_hand(self) -> list[Label]:
        """Those that people gave."""
        return [label for label in self._stored.values() if label.source == "hand"]

    def set(self, region: int, text: str) -> None:
        """Save a label given by hand, on one line; empty text removes the one there was.

        Raises EPError if it is longer than LIMIT, ResourceError if the folder cannot be written.
        """
        text = one_line(text)
        if len(text) > LIMIT:
            raise EPError(f"a label has at most {LIMIT} characters; this one has {len(text):,}: shorten it")
        region = self.dictionary.check_region(region)
        if text:
            self.add([Label(region=region, text=text, source="hand")])
        else:
            self._change([], remove=(region, "hand"))

    def add(self, labels: Iterable[Label]) -> None:
        """Save labels, each in place of its source's previous one for the region."""
        self._change(labels)

    def asked(self) -> dict[tuple[int, str], str | None]:
        """(region, source) to the hash of the prompt that a model's stored label answers."""
        return {key: label.prompt for key, label in self._stored.items() if label.source != "hand"}

    def _by_contrast(self, region: int) -> Label | None:
        text = self.dictionary.annotation.concepts.labels[region] if self.dictionary.annotated else None
        return None if text is None else Label(region=region, text=text[:LIMIT], source="contrast")

    def _scored(self, label: Label) -> Label:
        if not self.dictionary.annotated:
            return label
        concepts = self.dictionary.annotation.concepts
        score = (
            concepts.scores[label.region] if label.source == "contrast" else concepts.score(label.region, label.text)
        )
        return label.model_copy(update={"score": score})

    def _automatic(self, regions: Iterable[int]) -> list[Label]:
        chosen = pa.array(regions, pa.int64())
        exemplars = self.dictionary.regions.select(_EXEMPLAR).take(chosen).to_pylist()
        evidence, common = [None] * len(exemplars), frozenset[str]()
        if self.dictionary.annotated:
            evidence = self.dictionary.annotation.regions.select(_EVIDENCE).take(chosen).to_pylist()
            common = self.dictionary.annotation.interest.common
        return [
            Label(region=region, text=automatic(row, exemplar, common), source="tokens")
            for region, row, exemplar in zip(chosen.to_pylist(), evidence, exemplars, strict=True)
        ]

    def _change(self, labels: Iterable[Label], remove: tuple[int, str] | None = None) -> None:
        try:
            with alone_in(self.path.parent):
                clear_partials(self.path.parent)
                self._stored = self._read() | {(label.region, label.source): label for label in labels}
                if remove is not None:
                    self._stored.pop(remove, None)
                self._write()
        except (OSError, ResourceError) as error:
            reason = error if isinstance(error, OSError) else error.__cause__
            if isinstance(reason, OSError) and reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise ResourceError(
                    f"{self.path.parent} is read-only ({reason.strerror}): labels are kept in {FILE} inside the "
                    "dictionary's folder; make it writable, or copy the dictionary to where you may write"
                ) from error
            raise

    def _write(self) -> None:
        labels = sorted(self._stored.values(), key=lambda label: label.order)
        version = "1.1" if any(label.source.startswith("local:") for label in labels) else "1.0"
        file = _File(schema_version=version, dictionary=self.dictionary.content_id, labels=labels)
        write_new(self.path, sealed(file.model_dump(mode="json", exclude_none=True)))

    def _read(self) -> dict[tuple[int, str], Label]:
        if not self.path.exists():
            return {}
        value = unsealed(self.path)
        if value.get("format") != "exemplar-partitioning/labels":
            raise DataError(f"{self.path} does not hold labels of this package")
        file = validated(_File, value, self.path)
        if file.dictionary != (mine := self.dictionary.content_id):
            raise DataError(
                f"{self.path} labels the regions of the dictionary {file.dictionary[:12]}, but this is {mine[:12]}; "
                "move it to that one's folder"
            )
        for label in file.labels:
            if label.region >= self.dictionary.k:
                raise DataError(f"{self.path} labels region {label.region}; there are {self.dictionary.k} regions")
            if label.source in MADE or len(label.text.splitlines()) > 1:
                raise DataError(f"{self.path} is damaged: the label of region {label.region} is none that is stored")
        stored = {(label.region, label.source): label for label in file.labels}
        if len(stored) < len(file.labels):
            raise DataError(f"{self.path} is damaged: a region has two labels of one source")
        return stored


def one_line(text: str) -> str:
    """Text without line breaks, runs of space, or what UTF-8 cannot hold."""
    return " ".join(text.encode(errors="replace").decode().split())
