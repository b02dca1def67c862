"""One dictionary while it grows: clustering, provenance of its exemplars, and when to stop (law L5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from ..core.geometry import Block, directions
from ..core.leader import LeaderClustering
from ..core.search import ROWS
from ..core.statistics import UnseenMass, unseen_mass
from ..stream import Chunk
from .settings import BuildSettings, DictionarySummary

Stopped = Literal["saturated", "unseen", "budget", "text"]


@dataclass(frozen=True)
class Provenance:
    """The token an exemplar was observed at.

    window_tokens: ids of its window up to and including it, so that any model can embed it again.
    position: offset in the document, in tokens.  raw_norm: length of the activation itself.
    """

    document: str
    position: int
    window_tokens: Int32[np.ndarray, " t"]
    raw_norm: float


@dataclass
class Growing:
    """A dictionary being built from one site at one percentile."""

    site: str
    percentile: float
    clustering: LeaderClustering
    settings: BuildSettings
    provenance: list[Provenance] = field(default_factory=list)
    growth: list[tuple[int, int]] = field(default_factory=list)
    stopped: Stopped | None = None
    digest: str = ""

    def add(self, block: Block, offered: int, chunk: Chunk, first_row: int) -> None:
        """Take a block made from rows first_row.. of a chunk's activations, up to the row it stops at.

        The stream is cut exactly where a decision falls due, so that the rows counted, like the
        exemplars, do not depend on how it was blocked.
        """
        while offered and not self.stopped:
            due = self._next_decision() - self.clustering.position
            taken = min(offered, due)
            if taken == offered:
                self._cluster(block, taken, chunk, first_row)
            else:
                rows = int((block.rows_n < taken).sum())
                self._cluster(block[:rows], taken, chunk, first_row)
                block = block[rows:].shifted(-taken)
            offered, first_row = offered - taken, first_row + taken
            if taken == due:
                self._decide()

    def _cluster(self, block: Block, offered: int, chunk: Chunk, first_row: int) -> None:
        k, position = self.clustering.k, self.clustering.position
        self.clustering.add_block(block, offered)
        self._witness(block, self.clustering.births[k:], position, chunk, first_row)

    def _witness(self, block: Block, births: np.ndarray, position: int, chunk: Chunk, first_row: int) -> None:
        """Note what is to know of new exemplars, rows of a block that began at a position of the stream."""
        for birth in births:
            row = int(birth) - position
            document, at, window_tokens = chunk.token(first_row + row)
            x_d = block.x_nd[int(torch.searchsorted(block.rows_n, row))]
            norm = float(x_d.double().norm())
            self.provenance.append(Provenance(document, at, window_tokens, norm))

    def take(
        self, exemplars: Tensor, births: Int64[np.ndarray, " new"], provenance: Sequence[Provenance], **counts: Any
    ) -> None:
        """Rows clustered elsewhere, up to a place where a decision may fall due; see `LeaderClustering.take`."""
        self.clustering.take(exemplars, births, **counts)
        self.provenance += provenance
        self._decide()

    @property
    def _last_birth(self) -> int:
        births = self.clustering.births
        return int(births[-1]) if len(births) else -1

    def _next_decision(self) -> int:
        window, position = self.settings.saturation_window, self.clustering.position
        saturated_at = self._last_birth + 1 + window
        return min(saturated_at, (position // window + 1) * window)

    def _decide(self) -> None:
        window, position = self.settings.saturation_window, self.clustering.position
        until = self.settings.until_unseen
        if position % window == 0:
            self.growth.append((position, self.clustering.k))
            if until is not None and self.unseen.estimate <= until:
                self.stopped = "unseen"
        if position - (self._last_birth + 1) >= window:
            self.stopped = "saturated"

    def end(self, reason: Stopped, digest: str) -> None:
        """Close the dictionary where the stream ended, unless it stopped by itself before."""
        if self.stopped is None:
            self.stopped = reason
        position = self.clustering.position
        if not self.growth or self.growth[-1][0] != position:
            self.growth.append((position, self.clustering.k))
        self.digest = self.digest or digest

    @property
    def unseen(self) -> UnseenMass:
        """Share of further activations that would found a region."""
        return unseen_mass(self.clustering.soles, self.clustering.position - self.clustering.skipped)

    def summary(self) -> DictionarySummary:
        return DictionarySummary(
            self.site,
            self.percentile,
            self.clustering.threshold,
            self.clustering.k,
            self.clustering.position,
            self.unseen,
            self.stopped,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The state of the clustering and the windows of its exemplars, for a checkpoint."""
        windows = [p.window_tokens for p in self.provenance]
        return {
            "window_tokens": np.concatenate([np.zeros(0, np.int32), *windows]),
            "window_lengths": np.array([len(window) for window in windows], np.int64),
            "exemplars": self.clustering.exemplars.numpy(force=True),
            "arrivals": self.clustering.arrivals,
            "soles": self.clustering.soles,
            "births": self.clustering.births,
        }


def feed(
    here: Sequence[Growing], x_nd: Tensor, chunk: Chunk, *, device: str = "cpu", strict: bool = False
) -> list[Growing]:
    """Give the activations of a chunk to the dictionaries growing at their site, which share a centre.

    Returns those that stopped at it.
    """
    still = [one for one in here if not one.stopped]
    for start in range(0, len(x_nd) if still else 0, ROWS):
        part = x_nd[start : start + ROWS].to(device)
        block = directions(part, still[0].clustering.center, strict=strict)
        for one in still:
            one.add(block, len(part), chunk, start)
    stopped = [one for one in still if one.stopped]
    for one in stopped:
        one.end(cast(Stopped, one.stopped), chunk.digest)
    return stopped
