"""The processes that hold a model: they extract, and compare with exemplars. Plain classes; Ray makes actors of them.

All state of a build or an annotation lives with its owner: a worker may die at any moment.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..annotating.evidence import ChunkRows
from ..annotating.freed_memory import return_freed
from ..annotating.gather import Gathered
from ..core.dictionary import Dictionary
from ..models.capture import Extractor
from ..models.load import load_model, search_device
from ..models.sites import resolve_sites
from ..stream import Chunk, extract
from .identity import identity, software
from .snapshot import Snapshots
from .wire import Known, News, Proposal, Segment, Task, Windows


class Worker:
    """A model, ready to extract as the owner of a build would."""

    def where(self) -> tuple[str, str]:
        """Host, for people, and node of the cluster."""
        import ray

        return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})", ray.get_runtime_context().get_node_id()

    def prepare(self, task: Task) -> dict[str, str]:
        """Load the model; returns what this worker's activations follow from, or as much as differs already."""
        torch.set_num_threads(task.threads)
        mine = software(task.threads, task.device)
        if any(task.identity[name] != value for name, value in mine.items()):
            return mine
        name, revision = task.source
        where = {"revision": revision, "trust_remote_code": task.remote_code}
        loaded = load_model(name, dtype=task.dtype, device=task.device, **where)
        self.vocab_size, self.device = loaded.architecture.vocab_size, search_device(loaded.model.device)
        self.sites = {site: resolve_sites(site, loaded.architecture)[0] for site in task.sites}
        self.extractor = Extractor(loaded.model, list(self.sites.values()), batch_size=task.batch_size)
        return identity(loaded, task.sites, task.batch_size, task.context_size)

    def _extract(self, chunk: Chunk) -> dict[str, Tensor]:
        activations = extract(self.extractor, chunk, lambda ids: None)
        return {name: activations[site] for name, site in self.sites.items()}


class BuildWorker(Worker):
    """Extracts chunks; then compares them with the exemplars it was told of, and counts what became of them."""

    def extract(self, windows: Windows) -> dict[str, np.ndarray]:
        """Activations of a chunk at every site."""
        return {site: x_nd.numpy() for site, x_nd in self._extract(windows.chunk).items()}

    def know(self, known: Sequence[Known]) -> None:
        """Hear of all dictionaries."""
        self.snapshots = Snapshots(known, self.device)

    def propose(self, index: int, windows: Windows, start: int, active: Sequence[bool], *news: News) -> Proposal:
        """Extract a chunk and return the rows that could become exemplars; the others stay here until `settle`."""
        self.snapshots.learn(news)
        return self.snapshots.propose(index, self._extract(windows.chunk), start, active)

    def settle(self, index: int, cuts: Sequence[np.ndarray], *news: News) -> list[list[Segment]]:
        """Counts of a chunk that was decided."""
        self.snapshots.learn(news)
        return self.snapshots.settle(index, cuts)

    def redo(
        self, index: int, windows: Windows, start: int, cuts: Sequence[np.ndarray], *news: News
    ) -> list[list[Segment]]:
        """Counts of a chunk that was decided, though the worker that held its rows is lost."""
        self.snapshots.learn(news)
        self.snapshots.hold(index, self._extract(windows.chunk), start)
        return self.snapshots.settle(index, cuts)


class AnnotationWorker(Worker):
    """Gathers evidence over chunks, and hands it over when asked."""

    def know(self, dictionaries: Sequence[tuple[str, Dictionary]]) -> None:
        """Hear of all dictionaries, each with its site."""
        self.dictionaries = dictionaries
        self.gathered = Gathered(dictionaries, self.vocab_size)

    def add(self, chunk: Chunk) -> None:
        """Take a chunk into the evidence."""
        return_freed()
        self.gathered.add(ChunkRows(chunk), self._extract(chunk))

    def hand_over(self) -> dict[str, np.ndarray]:
        """All evidence since the last time."""
        arrays = self.gathered.arrays()
        self.know(self.dictionaries)
        return arrays
