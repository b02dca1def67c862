"""The dictionaries on show, by key: opened when first asked for, and what relates them to each other."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float32, Int64

from ...compare.progress import ignore
from ...compare.tree import Tree
from ...errors import EPError
from ...folder.annotation import FOLDER, Annotation
from ...folder.dictionary import StoredDictionary, load
from ...folder.labels import FILE as LABELS
from ...folder.labels import Label, Labels
from ...folder.listing import find, read_config
from ...folder.schema import Config
from ...folder.token_labels import automatic
from ...models.identity import same_model
from .computed import grown

_OPENED = 16  # dictionaries that are opened before they are asked for, each some tens of MB


@dataclass(frozen=True)
class Entry:
    """A dictionary's place in the library; config is None, and error says why, where config.json is damaged."""

    key: str
    build_folder: Path
    folder: Path
    config: Config | None
    error: str | None

    @property
    def build(self) -> str:
        """Name of the build's folder."""
        return self.build_folder.name

    @property
    def annotated(self) -> bool:
        """Whether there is evidence for its regions."""
        return (self.folder / FOLDER).is_dir()


class NotFound(EPError):
    """No dictionary has this key, or no region this number."""


class View:
    """An opened dictionary: arrays over its regions, ready to answer.

    annotation is None, and not_annotated says why and what to do, where there is none or it is damaged.
    """

    def __init__(self, entry: Entry):
        self.key, self.entry = entry.key, entry
        self.saw_annotation = entry.annotated
        self.dictionary = load(entry.folder)
        self.tokens: list[str] = self.dictionary.regions["token"].to_pylist()
        self.arrivals_k: Int64[np.ndarray, " k"] = self.dictionary.regions["arrivals"].to_numpy()
        self._labels: tuple[list[Label], str | None] | None = None
        self._labels_stamp: int | None = None
        self._labels_lock = threading.Lock()
        self.annotation: Annotation | None = None
        self.not_annotated: str | None = None
        try:
            self.annotation = _opened(self.dictionary)
        except EPError as error:
            self.not_annotated = str(error)

    def labels(self) -> tuple[list[Label], str | None]:
        """The best label of every region; where labels.json is damaged, those made from exemplars and what is wrong.

        Read anew when the file has changed, as others may label while we look.
        """
        with self._labels_lock:
            stamp = _stamp(self.entry.folder / LABELS)
            if self._labels is None or self._labels_stamp != stamp:
                self._labels, self._labels_stamp = self._read_labels(), stamp
            return self._labels

    def set_label(self, region: int, text: str) -> None:
        """Save a label given by hand; empty text removes it. Raises EPError, ResourceError as `Labels.set` does."""
        with self._labels_lock:
            stored = Labels.read(self.dictionary)
            stored.set(region, text)
            if self._labels is not None and self._labels[1] is None:
                self._labels[0][region] = stored.best(region)
                self._labels_stamp = _stamp(self.entry.folder / LABELS)

    def _read_labels(self) -> tuple[list[Label], str | None]:
        try:
            return Labels.read(self.dictionary).every(), None
        except EPError as error:
            rows = self.dictionary.regions.select(["token_id", "token", "context", "document"]).to_pylist()
            texts = [automatic(None, row) for row in rows]
            return [Label(region=i, text=text, source="tokens") for i, text in enumerate(texts)], str(error)

    @cached_property
    def exemplars_kd(self) -> Float32[np.ndarray, "k d"]:
        return self.dictionary.exemplars.numpy()

    @cached_property
    def sizes_k(self) -> Int64[np.ndarray, " k"]:
        """Members, or arrivals as long as there is no annotation."""
        return self.arrivals_k if self.annotation is None else self.annotation.regions["members"].to_numpy()

    @cached_property
    def top_tokens(self) -> list[str]:
        """Frequent tokens of each region, a line each."""
        return self._joined("top_tokens")

    @cached_property
    def lens(self) -> list[str]:
        """Tokens that each exemplar promotes, a line each."""
        return self._joined("lens_top")

    def _joined(self, column: str) -> list[str]:
        if self.annotation is None:
            return [""] * self.dictionary.k
        lists = self.annotation.regions[column].combine_chunks()
        tokens = pa.ListArray.from_arrays(lists.offsets, lists.values.field("token"))
        return pc.call_function("binary_join", [tokens, "\n"]).to_pylist()

    def check_region(self, region: int) -> int:
        """The number, if a region has it; NotFound otherwise."""
        try:
            return self.dictionary.check_region(region)
        except EPError as error:
            raise NotFound(str(error)) from error


