"""The annotation: one pass over a text with frozen exemplars, for all dictionaries of a folder at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..demo.corpus import CORPUS_NAME, documents_of
from ..errors import EPError, Interrupted
from ..files import disk_errors, write_new
from ..folder import annotation as folder
from ..folder.checkpoints import Checkpoints
from ..folder.dictionary import StoredDictionary, find, load, to_json, versions
from ..models.capture import Extractor
from ..models.load import LoadedModel, load_model, pick_device, search_device
from ..models.sites import resolve_sites
from ..reading import check_model, model_of
from ..stream import Chunk, extract, text_chunks
from ..text.documents import HUB_PREFIX, DocumentSource
from .evidence import ChunkRows, document_names
from .gather import Gathered
from .memory import return_freed
from .quality import EVALUATED, inequality, quality
from .tables import Tables, TokenTexts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_TOKENS = 500_000

Kind = Literal["start", "resume", "progress", "checkpoint", "lens", "done"]


@dataclass(frozen=True)
class AnnotateEvent:
    """News of a running annotation.

    tokens: of text read so far; tokens_per_second: since this process began to extract.
    """

    kind: Kind
    tokens: int
    max_tokens: int
    tokens_per_second: float

    def as_json(self) -> dict[str, Any]:
        """The event as plain values, one JSON line of `ep annotate --json`."""
        rate = round(self.tokens_per_second, 1)
        return {
            "event": f"annotate-{self.kind}",
            "tokens": self.tokens,
            "max_tokens": self.max_tokens,
            "tokens_per_second": rate,
        }


def annotate(
    path: str | Path,
    text: str | Path | Iterable[str] | Iterable[Path] | None = None,
    *,
    model: str | PreTrainedModel | LoadedModel | None = None,
    max_tokens: int = MAX_TOKENS,
    field: str = "text",
    device: str = "auto",
    replace: bool = False,
    checkpoint_seconds: float = 60.0,
    on_event: Callable[[AnnotateEvent], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    ray: str | None = None,
    workers: int | None = None,
) -> list[StoredDictionary]:
    """Gather evidence for every region of every dictionary in a folder, in one pass over some text.

    The text is cut into windows as it was for the build. The result does not depend on how the work was
    split: a call that was killed goes on where the last checkpoint was when it is repeated.

    Args:
        path: folder of a build, or of one dictionary.
        text: files, folders, globs, `hf:` dataset or any iterable of strings; None for the text the
            dictionaries were built from, if that is the packaged one or a hub dataset.
        model: where the model is, or the model itself; None for the one the dictionaries name.
        max_tokens: of text to read.
        field: column or key that holds the text.
        replace: put the new evidence in the place of what is there.
        checkpoint_seconds: at least so long between two checkpoints.
        on_event: told how it goes.
        stop: asked between batches; True saves a checkpoint and raises Interrupted.
        ray, workers: gather on a Ray cluster, as `build` does; the result is the same, byte for byte.

    Returns:
        The dictionaries; their `.annotation` is there now.

    Raises:
        EPError: another model, a folder that is annotated already, or text that gives no activations.
    """
    root, core_device = Path(path), search_device(_device(model, device))
    folders = (find(root) if root.is_dir() else []) or [root]  # loading it says what is wrong
    dictionaries = _open(root, folders, core_device)
    loaded = _loaded(dictionaries, model, device)
    source = documents_of(_source(dictionaries[0], text), field=field)
    given = root, dictionaries, loaded, source, max_tokens, replace, on_event or (lambda _: None), stop
    if ray is None:
        run = Run(*given)
    else:
        from ..ray.annotate import RayAnnotation
        from ..ray.team import Ray

        run = RayAnnotation(*given, ray=Ray(ray, workers))
    del given
    del dictionaries  # the run lets go of each once it is written
    with run.locked():
        run.run(checkpoint_seconds)
    return [load(found, device=core_device) for found in folders]


def _open(path: Path, folders: list[Path], device: str) -> list[StoredDictionary]:
    dictionaries = [load(found, device=device) for found in folders]
    first = dictionaries[0].config
    for other in (dictionary.config for dictionary in dictionaries[1:]):
        if other.model != first.model or other.text.windowing != first.text.windowing:
            raise EPError(
                f"{path} holds dictionaries of different models or windows of text ({first.model.id}, "
                f"{first.text.windowing}; {other.model.id}, {other.text.windowing}); annotate them one by one"
            )
    return dictionaries


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
    def __init__(
        self,
        path: Path,
        dictionaries: list[StoredDictionary],
        loaded: LoadedModel,
        source: DocumentSource,
        max_tokens: int,
        replace: bool,
        on_event: Callable[[AnnotateEvent], None],
        stop: Callable[[], bool],
    ):
        self.path, self.dictionaries, self.loaded, self.source = path, dictionaries, loaded, source
        self.max_tokens, self.replace, self.on_event, self.stop = max_tokens, replace, on_event, stop
        self.work = path / ".annotate"
        self.checkpoints = Checkpoints(self.work)
        sites = [dictionary.config.site.name for dictionary in dictionaries]
        self.sites = {name: resolve_sites(name, loaded.architecture)[0] for name in dict.fromkeys(sites)}
        self.extractor = Extractor(loaded.model, list(self.sites.values()))
        vocab = loaded.architecture.vocab_size
        self.gathered = Gathered([(d.config.site.name, d) for d in dictionaries], vocab)
        self.texts = TokenTexts(loaded.tokenizer, vocab)
        self.names: dict[int, str] = {}  # documents that examples come from, by hash
        self.documents: set[int] = set()
        self.done = self.tokens = 0  # chunks, tokens of text
        self.digest = ""
        self.extracted, self.extracting = 0, 0.0  # by this process: tokens, seconds
        self.saved = time.monotonic()

    def _settings(self) -> dict[str, Any]:
        return {
            "dictionaries": [dictionary.content_id for dictionary in self.dictionaries],
            "text": self.source.name,
            "max_tokens": self.max_tokens,
            "replace": self.replace,
        }

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, and see whether what was begun in it is this very annotation; else it is begun anew."""
        with disk_errors(self.path):
            self.work.mkdir(exist_ok=True)
        try:
            held = FileLock(self.work / "lock").acquire(timeout=0)
        except Timeout:
            raise EPError(f"another process is annotating {self.path}; wait for it") from None
        with held:
            self._agree()
            yield

    def _agree(self) -> None:
        settings, file = to_json(self._settings()), self.work / "settings.json"
        if not (file.is_file() and file.read_bytes() == settings):
            there = [d.path for d in self.dictionaries if (d.path / folder.FOLDER).exists()]
            if there and not self.replace:
                shutil.rmtree(self.work, ignore_errors=True)
                raise EPError(f"{there[0]} is annotated already; to gather new evidence in its place, add --replace")
            for name in self.work.glob("checkpoint-*"):
                shutil.rmtree(name)
            write_new(file, settings)

    def run(self, checkpoint_seconds: float) -> None:
        self._restore()
        self._tell("resume" if self.done else "start")
        self._gather(self._new_chunks(), checkpoint_seconds)
        if not self.done:
            raise EPError(f"{self.source.name} gave no text to read within --max-tokens {self.max_tokens:,}")
        self._save()
        self._tell("lens")
        self._write_all()
        shutil.rmtree(self.work, ignore_errors=True)
        self._tell("done")

    def _new_chunks(self) -> Iterator[Chunk]:
        """Chunks after those that an earlier process took; raises EPError if these are of another text."""
        known, windowing = self.done, self.dictionaries[0].config.text
        for index, chunk in enumerate(text_chunks(self.source, self.loaded, windowing, self.max_tokens)):
            if index >= known:
                yield chunk
            elif index == known - 1 and chunk.digest != self.digest:
                raise EPError(
                    f"{self.source.name} is not the text this annotation began with: its first "
                    f"{chunk.tokens_read:,} tokens are others. Restore it, or remove {self.work} to start again"
                )

    def _gather(self, chunks: Iterator[Chunk], checkpoint_seconds: float) -> None:
        """Take all chunks, with a checkpoint now and then."""
        for chunk in chunks:
            self._add(chunk)
            self._count(chunk)
            if self.stop():
                self._interrupted()
            if time.monotonic() - self.saved >= checkpoint_seconds:
                self._save()

    def _count(self, chunk: Chunk) -> None:
        self.done, self.digest, self.tokens = self.done + 1, chunk.digest, chunk.tokens_read

    def _add(self, chunk: Chunk) -> None:
        begun, done, total = time.monotonic(), 0, sum(len(window.ids) for window in chunk.windows)

        def on_batch(ids: int) -> None:
            nonlocal done
            done += ids
            self._tell("progress", chunk.tokens * done // total, time.monotonic() - begun)
            if self.stop():
                self._interrupted()

        return_freed()
        activations = extract(self.extractor, chunk, on_batch)
        self.extracted += chunk.tokens
        self.extracting += time.monotonic() - begun
        self._name_documents(chunk)
        self.gathered.add(ChunkRows(chunk), {name: activations.pop(site) for name, site in self.sites.items()})

    def _name_documents(self, chunk: Chunk) -> None:
        names = document_names(chunk)
        self.names |= names
        self.documents |= names.keys()

    def _interrupted(self) -> None:
        self._save()
        raise Interrupted(
            f"stopped after {self.tokens:,} tokens; repeat the command to go on from the checkpoint in {self.work}"
        )

    def _save(self) -> None:
        arrays = {"documents": np.array(sorted(self.documents), np.uint64), **self.gathered.arrays()}
        used = self.gathered.documents
        self.names = {key: name for key, name in self.names.items() if key in used}
        names = sorted(self.names.items())
        self.checkpoints.save(arrays, {"done": self.done, "tokens": self.tokens, "digest": self.digest, "names": names})
        self.saved = time.monotonic()
        self._tell("checkpoint")

    def _restore(self) -> None:
        if (found := self.checkpoints.load()) is None:
            return
        arrays, record = found
        try:
            self.gathered.restore(arrays)
            self.done, self.tokens, self.digest = record["done"], record["tokens"], record["digest"]
            self.names = {int(key): name for key, name in record["names"]}
            self.documents = set(arrays["documents"].tolist())
        except (ValueError, KeyError, TypeError) as error:
            raise self.checkpoints.damaged(error) from error

    def _tell(self, kind: Kind, tokens: int = 0, seconds: float = 0.0) -> None:
        elapsed = self.extracting + seconds
        rate = (self.extracted + tokens) / elapsed if elapsed else 0.0
        self.on_event(AnnotateEvent(kind, self.tokens + tokens, self.max_tokens, rate))

    def _write_all(self) -> None:
        """Write what was found, and hold ever less of it: the sums go first, then the smaller dictionaries."""
        order = np.argsort([-dictionary.k for dictionary in self.dictionaries])
        found = [(self.dictionaries[i], self.gathered.evidence[i][1]) for i in order]
        self.dictionaries.clear()
        self.gathered.evidence.clear()
        tables = [Tables(self.loaded, self.texts, *each, self.names) for each in found]
        del found
        samples = {name: torch.from_numpy(sample.ordered) for name, sample in self.gathered.samples.items()}
        self.gathered.samples.clear()
        while tables:
            self._write(tables.pop(), samples)

    def _write(self, tables: Tables, samples: dict[str, Tensor]) -> None:
        dictionary, evidence = tables.dictionary, tables.evidence
        if (dictionary.path / folder.FOLDER).exists():
            written = folder.Annotation(dictionary).record
            if written.text.digest == self.digest and written.max_tokens == self.max_tokens:
                return  # by an earlier try of this annotation
            shutil.rmtree(dictionary.path / folder.FOLDER)
        size_k = tables.members
        if not size_k.sum():
            raise EPError(
                f"none of the {self.tokens:,} tokens of {self.source.name} has an activation with a direction"
            )
        gini, effective = inequality(size_k)
        evaluated, drawn = _split(samples[dictionary.config.site.name], dictionary.k)
        record = folder.AnnotationRecord(
            dictionary=dictionary.content_id,
            model=self.loaded.info.fingerprint,
            text=dictionary.config.text.model_copy(update={"source": self.source.name, "digest": self.digest}),
            max_tokens=self.max_tokens,
            n_tokens=self.tokens,
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
            dictionary, record, tables.regions, tables.examples(), tables.mean_directions, evidence.histogram_kb
        )


def _split(sample_nd: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows to evaluate on, and others to draw k from; of a small sample, the same rows may serve both."""
    drawn = sample_nd[-k:] if len(sample_nd) < EVALUATED + k else sample_nd[EVALUATED : EVALUATED + k]
    return sample_nd[:EVALUATED], drawn
