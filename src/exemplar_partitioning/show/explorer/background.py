"""Long computations: each done once, in a thread of its own, while other questions are answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

from ...compare.progress import Tell
from .turns import CalledOff

PATIENCE = 1.0  # seconds that a question waits before it is told to come back

T = TypeVar("T")


class StillComputing(Exception):
    """The answer is on its way; seconds: for how long it has been; share: how much is done, 0 to 1."""

    def __init__(self, seconds: float, share: float):
        super().__init__(f"still computing, for {seconds:.0f} seconds now; ask again")
        self.seconds, self.share = seconds, share


class Task(Generic[T]):
    """One of them, under way or done."""

    def __init__(self) -> None:
        self.future: Future[T] = Future()
        self.begun, self.share, self.stopped = time.monotonic(), 0.0, False

    def tell(self, share: float) -> None:
        """Take down how much is done. Raises CalledOff once nobody wants it any more."""
        self.share = share
        if self.stopped:
            raise CalledOff("stopped: ask again to begin anew")  # nobody hears it


class Background:
    """Results by key: computed when first asked for, one at a time, and kept."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, Task[Any]] = {}
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def get(self, key: Hashable, compute: Callable[[Tell], T]) -> T:
        """The result; what `compute` raises, once, so that the next question tries anew.

        Raises StillComputing if it is not there within PATIENCE, or was stopped meanwhile. `compute` is given what to
        tell its progress.
        """
        with self._lock:
            if key not in self._tasks:
                self._tasks[key] = Task()
                # a daemon, unlike the threads of an executor: the end of the program does not wait for it
                threading.Thread(target=self._run, args=(self._tasks[key], compute), daemon=True).start()
            task: Task[T] = self._tasks[key]
        if not wait([task.future], PATIENCE).done or task.stopped:
            raise StillComputing(time.monotonic() - task.begun, task.share)
        if task.future.exception() is not None:
            with self._lock:
                if self._tasks.get(key) is task:
                    del self._tasks[key]
        return task.future.result()

    def stop(self, key: Hashable) -> bool:
        """End what is being computed, at its next telling; whether there was such a thing."""
        with self._lock:
            task = self._tasks.get(key)
            if task is None or task.future.done():
                return False
            task.stopped = True
            del self._tasks[key]  # the next question begins anew
            return True

    @property
    def busy(self) -> bool:
        """Whether something is being computed."""
        return self._turn.locked()

    def peek(self, key: Hashable) -> Any | None:
        """The result if it is there already."""
        future = self._tasks[key].future if key in self._tasks else Future[Any]()
        return future.result() if future.done() and future.exception() is None else None

    def _run(self, task: Task[T], compute: Callable[[Tell], T]) -> None:
        try:
            with self._turn:
                task.tell(0)  # it may have been stopped while it waited
                task.future.set_result(compute(task.tell))
        except Exception as error:
            task.future.set_exception(error)
