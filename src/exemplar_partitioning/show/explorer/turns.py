"""Whose turn it is with a model: one at a time, in the order they came; who waits or works can be called off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import EPError, ResourceError

MOST = 16  # that wait or work
_LOOK = 0.2  # seconds between two looks at whether one is called off


class CalledOff(EPError):
    """The page asked for something newer, or is gone."""


class Job:
    """Something asked of the model. page: the newest of a page calls off the ones before."""

    def __init__(self, page: str = ""):
        self.page = page
        self._off = threading.Event()

    def call_off(self) -> None:
        self._off.set()

    def check(self) -> None:
        """Raise CalledOff if nobody wants it any more."""
        if self._off.is_set():
            raise CalledOff("called off: the page asked for something newer, or is gone")


class Turns:
    """A queue of jobs, the first of which has its turn."""

    def __init__(self) -> None:
        self._queue: list[Job] = []
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, job: Job) -> Iterator[None]:
        """Wait for a turn, and have it. Raises CalledOff, or ResourceError if too many wait."""
        with self._changed:
            for other in self._queue:
                if job.page and other.page == job.page:
                    other.call_off()
            if len(self._queue) >= MOST:
                raise ResourceError(f"{MOST} texts wait for the model already; try again in some seconds")
            self._queue.append(job)
        try:
            self._wait(job)
            yield
        finally:
            with self._changed:
                self._queue.remove(job)
                self._changed.notify_all()

    def pass_on(self, job: Job) -> None:
        """Let all others who wait go first. Raises CalledOff."""
        with self._changed:
            self._queue.remove(job)
            self._queue.append(job)
            self._changed.notify_all()
        self._wait(job)

    def _wait(self, job: Job) -> None:
        with self._changed:
            while self._queue[0] is not job:
                job.check()
                self._changed.wait(_LOOK)
        job.check()
