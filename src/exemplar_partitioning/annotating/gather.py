"""What an annotation gathers on its way: evidence for every dictionary and a sample of every site, in one place.

All of it merges without a trace of order or grouping (law L4), so parts may come from other processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ..core.dictionary import Dictionary
from ..folder.checkpoints import below
from .evidence import ChunkRows, Evidence, Sample, SiteRows
from .quality import EVALUATED


class Gathered:
    """Evidence for dictionaries, each given with the name of its site, and a sample for each site."""

    def __init__(self, dictionaries: Sequence[tuple[str, Dictionary]], vocab_size: int):
        self.evidence = [(site, Evidence(dictionary, vocab_size)) for site, dictionary in dictionaries]
        self.samples: dict[str, Sample] = {}
        for site in dict.fromkeys(site for site, _ in dictionaries):
            here = [dictionary for name, dictionary in dictionaries if name == site]
            self.samples[site] = Sample(EVALUATED + max(dictionary.k for dictionary in here), here[0].center)

    def add(self, rows: ChunkRows, activations: dict[str, Tensor]) -> None:
        """Take the rows of a chunk; their activations at each site are used up."""
        for site, sample in self.samples.items():
            x_nd = activations.pop(site)
            sample.add(rows, x_nd)
            here = [evidence for name, evidence in self.evidence if name == site]
            at_site, assignments = SiteRows.assign(rows, x_nd, here)
            for evidence, assignment in zip(here, assignments, strict=True):
                evidence.add(at_site, assignment)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a checkpoint or another process."""
        arrays: dict[str, np.ndarray] = {}
        for i, (_, evidence) in enumerate(self.evidence):
            arrays |= {f"{i}.{name}": array for name, array in evidence.arrays().items()}
        for site, sample in self.samples.items():
            arrays |= {f"{site}/{name}": array for name, array in sample.arrays().items()}
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the state that `arrays` gave."""
        for part, part_arrays in self._parts(arrays):
            part.restore(part_arrays)

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add what others gathered over other chunks with the same dictionaries, as their `arrays` gave it."""
        for part, part_arrays in self._parts(arrays):
            part.merge(part_arrays)

    def _parts(self, arrays: Mapping[str, np.ndarray]) -> list[tuple[Evidence | Sample, dict[str, np.ndarray]]]:
        parts: list[tuple[Evidence | Sample, dict[str, np.ndarray]]] = []
        parts += [(evidence, below(f"{i}.", arrays)) for i, (_, evidence) in enumerate(self.evidence)]
        return parts + [(sample, below(f"{site}/", arrays)) for site, sample in self.samples.items()]

    @property
    def documents(self) -> set[int]:
        """Hashes of the documents that examples come from."""
        best = [best for _, evidence in self.evidence for best in evidence.examples.values()]
        return {document for each in best for document in np.unique(each.document).tolist()}
