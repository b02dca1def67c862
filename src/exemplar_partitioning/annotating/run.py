"""The annotation: one pass over a text with frozen exemplars, for all dictionaries of a folder at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..activations.given import At
from ..errors import EPError, Interrupted
from ..files import disk_errors, to_json, write_new
from ..folder import annotation as folder
from ..folder.activations import Kept
from ..folder.checkpoints import Checkpoints
from ..folder.dictionary import StoredDictionary, load, versions
from ..folder.group import JOURNAL, beside, discard, finish, move_in
from ..folder.listing import find
from ..models.capture import Extractor
from ..models.load import search_device
from ..models.loaded import LoadedModel
from ..models.sites import resolve_sites
from ..stream import Chunk, Extraction, FromDisk, Here, Progress, ProgressEvent, Stop
from .evidence import ChunkRows, document_names
from .freed_memory import return_freed
from .gather import Gathered
from .options import AnnotateRequest
from .quality import EVALUATED, inequality, quality
from .reader import Reader, device_of, reader_of
from .tables import Tables

_GROUP_BYTES = 1 << 28  # of evidence held at a time
_OF_WIDTH, _OF_REGION = 16, 6144  # bytes of a region's evidence: per number of its mean, and for all else


@dataclass(frozen=True)
class AnnotateEvent(ProgressEvent):
    """News of a running annotation. kind: `start`, `resume`, `progress`, `checkpoint`, `lens` or `done`."""

    prefix: ClassVar[str] = "annotate-"


@dataclass(frozen=True)
class AnnotateJob:
    """What is to be done; the run lets go of each dictionary once it is written.

    kept: activations that need not be extracted.
    """

    path: Path
    dictionaries: list[StoredDictionary]
    reader: Reader
    request: AnnotateRequest
    kept: Kept | None = None

    @property
    def work(self) -> Path:
        """Where it is kept how far the job is."""
        return self.path / ".annotate"

    @property
    def sites(self) -> list[str]:
        """Names, each once."""
        return list(dict.fromkeys(dictionary.config.site.name for dictionary in self.dictionaries))


Gathering = Callable[[AnnotateJob, Iterator[Chunk], Gathered, Progress], Generator[Sequence[Chunk]]]
"""Who gathers: has chunks read and yields them once their evidence is in. Raises Stop where it has none half in."""


def gather_here(
    job: AnnotateJob, chunks: Iterator[Chunk], gathered: Gathered, progress: Progress
) -> Generator[Sequence[Chunk]]:
    """This process takes a chunk, then the next."""
    if job.reader.given:
        extraction: Extraction = At(job.sites, progress)
    else:
        sites = resolve_sites(job.sites, job.reader.model.architecture)
        extraction = Here(Extractor(job.reader.model.model, sites), progress)
        if job.kept is not None:
            extraction = FromDisk(job.kept, job.sites, extraction, progress)
    for chunk, activations in extraction(_after_trim(chunks)):
        gathered.add(ChunkRows(chunk), activations)
        yield [chunk]


def _after_trim(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    for chunk in chunks:
        return_freed()
        yield chunk


def annotate(
    path: str | Path, text: Any, request: AnnotateRequest, gathering: Gathering = gather_here
) -> list[StoredDictionary]:
    """Annotate all dictionaries of a folder; `api.annotate` tells of all that can be asked.

    Args:
        path: folder of a build, or of one dictionary.
        text: what to read, as `documents_of` takes it; None for what the dictionaries were built from.
        request: all else.
        gathering: who does the work.

    Returns:
        The dictionaries; their `.annotation` is there now.
    """
    root, core_device = Path(path), search_device(device_of(request.model, request.device))
    folders = (find(root) if root.is_dir() else []) or [root]  # loading it says what is wrong
    dictionaries = _open(root, folders, core_device)
    reader = reader_of(dictionaries, text, request)
    kept = None if reader.given else _kept(root, dictionaries, reader.model)
    job = AnnotateJob(root, dictionaries, reader, request, kept)
    with _locked(job):
        again = kept is not None and not isinstance(text, Iterator)  # which can be read but once
        groups = list(enumerate(_groups(dictionaries) if again else [list(dictionaries)]))
        dictionaries.clear()  # each is let go of once it is written
        run: AnnotateRun | None = None
        while groups:
            number, group = groups.pop(0)
            run = AnnotateRun(replace(job, dictionaries=group), number)
            run.run(gathering)
        assert run is not None
        move_in(job.work / JOURNAL, root, [each / folder.FOLDER for each in folders])
        if kept is not None:
            kept.used()
        shutil.rmtree(job.work, ignore_errors=True)
        run.progress.report("done")
    return [load(each, device=core_device) for each in folders]


def _groups(dictionaries: list[StoredDictionary]) -> Iterator[list[StoredDictionary]]:
    """Dictionaries of some sites each, whose evidence fits into memory together, for activations that are at hand."""
    group, held = list[StoredDictionary](), 0
    for _, here in groupby(dictionaries, lambda dictionary: dictionary.config.site.name):
        at_site = list(here)
        size = sum(d.k * (_OF_WIDTH * d.d_model + _OF_REGION) for d in at_site)
        if group and held + size > _GROUP_BYTES:
            yield group
            group, held = [], 0
        group, held = group + at_site, held + size
    yield group


@contextmanager
def _locked(job: AnnotateJob) -> Iterator[None]:
    """Hold the folder, and see whether what was begun in it is this very annotation; else it is begun anew."""
    with disk_errors(job.path):
        job.work.mkdir(exist_ok=True)
    try:
        held = FileLock(job.work / "lock").acquire(timeout=0)
    except Timeout:
        raise EPError(f"another process is annotating {job.path}; wait for it") from None
    with held:
        finish(job.work / JOURNAL, job.path)
        _agree(job)
        yield


def _agree(job: AnnotateJob) -> None:
    settings = {
        "dictionaries": [dictionary.content_id for dictionary in job.dictionaries],
        "text": job.reader.name,
        "max_tokens": job.request.max_tokens,
        "replace": job.request.replace,
    }
    file, places = job.work / "settings.json", [d.path / folder.FOLDER for d in job.dictionaries]
    if file.is_file() and file.read_bytes() == to_json(settings):
        return
    if (old := [place for place in places if place.exists()]) and not job.request.replace:
        shutil.rmtree(job.work, ignore_errors=True)
        raise EPError(f"{old[0].parent} is annotated already; to gather new evidence in its place, add --replace")
    _forget(job.work)
    for place in places:
        discard(place)
    write_new(file, to_json(settings))


def _forget(work: Path) -> None:
    for name in work.glob("checkpoint-*"):
        shutil.rmtree(name)


def _open(path: Path, folders: list[Path], device: str) -> list[StoredDictionary]:
    dictionaries = [load(each, device=device) for each in folders]
    first = dictionaries[0].config
    for other in (dictionary.config for dictionary in dictionaries[1:]):
        if other.model != first.model or other.text.windowing != first.text.windowing:
            raise EPError(
                f"{path} holds dictionaries of different models or windows of text ({first.model.id}, "
                f"{first.text.windowing}; {other.model.id}, {other.text.windowing}); annotate them one by one"
            )
    return dictionaries


def _kept(path: Path, dictionaries: list[StoredDictionary], loaded: LoadedModel) -> Kept | None:
    """Activations that a build left, for all of the dictionaries."""
    sites = {dictionary.config.site.name for dictionary in dictionaries}
    kept = Kept.beside(path)
    return kept if kept is not None and kept.serves(loaded.info.fingerprint, sites) else None


class AnnotateRun:
    """A group's annotation on its way: evidence that is saved now and then, and written when all of it is there."""

    def __init__(self, job: AnnotateJob, group: int = 0):
        self.job, self.dictionaries, self.group = job, job.dictionaries, group
        self.checkpoints = Checkpoints(job.work)
        pairs = [(d.config.site.name, d) for d in self.dictionaries]
        self.gathered = Gathered(pairs, job.reader.texts.vocab_size)
        self.names: dict[int, str] = {}  # documents that examples come from, by hash
        self.documents: set[int] = set()
        self.done, self.digest = 0, ""  # chunks; of the stream up to the last of them
        self.progress = Progress(self._report, job.request.stop, job.request.checkpoint_seconds)

    def _report(self, kind: str, tokens: int, rate: float) -> None:
        if self.job.request.on_event is not None:
            self.job.request.on_event(AnnotateEvent(kind, tokens, self.job.request.max_tokens, rate))

    def run(self, gathering: Gathering) -> None:
        """Gather, then write everything beside its place, unless an earlier process did."""
        if all(beside(dictionary.path / folder.FOLDER).exists() for dictionary in self.dictionaries):
            return
        self._restore()
        self.progress.report("resume" if self.done else "start")
        try:
            with closing(gathering(self.job, self._new_chunks(), self.gathered, self.progress)) as gathered_chunks:
                for chunks in gathered_chunks:
                    self._count(chunks)
        except Stop:
            self._save()
            raise Interrupted(
                f"stopped after {self.progress.tokens:,} tokens; repeat the command to go on from the checkpoint in "
                f"{self.job.work}"
            ) from None
        if not self.done:
            raise EPError(
                f"{self.job.reader.name} gave no text to read within --max-tokens {self.job.request.max_tokens:,}"
            )
        self._save()
        self.progress.report("lens")
        samples = {name: torch.from_numpy(sample.ordered) for name, sample in self.gathered.samples.items()}
        self.gathered.samples.clear()
        for tables in self._tables():
            self._write(tables, samples)
        _forget(self.job.work)

    def _new_chunks(self) -> Iterator[Chunk]:
        """Chunks after those that an earlier process took; raises EPError if these are of another text."""
        job, known = self.job, self.done
        for number, chunk in enumerate(job.reader.chunks(job.request.max_tokens), 1):
            if number > known:
                yield chunk
            elif number == known and chunk.digest != self.digest:
                raise EPError(
                    f"{job.reader.name} is not the text this annotation began with: its first "
                    f"{chunk.tokens_read:,} tokens are others. Restore it, or remove {job.work} to start again"
                )

    def _count(self, chunks: Sequence[Chunk]) -> None:
        """Count chunks whose evidence is in, and save if it is time."""
        for chunk in chunks:
            self.done, self.digest, self.progress.tokens = self.done + 1, chunk.digest, chunk.tokens_read
            names = document_names(chunk)
            self.names |= names
            self.documents |= names.keys()
        self.progress.check()
        if self.progress.due:
            self._save()

    def _save(self) -> None:
        arrays = {"documents": np.array(sorted(self.documents), np.uint64), **self.gathered.arrays()}
        used = self.gathered.documents
        self.names = {key: name for key, name in self.names.items() if key in used}
        record = {"group": self.group, "done": self.done, "tokens": self.progress.tokens, "digest": self.digest}
        self.checkpoints.save(arrays, record | {"names": sorted(self.names.items())})
        self.progress.saved()

    def _restore(self) -> None:
        if (kept := self.checkpoints.load()) is None:
            return
        arrays, record = kept
        if record.get("group", 0) != self.group:  # of one that was written before this process began
            return
        try:
            self.gathered.restore(arrays)
            self.done, self.progress.tokens, self.digest = record["done"], record["tokens"], record["digest"]
            self.names = {int(key): name for key, name in record["names"]}
            self.documents = set(arrays["documents"].tolist())
        except (ValueError, KeyError, TypeError) as error:
            raise self.checkpoints.damaged(error) from error

    def _tables(self) -> Iterator[Tables]:
        """What was gathered, held ever less of: the sums go first, then each dictionary once it is written."""
        smallest_last = np.argsort([-dictionary.k for dictionary in self.dictionaries])
        pairs = [(self.dictionaries[i], self.gathered.evidence[i][1]) for i in smallest_last]
        self.dictionaries.clear()
        self.gathered.evidence.clear()
        reader = self.job.reader
        tables = [Tables(reader.loaded, reader.texts, *pair, self.names) for pair in pairs]
        del pairs
        while tables:
            yield tables.pop()

    def _write(self, tables: Tables, samples: Mapping[str, Tensor]) -> None:
        """Write an annotation beside its place, unless an earlier try did."""
        dictionary, evidence, size_k = tables.dictionary, tables.evidence, tables.members
        place = dictionary.path / folder.FOLDER
        if beside(place).exists():
            return
        if not size_k.sum():
            raise EPError(
                f"none of the {self.progress.tokens:,} tokens of {self.job.reader.name} has an activation with a "
                "direction"
            )
        gini, effective = inequality(size_k)
        evaluated, drawn = _split(samples[dictionary.config.site.name], dictionary.k)
        text, model = dictionary.config.text, dictionary.config.model.fingerprint
        record = folder.AnnotationRecord(
            schema_version="1.0" if model is not None and text.context_size is not None else "1.1",
            dictionary=dictionary.content_id,
            model=model,
            text=text.model_copy(update={"source": self.job.reader.name, "digest": self.digest}),
            max_tokens=self.job.request.max_tokens,
            n_tokens=self.progress.tokens,
            n_documents=len(self.documents),
            n_activations=int(size_k.sum()),
            skipped=tables.skipped,
            coverage=float(evidence.within_k.sum() / size_k.sum()),
            empty=int((size_k == 0).sum()),
            gini=gini,
            effective=effective,
            quality=quality(dictionary, evaluated, drawn),
            versions=versions(),
        )
        return_freed()
        folder.write(
            beside(place),
            record,
            tables.regions,
            tables.examples(),
            mean_directions=tables.mean_directions,
            histogram=evidence.histogram_kb,
        )


def _split(sample_nd: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows to evaluate on, and others to draw k from; of a small sample, the same rows may serve both."""
    drawn = sample_nd[-k:] if len(sample_nd) < EVALUATED + k else sample_nd[EVALUATED : EVALUATED + k]
    return sample_nd[:EVALUATED], drawn