def _stamp(path: Path) -> int | None:
    """Changes whenever the file does; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _opened(dictionary: StoredDictionary) -> Annotation:
    """The annotation with all its files checked, so that later requests cannot fail on them."""
    annotation = dictionary.annotation
    _ = annotation.regions, annotation.histogram, annotation.examples(0)
    return annotation


class Library:
    """All dictionaries of some folders. Keys follow from sites and percentiles, so links survive a restart.

    Raises EPError if a folder holds no dictionary.
    """

    def __init__(self, roots: Sequence[Path]):
        self.entries: dict[str, Entry] = {}
        self._views: dict[str, View] = {}
        self._trees: dict[tuple[str, ...], Tree] = {}
        self._lock = threading.Lock()
        for root in roots:
            folders = find(root) if root.is_dir() else []
            if not folders:
                load(root)  # says what is wrong
            for folder in folders:
                self._add(root, folder)

    def _add(self, root: Path, folder: Path) -> None:
        base = re.sub(r"[^\w.]+", "-", f"{folder.resolve().parent.name}-{folder.resolve().name}")
        key, count = base, 1
        while key in self.entries:
            count += 1
            key = f"{base}-{count}"
        config, error = None, None
        try:
            config = read_config(folder)
        except EPError as problem:
            error = str(problem)
        build = root if root != folder else root.resolve().parents[1]
        self.entries[key] = Entry(key, build.resolve(), folder, config, error)

    def open(self, key: str) -> View:
        """The dictionary of this key. Raises NotFound, or DataError if it is damaged."""
        if key not in self.entries:
            raise NotFound(f"no dictionary {key!r} here; there are {', '.join(self.entries)}")
        entry = self.entries[key]
        if not self._is_current(entry):
            with self._lock:
                if not self._is_current(entry):
                    self._views[key] = View(entry)
        return self._views[key]

    def _is_current(self, entry: Entry) -> bool:
        view = self._views.get(entry.key)
        return view is not None and view.saw_annotation == entry.annotated

    def open_all(self) -> None:
        """Open dictionaries that can be, so that the first request for them is quick; of many, the first."""
        for key in islice(self.entries, _OPENED):
            with contextlib.suppress(EPError):  # told to those who ask for it
                view = self.open(key)
                _ = view.labels(), view.top_tokens, view.lens

    def beside(self, view: View) -> Iterator[tuple[Entry, Config]]:
        """Dictionaries of the same model in its build, not opened; not those whose configuration is damaged."""
        for entry in self.entries.values():
            config = entry.config if entry.build_folder == view.entry.build_folder else None
            if config is not None and same_model(config.model, view.dictionary.config.model):
                yield entry, config

    def mates(self, view: View, site: str | None = None) -> Iterator[View]:
        """The same, of one site if it is named, opened; not those that are damaged."""
        for entry, config in self.beside(view):
            if site in (None, config.site.name):
                with contextlib.suppress(EPError):  # told on its own page
                    yield self.open(entry.key)

    def siblings(self, view: View) -> Iterator[View]:
        """The same site at other percentiles, finest first."""
        return (mate for mate in self.mates(view, view.dictionary.config.site.name) if mate.key != view.key)

    def others(self, view: View) -> Iterator[View]:
        """Dictionaries of the same width in other builds, those of the same site and percentile first."""

        def unlike(entry: Entry) -> tuple[bool, bool]:
            here, there = view.dictionary.config, entry.config
            assert there is not None
            return here.site.name != there.site.name, here.calibration.percentile != there.calibration.percentile

        others = [
            entry
            for entry in self.entries.values()
            if entry.build_folder != view.entry.build_folder
            and entry.config is not None
            and entry.config.width == view.dictionary.d_model
            and entry.config.build.k
        ]
        for entry in sorted(others, key=unlike):
            with contextlib.suppress(EPError):  # told on its own page
                yield self.open(entry.key)

    def tree(self, view: View) -> tuple[list[View], Tree | None]:
        """The levels of a dictionary's site in its build, coarsest first, as a tree; None where it stands alone.

        Dictionaries around another centre, which no one stream gave, are left out.
        """
        levels = [view, *(v for v in self.siblings(view) if torch.equal(v.dictionary.center, view.dictionary.center))]
        levels.sort(key=lambda v: (-v.dictionary.threshold, v.key))
        if len(levels) < 2:
            return levels, None
        key = tuple(level.key for level in levels)
        if key not in self._trees:
            self._trees[key] = grown([level.dictionary for level in levels], ignore)[0]
        return levels, self._trees[key]
