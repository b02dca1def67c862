"""The build on a Ray cluster: workers propose, one owner decides in stream order, workers count.

A chunk goes to one worker, which extracts it and returns what its snapshot does not cover. Once all chunks before
are decided, so is this; then its worker hears what was born, and returns counts. Chunks are settled in stream
order too, and after each the state is that of a build by one process after the same chunk.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..building.growing import Growing
from ..building.run import Run, Stop
from ..building.settings import BuildResult
from ..core.geometry import no_direction
from ..stream import Chunk
from .deciding import NOTHING, Ahead, Decision, end, settle
from .pool import Done, Hand, Lost, Pool
from .team import Ray, team
from .wire import News, Proposal, Segment, Windows, size
from .worker import BuildWorker

DEPTH = 3  # chunks a worker holds: one at work, one that waits for decisions, one to go on with
_AHEAD = 2  # of these at most so many that it has still to extract: at the end of the text nobody has more to do
_POLL_SECONDS = 0.2  # between two looks at whether to stop


@dataclass(eq=False)
class Flight:
    """A chunk between its reading and its settlement. start: row of the stream that its first one is."""

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

    introductions: bytes sent to workers as they joined, part of sent.
    proposed: rows that snapshots did not cover.  activations: bytes of all activations, at all sites.
    lag: sum over chunks of how many were decided between a snapshot and its chunk.  seconds: of the owner at work.
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


class RayBuild(Run):
    """A build whose chunks are extracted by the workers of a pool."""

    pool: Pool

    def __init__(self, *given: Any, ray: Ray):
        super().__init__(*given)
        self.ray, self.traffic = ray, Traffic()
        self._queue: deque[Chunk] = deque()  # chunks that calibrate, to be handed out
        self._out: dict[str, Chunk] = {}  # and those handed out, by digest
        self._arrived: dict[str, Done] = {}

    def run(self) -> BuildResult:
        if self.workspace.finished:
            return super().run()
        s = self.settings
        with team(
            self.ray, BuildWorker, self.loaded, s.sites, batch_size=s.batch_size, context_size=s.context_size
        ) as self.pool:
            return super().run()

    # Chunks that calibrate: their activations all go to the owner, which keeps and clusters them as any build does

    def _collect(self, stream: Iterator[Chunk]) -> list[Chunk]:
        return super()._collect(stream if self.state.growing else self._handed_out(stream))

    def _handed_out(self, stream: Iterator[Chunk]) -> Iterator[Chunk]:
        """Chunks of the stream as far as they calibrate, those after each already with the workers."""
        known, rows, waiting = len(self.state.spilled), sum(self.state.spilled), deque[Chunk]()
        for index, chunk in enumerate(stream):
            waiting.append(chunk)
            if index >= known:
                self._queue.append(chunk)
                self._out[chunk.digest] = chunk
                rows += len(chunk.kept)
            full = bool(chunk.last) or (rows >= self.settings.calibration_sample and index + 1 >= known)
            while waiting and (full or len(waiting) > DEPTH * self.pool.count):
                yield waiting.popleft()
            if full:
                return

    def _extract(self, chunk: Chunk) -> dict[str, Tensor]:
        import torch

        begun = time.monotonic()
        while True:
            if (done := self._arrived.pop(chunk.digest, None)) is None:
                self._serve()
                continue
            if not isinstance(value := self.pool.get(done), Lost):
                break
            self._queue.extendleft(self._out[key] for key in value.keys)
        del self._out[chunk.digest]
        self.extracted += chunk.tokens
        self.extracting += time.monotonic() - begun
        self._tell("progress", chunk.tokens)
        return {site: torch.from_numpy(x_nd.copy()) for site, x_nd in value.items()}

    def _serve(self) -> None:
        """Hand out chunks that calibrate, and see which have arrived."""
        joined = len(self.pool.ready) == self.pool.count
        depth = DEPTH if joined else 1  # or the first worker would take what the next should have
        while self._queue and (hands := [hand for hand in self.pool.ready if len(hand.calls) < depth]):
            chunk = self._queue.popleft()
            hand = min(hands, key=lambda hand: len(hand.calls))
            self.pool.call(hand, chunk.digest, "extract", Windows.of(chunk))
        if self.stop():
            raise Stop
        for what in self.pool.poll(_POLL_SECONDS):
            if isinstance(what, Done):
                self._arrived[what.key] = what
            elif isinstance(what, Lost):
                self._queue.extendleft(self._out[key] for key in what.keys)

    # All others: only proposals and counts go to the owner

    def _cluster(self, collected: list[Chunk], stream: Iterator[Chunk]) -> None:
        super()._cluster(collected, iter(()))
        growing = self.state.growing
        if collected[-1].last or _stopped(growing):
            return
        self._ahead = [Ahead.of(one, self.core_device) for one in growing]
        self._closed = [one.clustering.soles >= 2 for one in growing]
        self._news: dict[int, Any] = {}
        self._published = 0
        self._load = Counter[Hand]()
        self._flights: dict[int, Flight] = {}
        self._again: list[Flight] = []
        self._position = next(one.clustering.position for one in growing if not one.stopped)
        self._reading, self._read_all = enumerate(stream, len(collected)), False
        self._undecided, self._settled_tokens = self.state.clustered, 0
        self._distribute()

    def _distribute(self) -> None:
        before, begun = self.pool.received, time.monotonic() - self.extracting
        tokens = self.extracted
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
                    self._take(what)
                self.traffic.seconds += time.monotonic() - busy
            self.traffic.received = self.pool.received - before
            self.extracting, self.extracted = time.monotonic() - begun, tokens + self._settled_tokens
            if self.stop():
                raise Stop

    def _introduce(self, hand: Hand) -> None:
        """Tell a worker of all exemplars there are."""
        known = [
            one.known(np.flatnonzero(growing.clustering.soles >= 2))
            for one, growing in zip(self._ahead, self.state.growing, strict=True)
        ]
        hand.told = self._published
        told = size(known)
        self.traffic.sent += told
        self.traffic.introductions += told
        self.pool.call(hand, ("know", -1), "know", known)

    def _hand_out(self) -> bool:
        """Give chunks to workers; False when there is nothing left to do."""
        while hands := self.pool.ready:
            free = [hand for hand in hands if self._load[hand] < DEPTH and _to_extract(hand) < _AHEAD]
            if self._again:  # first, and however much the worker has: the others may wait for it
                flight = self._again.pop()
            elif not free or len(self._flights) >= DEPTH * self.pool.count:
                break
            elif (found := self._next_flight()) is not None:
                flight = found
            else:
                break
            self._give(flight, min(free or hands, key=lambda hand: (_to_extract(hand), self._load[hand])))
        over = _stopped(self.state.growing) or (not self._flights and (self._read_all or _stopped(self._ahead)))
        return not over

    def _next_flight(self) -> Flight | None:
        if self._read_all or _stopped(self._ahead):
            return None
        for index, chunk in self._reading:
            self._read_all = bool(chunk.last)
            if index < self.state.clustered:  # by an earlier process
                self._read(chunk, index + 1)
                if chunk.last:
                    end(self.state.growing, chunk)
                continue
            flight = Flight(index, chunk, Windows.of(chunk), self._position)
            self._position += len(chunk.kept)
            self._flights[index] = flight
            return flight
        return None

    def _give(self, flight: Flight, hand: Hand) -> None:
        flight.hand = hand
        self._load[hand] += 1
        self.traffic.sent += size(flight.windows)
        if flight.decisions is None:
            active = [not one.stopped for one in self._ahead]
            self.traffic.lag += flight.index - self._undecided
            given = ("propose", flight.index, flight.windows, flight.start, active)
        else:
            given = ("redo", flight.index, flight.windows, flight.start, [made.cuts for made in flight.decisions])
        self.pool.call(hand, (given[0], flight.index), *given, *self._untold(hand))

    def _untold(self, hand: Hand) -> list[Any]:
        """News that a worker has not been given, as objects that a host fetches once for all its workers."""
        news = [self._news[i] for i in range(hand.told, self._published)]
        hand.told = self._published
        for old in [i for i in self._news if all(i < other.told for other in self.pool.ready)]:
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

    def _take(self, done: Done) -> None:
        """Take what a worker returned, and do what has become possible."""
        kind, index = done.key
        flight = self._flights.get(index)
        if kind != "know" and (flight is None or flight.hand is not done.hand):
            return  # another worker has the chunk now
        value = self.pool.get(done)
        if isinstance(value, Lost):
            self._lose(value)
        elif kind == "propose" and flight:
            dictionaries = [(one.site, one.clustering.k) for one in self._ahead]
            value.check(len(flight.chunk.kept), self.loaded.info.d_model, dictionaries, flight.where)
            flight.proposal = value
            while (ready := self._flights.get(self._undecided)) and ready.proposal is not None:
                self._decide(ready, ready.proposal)
        elif flight:
            flight.segments = value
            self._load[done.hand] -= 1
            while (ready := self._flights.get(self.state.clustered)) and ready.segments is not None:
                self._settle(ready)
                if _stopped(self.state.growing):
                    break  # what is still on its way is of no use

    def _decide(self, flight: Flight, proposal: Proposal) -> None:
        assert flight.hand is not None
        flight.skipped, flight.proposal = proposal.skipped, None
        flight.decisions = [
            NOTHING if one.stopped else one.decide(flight.chunk, proposal, i) for i, one in enumerate(self._ahead)
        ]
        self._undecided += 1
        self._publish(flight.decisions)
        self.traffic.chunks += 1
        self.traffic.rows += len(flight.chunk.kept)
        self.traffic.proposed += sum(map(len, proposal.rows.values()))
        self.traffic.activations += len(flight.chunk.kept) * self.loaded.info.d_model * 4 * len(self.settings.sites)
        cuts = [made.cuts for made in flight.decisions]
        self.traffic.sent += size(cuts)
        self.pool.call(flight.hand, ("settle", flight.index), "settle", flight.index, cuts, *self._untold(flight.hand))

    def _publish(self, decisions: list[Decision]) -> None:
        """Make news of what was decided, if there is any."""
        closed = [self._newly_closed(i, growing) for i, growing in enumerate(self.state.growing)]
        if not any(len(made.births) for made in decisions) and not any(map(len, closed)):
            return
        d = self.loaded.info.d_model
        exemplars = [made.exemplars.reshape(-1, d).numpy(force=True) for made in decisions]
        news = News(exemplars, [made.births for made in decisions], closed)
        self._news[self._published] = self.pool.ray.put(news)
        self._published += 1
        self.traffic.sent += size(news) * len({hand.node for hand in self.pool.ready})

    def _newly_closed(self, i: int, growing: Growing) -> np.ndarray:
        now = growing.clustering.soles >= 2
        known = np.zeros(len(now), bool)
        known[: len(self._closed[i])] = self._closed[i][: len(now)]
        self._closed[i] = now
        return np.flatnonzero(now & ~known)

    def _settle(self, flight: Flight) -> None:
        """Take the counts of the chunk that is next: from here on it is done."""
        growing, state = self.state.growing, self.state
        assert flight.decisions is not None and flight.segments is not None
        for one, ahead, decision, segments in zip(growing, self._ahead, flight.decisions, flight.segments, strict=True):
            if one.stopped:
                continue
            skipped = flight.skipped[one.site]
            if self.settings.strict and len(skipped):
                raise no_direction(len(skipped), len(flight.chunk.kept), int(skipped[0]))
            settle(one, decision, segments, skipped, flight.where)
            ahead.stopped = one.stopped or ahead.stopped
        for _ in end(growing, flight.chunk):
            self._tell("dictionary")
        del self._flights[flight.index]
        self._settled_tokens += flight.chunk.tokens
        self._tell("progress")
        state.clustered, state.digest = flight.index + 1, flight.chunk.digest
        self._save_if_due()
        self._read(flight.chunk, flight.index + 1)

    def _notes(self) -> dict[str, Any]:
        return {"ray": {"workers": self.pool.count, "workers_lost": self.pool.lost, **vars(self.traffic)}}


def _to_extract(hand: Hand) -> int:
    """Chunks that a worker has still to extract, the one at work included."""
    return sum(kind in ("propose", "redo") for kind, _ in hand.calls)


def _stopped(growing: Sequence[Growing]) -> bool:
    return all(one.stopped for one in growing)
