"""Many cases in one process that may die: what each came to, crashes and hangs included."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pkgutil import walk_packages

import exemplar_partitioning as ep

FEW = ["exemplar_partitioning.building", "exemplar_partitioning.annotating", "pytest"]
_LEFT_OUT = ("__main__", ".templates", ".ray")
# All that commands import, for many of them: it is there in the process that they are forked from.
PRELOAD = [
    *(m.name for m in walk_packages(ep.__path__, "exemplar_partitioning.") if not any(w in m.name for w in _LEFT_OUT)),
    *("transformers.models.llama.modeling_llama", "sklearn.manifold", "sklearn.linear_model", "matplotlib.figure"),
    *("matplotlib.backends.backend_svg", "pyarrow.parquet", "rich.table", "pytest"),
]
SECONDS = 30.0  # of a case; beyond, it hangs
MEMORY = 4 << 30  # bytes a process may have beyond what it starts with

SAME, REFUSED, OTHER, WRONG = "same result", "refused clearly", "read as it stands", "wrong"


@dataclass(frozen=True)
class Outcome:
    """Of one case: one of SAME, REFUSED, OTHER, WRONG, and what was said."""

    case: int
    kind: str
    said: str


Work = Callable[[int], tuple[str, str]]


def run(prepare: Callable[..., Work], given: tuple, cases: Iterable[int], seconds: float = SECONDS) -> list[Outcome]:
    """Do cases in a process of its own, in a new one after each that crashes or takes too long.

    prepare: a function of a module; called there with `given`, it returns the work: case to (kind, said).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(FEW)
    left, found = list(cases), []
    while left:
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, prepare, given, left))
        process.start()
        theirs.close()
        ended = _collect(mine, found, len(left), 120.0, seconds)
        process.kill() if ended else None
        process.join()
        done = {outcome.case for outcome in found}
        left = [case for case in left if case not in done]
        if left:
            found.append(Outcome(left.pop(0), WRONG, ended or f"the process died: exit code {process.exitcode}"))
    return found


def _collect(mine: Connection, found: list[Outcome], count: int, first: float, seconds: float) -> str | None:
    """Take outcomes as they come; what is wrong where none comes in time, None at the end of all."""
    with contextlib.suppress(EOFError):
        for index in range(count):
            if not mine.poll(seconds if index else first):
                return f"no answer within {seconds:g} s"
            found.append(Outcome(*mine.recv()))
    return None


def _serve(connection: Connection, prepare: Callable[..., Work], given: tuple, cases: list[int]) -> None:
    work = prepare(*given)
    with open("/proc/self/statm") as file:  # noqa: PTH123
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    for case in cases:
        try:
            kind, said = work(case)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-4:]
            at = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(where))
            kind, said = WRONG, f"{type(error).__name__}: {str(error)[:200]} at {at}"
        connection.send((case, kind, said))
