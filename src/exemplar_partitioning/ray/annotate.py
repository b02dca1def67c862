"""The annotation on a Ray cluster: a map over chunks to sums that merge, and their reduction at one owner.

Chunks go to workers in any order. From time to time no more are handed out; when those at work are done, each worker
hands over what it gathered since the last time, and what is merged then is a checkpoint.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from ..annotating.run import Run
from ..core.dictionary import Dictionary
from ..stream import Chunk
from .pool import Done, Hand, Lost, Pool
from .team import Ray, team
from .worker import AnnotationWorker

_DEPTH = 2  # chunks a worker has: one at work, one to go on with
_POLL_SECONDS = 0.2
_KNOW, _HAND_OVER = "know", "hand_over"  # keys of calls that are not of a chunk


class RayAnnotation(Run):
    """An annotation whose evidence is gathered by the workers of a pool."""

    pool: Pool

    def __init__(self, *given: Any, ray: Ray):
        super().__init__(*given)
        self.ray = ray
        self._again: deque[Chunk] = deque()
        self._at_work: dict[str, Chunk] = {}  # by digest
        self._held: dict[Hand, list[Chunk]] = {}  # taken by a worker and not handed over yet

    def _gather(self, chunks: Iterator[Chunk], checkpoint_seconds: float) -> None:
        context = self.dictionaries[0].config.text.context_size
        with team(
            self.ray,
            AnnotationWorker,
            self.loaded,
            list(self.sites),
            batch_size=self.extractor.batch_size,
            context_size=context,
        ) as self.pool:
            self._known = self.pool.ray.put(
                [
                    (d.config.site.name, Dictionary(d.center.cpu(), d.exemplars.cpu(), d.threshold, d.device))
                    for d in self.dictionaries
                ]
            )
            self._begun = time.monotonic()
            while self._wave(chunks, checkpoint_seconds):
                self._save()

    def _wave(self, chunks: Iterator[Chunk], seconds: float) -> bool:
        """Have chunks taken for some time, then merge what came of them; False when there are no more."""
        taken: list[Chunk] = []
        more = True
        while True:
            closing = self.stop() or bool(taken and time.monotonic() - self.saved >= seconds)
            while more and not closing and (hand := self._free()) is not None:
                if (chunk := next(chunks, None)) is None:
                    more = False
                    break
                taken.append(chunk)
                self._give(hand, chunk)
            while self._again and (hand := self._free()) is not None:
                self._give(hand, self._again.popleft())
            if (closing or not more) and not self._again and not self._at_work and self._merged():
                break
            for what in self.pool.poll(_POLL_SECONDS):
                self._take(what)
        for chunk in taken:
            self._name_documents(chunk)
            self._count(chunk)
        if self.stop():
            self._interrupted()
        return more

    def _free(self) -> Hand | None:
        hands = [hand for hand in self.pool.ready if hand in self._held and len(hand.calls) < _DEPTH]
        return min(hands, key=lambda hand: len(hand.calls), default=None)

    def _give(self, hand: Hand, chunk: Chunk) -> None:
        self._at_work[chunk.digest] = chunk
        self.pool.call(hand, chunk.digest, "add", chunk)

    def _take(self, what: Done | Lost | Hand) -> None:
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
            self.extracted += chunk.tokens
            self.extracting = time.monotonic() - self._begun
            self._tell("progress", sum(c.tokens for held in self._held.values() for c in held))

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
