"""Long computations: each done once, in a thread of its own, while other questions are answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

PATIENCE = 1.0  # seconds that a question waits before it is told to come back

T = TypeVar("T")


class StillComputing(Exception):
    """The answer is on its way; seconds: for how long it has been."""

    def __init__(self, seconds: float):
        super().__init__(f"still computing, for {seconds:.0f} seconds now; ask again")
        self.seconds = seconds


class Background:
    """Results by key: computed when first asked for, one at a time, and kept."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, tuple[Future[Any], float]] = {}  # with the time each was begun at
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The result; what `compute` raises, once, so that the next question tries anew.

        Raises StillComputing if it is not there within PATIENCE.
        """
        with self._lock:
            if key not in self._tasks:
                self._tasks[key] = Future(), time.monotonic()
                # a daemon, unlike the threads of an executor: the end of the program does not wait for it
                threading.Thread(target=self._run, args=(self._tasks[key][0], compute), daemon=True).start()
            task = future, started = self._tasks[key]
        if not wait([future], PATIENCE).done:
            raise StillComputing(time.monotonic() - started)
        if future.exception() is not None:
            with self._lock:
                if self._tasks.get(key) is task:
                    del self._tasks[key]
        return future.result()

    @property
    def busy(self) -> bool:
        """Whether something is being computed."""
        return not all(future.done() for future, _ in list(self._tasks.values()))

    def peek(self, key: Hashable) -> Any | None:
        """The result if it is there already."""
        future, _ = self._tasks.get(key, (Future(), 0.0))
        return future.result() if future.done() and future.exception() is None else None

    def _run(self, future: Future[T], compute: Callable[[], T]) -> None:
        try:
            with self._turn:
                future.set_result(compute())
        except Exception as error:
            future.set_exception(error)
