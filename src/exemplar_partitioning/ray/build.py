"""The build on a Ray cluster: workers propose, one owner decides in stream order, workers count.

A chunk goes to one worker, which extracts it and returns what its snapshot does not cover. Once all chunks before
are decided, so is this; then its worker hears what was born, and returns counts. Chunks are settled in stream
order too, and after each the state is that of a build by one process after the same chunk.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..building.growing import Growing, all_stopped, end
from ..building.run import Crew, Crews
from ..building.settings import BuildSettings
from ..core.geometry import no_direction
from ..models.load import search_device
from ..models.loaded import LoadedModel
from ..stream import Chunk, Progress
from .deciding import NOTHING, Ahead, Decision, settle
from .pool import Done, Hand, Lost, Pool
from .team import Ray, team
from .wire import News, Proposal, Segment, Windows, size
from .worker import BuildWorker

DEPTH = 3  # chunks a worker holds: one at work, one that waits for decisions, one to go on with
_AHEAD = 2  # of these at most so many that it has still to extract: at the end of the text nobody has more to do
_POLL_SECONDS = 0.2  # between two looks at whether to stop


def on(ray: Ray) -> Crews:
    """The workers of a cluster as the crew of a build."""

    @contextmanager
    def crew(loaded: LoadedModel, settings: BuildSettings, progress: Progress) -> Iterator[Crew]:
        sizes = {"batch_size": settings.batch_size, "context_size": settings.context_size}
        with team(ray, BuildWorker, loaded, settings.sites, **sizes) as pool:
            traffic = Traffic()
            deciding = Deciding(pool, progress, traffic, search_device(loaded.model.device))
            notes = {"workers": pool.count, "workers_lost": pool.lost}
            yield Crew(Pooled(pool, progress), deciding, lambda: {"ray": notes | vars(traffic)})
            notes["workers_lost"] = pool.lost

    return crew


@dataclass(eq=False)
class Flight:
    """A chunk between its reading and its settlement, the index-th of those handed out.

    Attributes:
        start: row of the stream that its first one is.
    """

    index: int
    chunk: Chunk
    windows: Windows
    start: int
    hand: Hand | None = None
    proposal: Proposal | None = None
    decisions: list[Decision] | None = None
    skipped: dict[str, np.ndarray] = field(default_factory=dict)
    segments: list[list[Segment]] | None = None

    @property
    def where(self) -> str:
        return self.hand.where if self.hand else ""


@dataclass
class Traffic:
    """Bytes of arrays between owner and workers since the end of calibration, and what there was to send.

    Attributes:
        introductions: bytes sent to workers as they joined, part of sent.
        proposed: rows that snapshots did not cover.
        activations: bytes of all activations, at all sites.
        lag: sum over chunks of how many were decided between a snapshot and its chunk.
        seconds: of the owner at work.
    """

    sent: int = 0
    introductions: int = 0
    received: int = 0
    chunks: int = 0
    rows: int = 0
    proposed: int = 0
    activations: int = 0
    lag: int = 0
    seconds: float = 0.0


class Pooled:
    """Activations of chunks, all of which come to the owner, extracted by workers some chunks ahead."""

    def __init__(self, pool: Pool, progress: Progress):
        self.pool, self.progress = pool, progress
        self._queue: deque[Chunk] = deque()  # to be handed out
        self._out: dict[str, Chunk] = {}  # and those handed out too, by digest
        self._arrived: dict[str, Done] = {}

    def __call__(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, dict[str, Tensor]]]:
        """Chunks in their order, each with its activations by the name of the site."""
        waiting = deque[Chunk]()
        for chunk in chunks:
            waiting.append(chunk)
            self._queue.append(chunk)
            self._out[chunk.digest] = chunk
            if len(waiting) > DEPTH * self.pool.count:
                yield waiting[0], self._activations(waiting.popleft())
        while waiting:
            yield waiting[0], self._activations(waiting.popleft())

    def _activations(self, chunk: Chunk) -> dict[str, Tensor]:
        begun = time.monotonic()
        while True:
            if (done := self._arrived.pop(chunk.digest, None)) is None:
                self._serve()
                continue
            if not isinstance(value := self.pool.get(done), Lost):
                break
            self._queue.extendleft(self._out[key] for key in value.keys)
        del self._out[chunk.digest]
        self.progress.extracted(chunk.tokens, time.monotonic() - begun)
        self.progress.report("progress", chunk.tokens)
        return {site: torch.from_numpy(x_nd.copy()) for site, x_nd in value.items()}

    def _serve(self) -> None:
        """Hand out chunks, and see which have arrived."""
        joined = len(self.pool.ready) == self.pool.count
        depth = DEPTH if joined else 1  # or the first worker would take what the next should have
        while self._queue and (hands := [hand for hand in self.pool.ready if len(hand.calls) < depth]):
            chunk = self._queue.popleft()
            hand = min(hands, key=lambda hand: len(hand.calls))
            self.pool.call(hand, chunk.digest, "extract", Windows.of(chunk))
        self.progress.check()
        for what in self.pool.poll(_POLL_SECONDS):
            if isinstance(what, Done):
                self._arrived[what.key] = what
            elif isinstance(what, Lost):
                self._queue.extendleft(self._out[key] for key in what.keys)


class Deciding:
    """Chunks of which only proposals and counts come to the owner, who decides and settles them in their order."""

    def __init__(self, pool: Pool, progress: Progress, traffic: Traffic, device: str):
        self.pool, self.progress, self.traffic, self.device = pool, progress, traffic, device

    def __call__(self, chunks: Iterator[Chunk], growing: Sequence[Growing]) -> Iterator[Chunk]:
        """The chunks, each once the dictionaries are what they are after it."""
        self.growing = growing
        self._ahead = [Ahead.of(each, self.device) for each in growing]
        self._closed = [each.clustering.sole_counts >= 2 for each in growing]
        self._news: dict[int, Any] = {}
        self._published = 0
        self._load = Counter[Hand]()
        self._flights: dict[int, Flight] = {}
        self._again: list[Flight] = []
        self._d = len(growing[0].clustering.center)
        self._position = next(each.clustering.position for each in growing if not each.stopped)
        self._reading, self._read_all = enumerate(chunks), False
        self._undecided = self._settled = 0  # index of the first chunk that is not
        before, counted = self.pool.received, time.monotonic()
        for hand in self.pool.ready:
            self._introduce(hand)
        while self._hand_out():
            for what in self.pool.poll(_POLL_SECONDS):
                busy = time.monotonic()
                if isinstance(what, Hand):
                    self._introduce(what)
                elif isinstance(what, Lost):
                    self._lose(what)
                else:
                    for chunk in self._receive(what):
                        now = time.monotonic()
                        self.progress.extracted(chunk.tokens, now - counted)
                        counted = now
                        yield chunk
                self.traffic.seconds += time.monotonic() - busy
            self.traffic.received = self.pool.received - before
            self.progress.check()

    def _introduce(self, hand: Hand) -> None:
        """Tell a worker of all exemplars there are."""
        known = [
            ahead.known(np.flatnonzero(growing.clustering.sole_counts >= 2))
            for ahead, growing in zip(self._ahead, self.growing, strict=True)
        ]
        hand.informed = self._published
        sent = size(known)
        self.traffic.sent += sent
        self.traffic.introductions += sent
        self.pool.call(hand, ("know", -1), "know", known)

    def _hand_out(self) -> bool:
        """Give chunks to workers; False when there is nothing left to do."""
        while hands := self.pool.ready:
            free = [hand for hand in hands if self._load[hand] < DEPTH and _to_extract(hand) < _AHEAD]
            if self._again:  # first, and however much the worker has: the others may wait for it
                flight = self._again.pop()
            elif not free or len(self._flights) >= DEPTH * self.pool.count:
                break
            elif (new := self._next_flight()) is not None:
                flight = new
            else:
                break
            self._give(flight, min(free or hands, key=lambda hand: (_to_extract(hand), self._load[hand])))
        over = all_stopped(self.growing) or (not self._flights and (self._read_all or all_stopped(self._ahead)))
        return not over

    def _next_flight(self) -> Flight | None:
        if self._read_all or all_stopped(self._ahead):
            return None
        index, chunk = next(self._reading, (0, None))
        if chunk is None:
            self._read_all = True
            return None
        self._read_all = bool(chunk.last)
        flight = self._flights[index] = Flight(index, chunk, Windows.of(chunk), self._position)
        self._position += len(chunk.kept)
        return flight

    def _give(self, flight: Flight, hand: Hand) -> None:
        flight.hand = hand
        self._load[hand] += 1
        self.traffic.sent += size(flight.windows)
        if flight.decisions is None:
            active = [not ahead.stopped for ahead in self._ahead]
            self.traffic.lag += flight.index - self._undecided
            given = ("propose", flight.index, flight.windows, flight.start, active)
        else:
            given = ("redo", flight.index, flight.windows, flight.start, [made.cuts for made in flight.decisions])
        self.pool.call(hand, (given[0], flight.index), *given, *self._untold(hand))

    def _untold(self, hand: Hand) -> list[Any]:
        """News that a worker has not been given, as objects that a host fetches once for all its workers."""
        news = [self._news[i] for i in range(hand.informed, self._published)]
        hand.informed = self._published
        for old in [i for i in self._news if all(i < other.informed for other in self.pool.ready)]:
            del self._news[old]
        return news

    def _lose(self, lost: Lost) -> None:
        """Have the chunks that a worker held done again."""
        for flight in self._flights.values():
            if flight.hand is lost.hand and flight.segments is None:
                flight.hand = flight.proposal = None
                self._again.append(flight)
        self._again.sort(key=lambda flight: -flight.index)
        del self._load[lost.hand]

    def _receive(self, done: Done) -> Iterator[Chunk]:
        """Take what a worker returned, and do what has become possible; gives chunks that are settled."""
        kind, index = done.key
        flight = self._flights.get(index)
        if kind != "know" and (flight is None or flight.hand is not done.hand):
            return  # another worker has the chunk now
        value = self.pool.get(done)
        if isinstance(value, Lost):
            self._lose(value)
        elif kind == "propose" and flight:
            dictionaries = [(ahead.site, ahead.clustering.k) for ahead in self._ahead]
            value.check(len(flight.chunk.kept), self._d, dictionaries, flight.where)
            flight.proposal = value
            while (ready := self._flights.get(self._undecided)) and ready.proposal is not None:
                self._decide(ready, ready.proposal)
        elif flight:
            flight.segments = value
            self._load[done.hand] -= 1
            while (ready := self._flights.get(self._settled)) and ready.segments is not None:
                self._settle(ready)
                yield ready.chunk
                if all_stopped(self.growing):
                    break  # what is still on its way is of no use

    def _decide(self, flight: Flight, proposal: Proposal) -> None:
        assert flight.hand is not None
        flight.skipped, flight.proposal = proposal.skipped, None
        flight.decisions = [
            NOTHING if ahead.stopped else ahead.decide(flight.chunk, proposal, i) for i, ahead in enumerate(self._ahead)
        ]
        self._undecided += 1
        self._publish(flight.decisions)
        self.traffic.chunks += 1
        self.traffic.rows += len(flight.chunk.kept)
        self.traffic.proposed += sum(map(len, proposal.rows.values()))
        self.traffic.activations += len(flight.chunk.kept) * self._d * 4 * len(proposal.rows)
        cuts = [made.cuts for made in flight.decisions]
        self.traffic.sent += size(cuts)
        self.pool.call(flight.hand, ("settle", flight.index), "settle", flight.index, cuts, *self._untold(flight.hand))

    def _publish(self, decisions: list[Decision]) -> None:
        """Make news of what was decided, if there is any."""
        closed = [self._newly_closed(i, growing) for i, growing in enumerate(self.growing)]
        if not any(len(made.births) for made in decisions) and not any(map(len, closed)):
            return
        exemplars = [made.exemplars.reshape(-1, self._d).numpy(force=True) for made in decisions]
        news = News(exemplars, [made.births for made in decisions], closed)
        self._news[self._published] = self.pool.ray.put(news)
        self._published += 1
        self.traffic.sent += size(news) * len({hand.node for hand in self.pool.ready})

    def _newly_closed(self, i: int, growing: Growing) -> np.ndarray:
        now = growing.clustering.sole_counts >= 2
        known = np.zeros(len(now), bool)
        known[: len(self._closed[i])] = self._closed[i][: len(now)]
        self._closed[i] = now
        return np.flatnonzero(now & ~known)

    def _settle(self, flight: Flight) -> None:
        """Take the counts of the chunk that is next: from here on it is done."""
        assert flight.decisions is not None and flight.segments is not None
        parts = zip(self.growing, self._ahead, flight.decisions, flight.segments, strict=True)
        for growing, ahead, decision, segments in parts:
            if growing.stopped:
                continue
            skipped = flight.skipped[growing.site]
            if growing.settings.strict and len(skipped):
                raise no_direction(len(skipped), len(flight.chunk.kept), int(skipped[0]))
            settle(growing, decision, segments, skipped, flight.where)
            ahead.stopped = growing.stopped or ahead.stopped
        end(self.growing, flight.chunk)
        del self._flights[flight.index]
        self._settled += 1


def _to_extract(hand: Hand) -> int:
    """Chunks that a worker has still to extract, the one at work included."""
    return sum(kind in ("propose", "redo") for kind, _ in hand.calls)
