"""One dictionary while it grows: clustering, provenance of its exemplars, and when to stop (law L5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from ..core.geometry import Block, directions
from ..core.leader import LeaderClustering
from ..core.missing_mass import MissingMass, missing_mass, recent_births, uneven_births
from ..core.nearest import ROWS
from ..folder.summary import DictionarySummary
from ..stream import Chunk
from .settings import BuildSettings

Stopped = Literal["saturated", "unseen", "budget", "text"]


@dataclass(frozen=True)
class Provenance:
    """The token an exemplar was observed at.

    Attributes:
        window_tokens: ids of its window up to and including it, so that any model can embed it again.
        position: offset in the document, in tokens.
        raw_norm: length of the activation itself.
    """

    document: str
    position: int
    window_tokens: Int32[np.ndarray, " t"]
    raw_norm: float


@dataclass(frozen=True)
class Start:
    """Where a dictionary begins that grows on: what saturates it is counted from here.

    with_direction, k: 0 where it is known how its exemplars covered the text before; else missing mass is counted from
    here too.

    Attributes:
        activations, with_direction: before, and of them those that have one.
        k: regions before.
        digest: of the text before.
    """

    activations: int = 0
    with_direction: int = 0
    k: int = 0
    digest: str = ""


@dataclass(kw_only=True)
class Growing:
    """A dictionary being built from one site at one percentile.

    Attributes:
        sample: activations it was calibrated on.
        spread: of the percentile between calibration batches.
        growth: (activations, regions) along the stream.
        digest: of the text up to where it stopped.
    """

    site: str
    percentile: float
    clustering: LeaderClustering
    settings: BuildSettings
    sample: int = 0
    spread: float = 0.0
    start: Start = Start()
    provenance: list[Provenance] = field(default_factory=list)
    growth: list[tuple[int, int]] = field(default_factory=list)
    stopped: Stopped | None = None
    digest: str = ""

    def add(self, block: Block, offered: int, chunk: Chunk, first_row: int) -> None:
        """Take a block made from rows first_row.. of a chunk's activations, up to the row it stops at."""
        for part, rows in self.cut(block, offered):
            k, position = self.clustering.k, self.clustering.position
            self.clustering.add_block(part, rows)
            self.witness(part, self.clustering.births[k:] - position, chunk, first_row)
            first_row += rows

    def cut(self, block: Block, offered: int) -> Iterator[tuple[Block, int]]:
        """Parts of a block, and the rows they are made from, each to be clustered before the next is asked for.

        The stream is cut exactly where a decision falls due, so that the rows counted, like the
        exemplars, do not depend on how it was blocked.
        """
        while offered and not self.stopped:
            due = self._next_decision() - self.clustering.position
            rows = min(offered, due)
            if rows == offered:
                yield block, rows
            else:
                inside = int((block.rows_n < rows).sum())
                yield block[:inside], rows
                block = block[inside:].shifted(-rows)
            offered -= rows
            if rows == due:
                self._decide()

    def witness(self, block: Block, born_n: Int64[np.ndarray, " n"], chunk: Chunk, first_row: int) -> None:
        """Note what is to know of new exemplars: rows of a block that begins at a row of the chunk."""
        for row in born_n.tolist():
            document, at, window_tokens = chunk.token(first_row + row)
            x_d = block.x_nd[int(torch.searchsorted(block.rows_n, row))]
            norm = float(x_d.double().norm())
            self.provenance.append(Provenance(document, at, window_tokens, norm))

    def append(
        self, exemplars: Tensor, births: Int64[np.ndarray, " new"], provenance: Sequence[Provenance], **counts: Any
    ) -> None:
        """Rows clustered elsewhere, up to a place where a decision may fall due; see `LeaderClustering.append`."""
        self.clustering.append(exemplars, births, **counts)
        self.provenance += provenance
        self._decide()

    @property
    def _last_birth(self) -> int:
        births = self.clustering.births
        return max(int(births[-1]) if len(births) else -1, self.start.activations - 1)

    def _next_decision(self) -> int:
        window, position = self.settings.saturation_window, self.clustering.position
        saturated_at = self._last_birth + 1 + window
        return min(saturated_at, (position // window + 1) * window)

    def _decide(self) -> None:
        window, position = self.settings.saturation_window, self.clustering.position
        until = self.settings.until_unseen
        if position % window == 0:
            self.growth.append((position, self.clustering.k))
            recent = recent_births(self.growth, window)
            if until is not None and max(self.unseen.high, recent) <= until:
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
    def unseen(self) -> MissingMass:
        """Share of further activations, of the text since the start, that would found a region."""
        n = self.clustering.position - self.clustering.skipped - self.start.with_direction
        return missing_mass(self.clustering.sole_counts[self.start.k :], n)

    @property
    def text_digest(self) -> str:
        """Of all text that was read, before the start too."""
        before = self.start.digest
        return hashlib.sha256(f"{before}{self.digest}".encode()).hexdigest() if before else self.digest

    def summary(self) -> DictionarySummary:
        """Where it stands."""
        growth = [*self.growth, (self.clustering.position, self.clustering.k)]
        window = self.settings.saturation_window
        return DictionarySummary(
            site=self.site,
            percentile=self.percentile,
            threshold=self.clustering.threshold,
            k=self.clustering.k,
            n_activations=self.clustering.position,
            unseen=self.unseen,
            recent=recent_births(growth, window),
            uneven=uneven_births(growth, window),
            stopped=self.stopped,
        )

    # What a checkpoint holds of it

    _PLAIN = ("site", "percentile", "sample", "spread", "growth", "stopped", "digest")

    def record(self) -> dict[str, Any]:
        """What is not in `arrays`, as plain values."""
        plain = {name: getattr(self, name) for name in self._PLAIN}
        return plain | {
            "threshold": self.clustering.threshold,
            "position": self.clustering.position,
            "skipped": self.clustering.skipped,
            "provenance": [[p.document, p.position, p.raw_norm] for p in self.provenance],
            "start": asdict(self.start),
            "settings": self.settings.model_dump(mode="json"),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The state of the clustering and the windows of its exemplars."""
        windows = [p.window_tokens for p in self.provenance]
        return {
            "window_tokens": np.concatenate([np.zeros(0, np.int32), *windows]),
            "window_lengths": np.array([len(window) for window in windows], np.int64),
            "center": self.clustering.center.numpy(force=True),
            "exemplars": self.clustering.exemplars.numpy(force=True),
            "arrivals": self.clustering.online_counts,
            "soles": self.clustering.sole_counts,
            "births": self.clustering.births,
        }

    @classmethod
    def restored(cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], device: str) -> Self:
        """From what `record` and `arrays` gave."""
        clustering = LeaderClustering(torch.from_numpy(arrays["center"]), record["threshold"], device=device)
        counts = [arrays[name] for name in ("arrivals", "soles", "births")]
        at = {name: record[name] for name in ("position", "skipped")}
        clustering.restore(torch.from_numpy(arrays["exemplars"]), *counts, **at)
        ends = np.cumsum(arrays["window_lengths"])
        windows = np.split(arrays["window_tokens"], ends)[: len(ends)]
        provenance = [
            Provenance(document, position, window, raw_norm)
            for (document, position, raw_norm), window in zip(record["provenance"], windows, strict=True)
        ]
        plain: dict[str, Any] = {name: record[name] for name in cls._PLAIN}
        plain["growth"] = [(n, k) for n, k in record["growth"]]
        return cls(
            **plain,
            clustering=clustering,
            settings=BuildSettings(**record["settings"]),
            start=Start(**record["start"]),
            provenance=provenance,
        )


def decided(
    extracted: Iterable[tuple[Chunk, dict[str, Tensor] | Iterator[tuple[str, Tensor]]]],
    growing: Sequence[Growing],
    device: str,
) -> Iterator[Chunk]:
    """Chunks, each once its activations, which are used up, are in the dictionaries that grow at their site."""
    for chunk, activations in extracted:
        for site, x_nd in _used_up(activations) if isinstance(activations, dict) else activations:
            feed([each for each in growing if each.site == site], x_nd, chunk, device=device)
        end(growing, chunk)
        yield chunk


def _used_up(activations: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    while activations:
        yield activations.popitem()


def feed(here: Sequence[Growing], x_nd: Tensor, chunk: Chunk, *, device: str = "cpu") -> None:
    """Give the activations of a chunk to the dictionaries growing at their site, which share a centre."""
    still = [each for each in here if not each.stopped]
    for start in range(0, len(x_nd) if still else 0, ROWS):
        part = x_nd[start : start + ROWS].to(device)
        block = directions(part, still[0].clustering.center, strict=still[0].settings.strict)
        for each in still:
            each.add(block, len(part), chunk, start)


def end(growing: Sequence[Growing], chunk: Chunk) -> None:
    """Close the dictionaries that stopped in a chunk, and all if it is the last."""
    for each in growing:
        if chunk.last or (each.stopped and not each.digest):
            each.end(each.stopped or cast(Stopped, chunk.last), chunk.digest)


def all_stopped(growing: Iterable[Growing]) -> bool:
    """Whether no dictionary takes more of the stream."""
    return all(each.stopped for each in growing)
