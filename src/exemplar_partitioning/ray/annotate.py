"""The annotation on a Ray cluster: a map over chunks to sums that merge, and their reduction at one owner.

Chunks go to workers in any order. From time to time no more are handed out; when those at work are done, each worker
hands over what it gathered since the last time, and what is merged then is a checkpoint.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence

from ..annotating.gather import Gathered
from ..annotating.run import AnnotateJob, Gathering
from ..core.dictionary import Dictionary
from ..stream import Chunk, Progress
from .pool import Done, Hand, Lost, Pool
from .team import Ray, team
from .worker import AnnotationWorker

_DEPTH = 2  # chunks a worker has: one at work, one to go on with
_POLL_SECONDS = 0.2
_KNOW, _HAND_OVER = "know", "hand_over"  # keys of calls that are not of a chunk


def on(ray: Ray) -> Gathering:
    """The workers of a cluster, who gather as one process would."""

    def gather(
        job: AnnotateJob, chunks: Iterator[Chunk], gathered: Gathered, progress: Progress
    ) -> Generator[Sequence[Chunk]]:
        context = job.dictionaries[0].config.text.windowing.context_size
        with team(ray, AnnotationWorker, job.reader.model, job.sites, context_size=context) as pool:
            known = [
                (d.config.site.name, Dictionary(d.center.cpu(), d.exemplars.cpu(), d.threshold, d.device))
                for d in job.dictionaries
            ]
            yield from Waves(pool, pool.ray.put(known), gathered, progress)(chunks)

    return gather


class Waves:
    """Has chunks taken by workers, and merges what comes of them, again and again."""

    def __init__(self, pool: Pool, known: object, gathered: Gathered, progress: Progress):
        self.pool, self.gathered, self.progress = pool, gathered, progress
        self._known = known
        self._again: deque[Chunk] = deque()
        self._at_work: dict[str, Chunk] = {}  # by digest
        self._held: dict[Hand, list[Chunk]] = {}  # taken by a worker and not handed over yet
        self._counted = time.monotonic()

    def __call__(self, chunks: Iterator[Chunk]) -> Generator[Sequence[Chunk]]:
        """Chunks whose evidence is merged, a wave at a time: until it is time for a checkpoint, or to stop."""
        more = True
        while more:
            wave: list[Chunk] = []
            while True:
                closing = self.progress.stop() or bool(wave and self.progress.due)
                while more and not closing and (hand := self._free()) is not None:
                    if (chunk := next(chunks, None)) is None:
                        more = False
                        break
                    wave.append(chunk)
                    self._give(hand, chunk)
                while self._again and (hand := self._free()) is not None:
                    self._give(hand, self._again.popleft())
                if (closing or not more) and not self._again and not self._at_work and self._merged():
                    break
                for what in self.pool.poll(_POLL_SECONDS):
                    self._receive(what)
            yield wave

    def _free(self) -> Hand | None:
        hands = [hand for hand in self.pool.ready if hand in self._held and len(hand.calls) < _DEPTH]
        return min(hands, key=lambda hand: len(hand.calls), default=None)

    def _give(self, hand: Hand, chunk: Chunk) -> None:
        self._at_work[chunk.digest] = chunk
        self.pool.call(hand, chunk.digest, "add", chunk)

    def _receive(self, what: Done | Lost | Hand) -> None:
        if isinstance(what, Hand):
            self._held[what] = []
            self.pool.call(what, _KNOW, "know", self._known)
        elif isinstance(what, Lost):
            self._lose(what)
        elif what.hand not in self._held:  # lost since it answered, and what it gathered with it
            self._lose(Lost(what.hand, [what.key]))
        elif isinstance(value := self.pool.get(what), Lost):
            self._lose(value)
        elif what.key == _HAND_OVER:
            self.gathered.merge(value)
            self._held[what.hand] = []
        elif what.key != _KNOW:
            chunk = self._at_work.pop(what.key)
            self._held[what.hand].append(chunk)
            now = time.monotonic()
            self.progress.extracted(chunk.tokens, now - self._counted)
            self._counted = now
            self.progress.report("progress", sum(c.tokens for held in self._held.values() for c in held))

    def _lose(self, lost: Lost) -> None:
        """Have all chunks done again that went with a worker."""
        self._again.extend(self._held.pop(lost.hand, []))
        self._again.extend(self._at_work.pop(key) for key in lost.keys if key in self._at_work)

    def _merged(self) -> bool:
        """Whether everything taken is merged; asks one worker after the other, so that one answer is here at a time."""
        waiting = [hand for hand, held in self._held.items() if held]
        if waiting and not any(_HAND_OVER in hand.calls for hand in waiting):
            self.pool.call(waiting[0], _HAND_OVER, "hand_over")
        return not waiting
