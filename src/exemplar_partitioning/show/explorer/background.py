"""Long computations: each done once, in a thread of its own, while other questions are answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
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
        self._tasks: dict[Hashable, _Task] = {}
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The result; what `compute` raises, once, so that the next question tries anew.

        Raises StillComputing if it is not there within PATIENCE.
        """
        with self._lock:
            task = self._tasks.get(key)
            if task is None:
                task = self._tasks[key] = _Task(compute, self._turn)
        if not task.done.wait(PATIENCE):
            raise StillComputing(time.monotonic() - task.started)
        if task.error is not None:
            with self._lock:
                if self._tasks.get(key) is task:
                    del self._tasks[key]
            raise task.error
        return task.result

    @property
    def busy(self) -> bool:
        """Whether something is being computed."""
        return any(not task.done.is_set() for task in self._tasks.values())

    def peek(self, key: Hashable) -> Any | None:
        """The result if it is there already."""
        task = self._tasks.get(key)
        return task.result if task is not None and task.done.is_set() and task.error is None else None


class _Task:
    def __init__(self, compute: Callable[[], Any], turn: threading.Lock):
        self.started, self.done = time.monotonic(), threading.Event()
        self.result: Any = None
        self.error: Exception | None = None
        threading.Thread(target=self._run, args=(compute, turn), daemon=True).start()

    def _run(self, compute: Callable[[], Any], turn: threading.Lock) -> None:
        try:
            with turn:
                self.result = compute()
        except Exception as error:
            self.error = error
        finally:
            self.done.set()
