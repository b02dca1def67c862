"""The annotation: one pass over a text with frozen exemplars, for all dictionaries of a folder at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..demo.corpus import CORPUS_NAME, documents_of
from ..errors import EPError, Interrupted
from ..files import disk_errors, write_new
from ..folder import annotation as folder
from ..folder.activations import Kept
from ..folder.checkpoints import Checkpoints
from ..folder.dictionary import StoredDictionary, find, load, to_json, versions
from ..folder.group import JOURNAL, beside, discard, finish, move_in
from ..models.capture import Extractor
from ..models.load import LoadedModel, load_model, pick_device, search_device
from ..models.sites import resolve_sites
from ..reading import check_model, model_of
from ..stream import Chunk, Event, Extraction, FromDisk, Here, Progress, Stop, text_chunks
from ..text.documents import HUB_PREFIX, DocumentSource
from .evidence import ChunkRows, document_names
from .gather import Gathered
from .memory import return_freed
from .options import AnnotateRequest
from .quality import EVALUATED, inequality, quality
from .tables import Tables, TokenTexts


@dataclass(frozen=True)
class AnnotateEvent(Event):
    """News of a running annotation. kind: `start`, `resume`, `progress`, `checkpoint`, `lens` or `done`."""

    prefix: ClassVar[str] = "annotate-"


@dataclass(frozen=True)
class Job:
    """What is to be done; the run lets go of each dictionary once it is written.

    kept: activations that need not be extracted.
    """

    path: Path
    dictionaries: list[StoredDictionary]
    loaded: LoadedModel
    source: DocumentSource
    request: AnnotateRequest
    kept: Kept | None = None

    @property
    def sites(self) -> list[str]:
        """Names, each once."""
        return list(dict.fromkeys(dictionary.config.site.name for dictionary in self.dictionaries))


Gathering = Callable[[Job, Iterator[Chunk], Gathered, Progress], Generator[Sequence[Chunk]]]
"""Who gathers: has chunks read and yields them once their evidence is in. Raises Stop where it has none half in."""


def gather_here(
    job: Job, chunks: Iterator[Chunk], gathered: Gathered, progress: Progress
) -> Generator[Sequence[Chunk]]:
    """This process takes a chunk, then the next."""
    sites = resolve_sites(job.sites, job.loaded.architecture)
    extraction: Extraction = Here(Extractor(job.loaded.model, sites), progress)
    if job.kept is not None:
        extraction = FromDisk(job.kept, extraction, progress)
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
    root, core_device = Path(path), search_device(_device(request.model, request.device))
    folders = (find(root) if root.is_dir() else []) or [root]  # loading it says what is wrong
    dictionaries = _open(root, folders, core_device)
    loaded = _loaded(dictionaries, request.model, request.device)
    source = documents_of(_source(dictionaries[0], text), field=request.field)
    run = Run(Job(root, dictionaries, loaded, source, request, _kept(root, dictionaries, loaded)))
    del dictionaries  # the run lets go of each once it is written
    with run.locked():
        run.run(gathering)
    return [load(each, device=core_device) for each in folders]


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


def _device(model: Any, device: str) -> torch.device:
    """Where the model is, or will be."""
    if model is None or isinstance(model, str):
        return pick_device(device)
    return (model.model if isinstance(model, LoadedModel) else model).device


def _loaded(dictionaries: list[StoredDictionary], model: Any, device: str) -> LoadedModel:
    if model is None or isinstance(model, str):
        loaded = model_of(dictionaries[0], model, device=device)
    else:
        loaded = model if isinstance(model, LoadedModel) else load_model(model)
    for dictionary in dictionaries:
        check_model(dictionary, loaded)
    return loaded


def _source(dictionary: StoredDictionary, text: Any) -> Any:
    if text is not None:
        return text
    name = dictionary.config.text.source
    if name == CORPUS_NAME:
        return None
    if name.startswith(HUB_PREFIX):
        return name
    raise EPError(
        f"{dictionary.path} was built from {name}, which is not here to be found by name; say where text is: "
        f"ep annotate {dictionary.path} TEXT"
    )


class Run:
    """An annotation on its way: evidence that is saved now and then, and written when all of it is there."""

    def __init__(self, job: Job):
        self.job, self.dictionaries = job, job.dictionaries
        self.work = job.path / ".annotate"
        self.journal = self.work / JOURNAL
        self.checkpoints = Checkpoints(self.work)
        vocab = job.loaded.architecture.vocab_size
        self.gathered = Gathered([(d.config.site.name, d) for d in self.dictionaries], vocab)
        self.texts = TokenTexts(job.loaded.tokenizer, vocab)
        self.names: dict[int, str] = {}  # documents that examples come from, by hash
        self.documents: set[int] = set()
        self.done, self.digest = 0, ""  # chunks; of the stream up to the last of them
        self.progress = Progress(self._report, job.request.stop, job.request.checkpoint_seconds)

    def _report(self, kind: str, tokens: int, rate: float) -> None:
        if self.job.request.on_event is not None:
            self.job.request.on_event(AnnotateEvent(kind, tokens, self.job.request.max_tokens, rate))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, and see whether what was begun in it is this very annotation; else it is begun anew."""
        with disk_errors(self.job.path):
            self.work.mkdir(exist_ok=True)
        try:
            held = FileLock(self.work / "lock").acquire(timeout=0)
        except Timeout:
            raise EPError(f"another process is annotating {self.job.path}; wait for it") from None
        with held:
            finish(self.journal, self.job.path)
            self._agree()
            yield

    def _agree(self) -> None:
        settings = {
            "dictionaries": [dictionary.content_id for dictionary in self.dictionaries],
            "text": self.job.source.name,
            "max_tokens": self.job.request.max_tokens,
            "replace": self.job.request.replace,
        }
        file, places = self.work / "settings.json", [d.path / folder.FOLDER for d in self.dictionaries]
        if file.is_file() and file.read_bytes() == to_json(settings):
            return
        if (old := [place for place in places if place.exists()]) and not self.job.request.replace:
            shutil.rmtree(self.work, ignore_errors=True)
            raise EPError(f"{old[0].parent} is annotated already; to gather new evidence in its place, add --replace")
        for name in self.work.glob("checkpoint-*"):
            shutil.rmtree(name)
        for place in places:
            discard(place)
        write_new(file, to_json(settings))

    def run(self, gathering: Gathering) -> None:
        """Gather, then write everything, which appears together."""
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
                f"{self.work}"
            ) from None
        if not self.done:
            raise EPError(
                f"{self.job.source.name} gave no text to read within --max-tokens {self.job.request.max_tokens:,}"
            )
        self._save()
        self.progress.report("lens")
        places = [dictionary.path / folder.FOLDER for dictionary in self.dictionaries]
        samples = {name: torch.from_numpy(sample.ordered) for name, sample in self.gathered.samples.items()}
        self.gathered.samples.clear()
        for tables in self._tables():
            self._write(tables, samples)
        move_in(self.journal, self.job.path, places)
        if self.job.kept is not None:
            self.job.kept.used()
        shutil.rmtree(self.work, ignore_errors=True)
        self.progress.report("done")

    def _new_chunks(self) -> Iterator[Chunk]:
        """Chunks after those that an earlier process took; raises EPError if these are of another text."""
        job, windowing, known = self.job, self.dictionaries[0].config.text.windowing, self.done
        stream = text_chunks(job.source, job.loaded, windowing, job.request.max_tokens)
        for number, chunk in enumerate(stream, 1):
            if number > known:
                yield chunk
            elif number == known and chunk.digest != self.digest:
                raise EPError(
                    f"{job.source.name} is not the text this annotation began with: its first "
                    f"{chunk.tokens_read:,} tokens are others. Restore it, or remove {self.work} to start again"
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
        record = {"done": self.done, "tokens": self.progress.tokens, "digest": self.digest}
        self.checkpoints.save(arrays, record | {"names": sorted(self.names.items())})
        self.progress.saved()

    def _restore(self) -> None:
        if (kept := self.checkpoints.load()) is None:
            return
        arrays, record = kept
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
        tables = [Tables(self.job.loaded, self.texts, *pair, self.names) for pair in pairs]
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
                f"none of the {self.progress.tokens:,} tokens of {self.job.source.name} has an activation with a "
                "direction"
            )
        gini, effective = inequality(size_k)
        evaluated, drawn = _split(samples[dictionary.config.site.name], dictionary.k)
        record = folder.AnnotationRecord(
            dictionary=dictionary.content_id,
            model=self.job.loaded.info.fingerprint,
            text=dictionary.config.text.model_copy(update={"source": self.job.source.name, "digest": self.digest}),
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
