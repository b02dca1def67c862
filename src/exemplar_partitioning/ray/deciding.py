"""The owner's side of a build: births in the order of the stream, and counts merged in that order.

Two states of each dictionary live here. One runs ahead: it knows which rows became exemplars and where the
dictionary saturates, which follows from births alone. The other, a `Growing` as in a build by one process, takes
every chunk once its counts are there; it is what checkpoints save, and what decides by missing mass.

Shapes: n rows of a chunk, r proposed rows, k exemplars, d = d_model.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..building.growing import Growing, Provenance
from ..core.geometry import directions
from ..core.leader import LeaderClustering
from ..core.nearest import ROWS
from ..stream import Chunk
from .wire import Known, Proposal, Segment, broken


@dataclass(frozen=True)
class Decision:
    """What became of a chunk in one dictionary.

    Attributes:
        births: rows of the stream that became exemplars.
        cuts: rows of the chunk at which runs end that are counted apart, because something is decided there; the last
            is where the dictionary stops or the chunk ends.
    """

    exemplars: Float32[Tensor, "new d"]
    births: Int64[np.ndarray, " new"]
    provenance: list[Provenance]
    cuts: Int64[np.ndarray, " c"]


NOTHING = Decision(torch.empty(0), np.zeros(0, np.int64), [], np.zeros(0, np.int64))  # of a dictionary that stopped


class Ahead(Growing):
    """A dictionary as far as its births are decided. It saturates; only counts could tell of its missing mass."""

    @classmethod
    def of(cls, growing: Growing, device: str) -> Ahead:
        """From where a dictionary stands."""
        old = growing.clustering
        births = LeaderClustering(old.center, old.threshold, device=device)
        births.restore(
            old.exemplars, old.online_counts, old.sole_counts, old.births, position=old.position, skipped=old.skipped
        )
        settings = growing.settings.model_copy(update={"until_unseen": None})
        return cls(
            site=growing.site,
            percentile=growing.percentile,
            clustering=births,
            settings=settings,
            stopped=growing.stopped,
        )

    def known(self, closed: np.ndarray) -> Known:
        """All a worker needs to begin."""
        c = self.clustering
        exemplars, center = (part.numpy(force=True) for part in (c.exemplars, c.center))
        return Known(self.site, center, c.threshold, exemplars, c.births, closed)

    def decide(self, chunk: Chunk, proposal: Proposal, which: int) -> Decision:
        """Take a chunk's proposed rows; `which` is this dictionary's place in the proposal."""
        births, known, places = self.clustering, proposal.known[which], proposal.uncovered[which]
        k, position, n = births.k, births.position, len(chunk.kept)
        rows = proposal.rows[self.site][places]
        x_rd = torch.from_numpy(proposal.x[self.site][places])
        starts = [0, *rows[ROWS::ROWS].tolist(), n]
        for i, (start, end) in enumerate(itertools.pairwise(starts)):
            part = slice(i * ROWS, (i + 1) * ROWS)
            block = directions(x_rd[part].to(births.center.device), births.center, strict=True)
            rows_n = torch.as_tensor(rows[part].astype(np.int64) - start, device=block.rows_n.device)
            block = replace(block, rows_n=rows_n)
            for piece, offered in self.cut(block, end - start):
                before, born = births.position, births.k
                births.add_births(piece, offered, known)
                self.witness(piece, births.births[born:] - before, chunk, start)
                start += offered
        provenance, self.provenance, self.growth = self.provenance, [], []
        window, consumed = self.settings.saturation_window, births.position - position
        multiples = np.arange(-(position % window) + window, consumed, window)
        cuts = np.append(multiples, consumed)
        return Decision(births.exemplars[k:].clone(), births.births[k:], provenance, cuts)


def settle(growing: Growing, decision: Decision, segments: list[Segment], skipped: np.ndarray, where: str) -> None:
    """Take the counts of a chunk into the dictionary as it stands before it; DataError if they are impossible."""
    start = growing.clustering.position
    if len(segments) != len(decision.cuts):
        raise broken(where, f"counts of {len(segments)} runs of rows instead of {len(decision.cuts)}")
    for a, b, segment in zip([0, *decision.cuts[:-1]], decision.cuts, segments, strict=True):
        born = slice(*np.searchsorted(decision.births, (start + a, start + b)))
        bad = int(np.diff(np.searchsorted(skipped, (a, b)))[0])
        births = decision.births[born]
        online_counts, sole_counts = segment.dense(int(b - a) - bad, growing.clustering.k + len(births), where)
        counts: dict[str, Any] = {
            "online_counts": online_counts,
            "sole_counts": sole_counts,
            "rows": int(b - a),
            "skipped": bad,
        }
        growing.append(decision.exemplars[born], births, decision.provenance[born], **counts)
        if growing.stopped:
            return
