"""The worker's side of a build: a chunk's rows against the exemplars it knows, and what becomes of them.

Shapes: n rows of a block, r uncovered rows, k exemplars, d = d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ..core.candidates import Candidates
from ..core.geometry import Block, directions
from ..core.leader import covered_alone
from ..core.nearest import ROWS, ExemplarMatrix, Search
from ..core.precision import full_precision
from .wire import Known, News, Proposal, Segment


class Snapshot:
    """The first exemplars of a dictionary, as many as the owner has told of, with the rows they were."""

    def __init__(self, known: Known, device: str):
        self.site, self.threshold, self.device = known.site, known.threshold, device
        self.center = torch.tensor(known.center, device=device)
        self._matrix = ExemplarMatrix(len(known.center), device)
        self._search = Search(self._matrix)
        self.births = np.zeros(0, np.int64)
        self._open = torch.zeros(0, dtype=torch.bool, device=device)
        self.learn(known.exemplars, known.births, known.closed)

    @property
    def k(self) -> int:
        return self._matrix.k

    def learn(self, exemplars: np.ndarray, births: np.ndarray, closed: np.ndarray) -> None:
        """Take the exemplars that follow those known, and those whose sole rows need no more counting."""
        self._matrix.append(torch.tensor(exemplars, device=self.device))
        self.births = np.concatenate([self.births, births])
        self._open = torch.cat([self._open, torch.ones(len(births), dtype=torch.bool, device=self.device)])
        self._open[torch.tensor(closed, dtype=torch.int64, device=self.device)] = False

    def propose(self, block: Block) -> tuple[Candidates, Int64[Tensor, " r"]]:
        """Candidates for every row, and the rows that no exemplar here covers."""
        candidates = self._search.candidates(block, threshold=self.threshold)
        _, within_n = self._search.decide(block, candidates, self.threshold)
        assert within_n is not None
        return candidates, (~within_n).nonzero()[:, 0]

    def settle(
        self, block: Block, candidates: Candidates | None, first: int, start: int
    ) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """The exemplar each row arrived at, and whether, of those born before it, this alone covers the row.

        Candidates are of the exemplars before `first`, all born before the block, whose rows count from `start`; None
        for none, then first is 0.
        """
        rows_n = block.rows_n.cpu().numpy() + start
        births = self.births[first:]
        # of its own block, an exemplar is invisible to the rows up to the one it was; later ones are so to all
        birth_row = np.where(births < start, -1, np.searchsorted(rows_n, births))
        birth_row_k = torch.as_tensor(birth_row, device=block.u_nd.device)
        later = self._search.candidates(block, first, birth_row_k, self.threshold)
        covers = later.covers
        assert covers is not None
        if candidates is not None:
            assert candidates.covers is not None
            covers = candidates.covers.merge(covers)
            later = candidates.merge(later)
        ids_n, _ = self._search.decide(block, later)
        newborn = np.flatnonzero((birth_row >= 0) & (birth_row < len(block)))
        born_at = birth_row_k[newborn]
        ids_n[born_at] = torch.as_tensor(first + newborn, device=ids_n.device)
        matters_n = self._open[ids_n]
        matters_n[born_at] = False
        alone_n = covered_alone(self._search, block, covers, self.threshold, matters_n)
        return ids_n.cpu().numpy(), alone_n.cpu().numpy()


@dataclass
class Held:
    """A chunk's rows while their owner decides.

    Attributes:
        x: activations at each site.
        start: row of the stream the first of them is.
        first, candidates: for each dictionary, exemplars of the snapshot it was compared with, and those of each block.
    """

    x: dict[str, Tensor]
    start: int
    first: list[int]
    candidates: list[list[Candidates | None]]


class Snapshots:
    """All dictionaries of a build, and the chunks that wait for decisions about them."""

    def __init__(self, known: Sequence[Known], device: str):
        self.each = [Snapshot(dictionary, device) for dictionary in known]
        self.device = device
        self.held: dict[int, Held] = {}

    def learn(self, news: Sequence[News]) -> None:
        """Take what was decided since."""
        for each in news:
            for snapshot, *about in zip(self.each, each.exemplars, each.births, each.closed, strict=True):
                snapshot.learn(*about)

    def propose(self, index: int, x: dict[str, Tensor], start: int, active: Sequence[bool]) -> Proposal:
        """Compare a chunk with the dictionaries that still grow, and keep it until it is settled."""
        held = Held(x, start, [snapshot.k for snapshot in self.each], [[] for _ in self.each])
        rows = {site: [np.zeros(0, np.int64)] for site in x}
        skipped = {site: [np.zeros(0, np.int64)] for site in x}
        uncovered = [[np.zeros(0, np.int64)] for _ in self.each]
        for site, at, offered, block, here in self._blocks(x, active):
            rows_n = block.rows_n.cpu().numpy() + at
            skipped[site].append(np.setdiff1d(np.arange(at, at + offered), rows_n, assume_unique=True))
            for i in here:
                candidates, open_r = self.each[i].propose(block)
                held.candidates[i].append(candidates)
                uncovered[i].append(rows_n[open_r.cpu().numpy()])
                rows[site].append(uncovered[i][-1])
        self.held[index] = held
        union = {site: np.unique(np.concatenate(parts)) for site, parts in rows.items()}
        places = [
            np.searchsorted(union[snapshot.site], np.concatenate(parts)).astype(np.int32)
            for snapshot, parts in zip(self.each, uncovered, strict=True)
        ]
        return Proposal(
            {site: rows.astype(np.int32) for site, rows in union.items()},
            {site: x[site][torch.from_numpy(rows)].numpy() for site, rows in union.items()},
            {site: np.concatenate(parts).astype(np.int32) for site, parts in skipped.items()},
            held.first,
            places,
        )

    def hold(self, index: int, x: dict[str, Tensor], start: int) -> None:
        """Keep a chunk that was decided already; what another worker knew of it is lost."""
        nothing: list[list[Candidates | None]] = [[None] * -(-len(x[snapshot.site]) // ROWS) for snapshot in self.each]
        self.held[index] = Held(x, start, [0] * len(self.each), nothing)

    def settle(self, index: int, cuts: Sequence[Int64[np.ndarray, " c"]]) -> list[list[Segment]]:
        """Counts of a chunk, which is forgotten; for each dictionary, over its runs of rows that end at `cuts`."""
        held = self.held.pop(index)
        ids = [np.full(len(held.x[snapshot.site]), -1, np.int64) for snapshot in self.each]
        alone = [np.zeros(len(array), bool) for array in ids]
        for _, at, _, block, here in self._blocks(held.x, [len(cut) > 0 for cut in cuts]):
            rows_n = block.rows_n.cpu().numpy() + at
            for i in here:
                snapshot, candidates = self.each[i], held.candidates[i][at // ROWS]
                ids[i][rows_n], alone[i][rows_n] = snapshot.settle(block, candidates, held.first[i], held.start + at)
        return [
            [Segment.of(ids_n[a:b], alone_n[a:b]) for a, b in zip([0, *cut[:-1]], cut, strict=True)] if len(cut) else []
            for ids_n, alone_n, cut in zip(ids, alone, cuts, strict=True)
        ]

    def _blocks(self, x: dict[str, Tensor], active: Sequence[bool]) -> Iterator[tuple[str, int, int, Block, list[int]]]:
        """Site, first row, rows and block, and the dictionaries that want it; they share a centre."""
        for site, x_nd in x.items():
            here = [i for i, snapshot in enumerate(self.each) if snapshot.site == site and active[i]]
            for start in range(0, len(x_nd) if here else 0, ROWS):
                part = x_nd[start : start + ROWS].to(self.device)
                with full_precision():
                    yield site, start, len(part), directions(part, self.each[here[0]].center), here
