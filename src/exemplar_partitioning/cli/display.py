"""What a running build looks like: to people, and to programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .output import json_text
from .terminal import interval, table

if TYPE_CHECKING:
    from ..annotating.run import AnnotateEvent
    from ..building.settings import DictionarySummary, Event
    from ..folder.schema import Config

_PLAIN_SECONDS = 15.0  # between lines when nobody looks at a terminal

_ENDS = {
    "saturated": "saturated",
    "unseen": "missing mass",
    "budget": "token budget",
    "text": "end of text",
    None: "growing",
}


def dictionaries_table(summaries: Iterable[DictionarySummary | Config]) -> Table:
    """One row per dictionary, as it grows or as it is stored."""
    shown = table("site", ">percentile", ">theta", ">regions", ">activations", ">missing mass % (95 %)", "ended by")
    for summary in summaries:
        shown.add_row(*_cells(**_facts(summary)))
    return shown


def _facts(summary: DictionarySummary | Config) -> dict[str, Any]:
    if hasattr(summary, "unseen"):
        return vars(summary)
    config, build = cast("Config", summary), cast("Config", summary).build
    return {
        "site": config.site.name,
        "percentile": config.calibration.percentile,
        "threshold": config.calibration.threshold,
        **{name: getattr(build, name) for name in ("k", "n_activations", "unseen", "stopped")},
    }


def _cells(
    *, site: str, percentile: float, threshold: float, k: int, n_activations: int, unseen: Any, stopped: str | None
) -> list[str]:
    mass = interval([100 * part for part in (unseen.estimate, unseen.low, unseen.high)]) if n_activations else ""
    return [site, f"{percentile:g}", f"{threshold:.4f}", f"{k:,}", f"{n_activations:,}", mass, _ENDS[stopped]]


def tokens_progress(console: Console, *, transient: bool = False) -> Progress:
    """A bar of tokens read, with their rate in the field `rate`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
    )


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A line on standard error that says what is being done, and how far it is."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    task = progress.add_task("", total=1)

    def report(what: str, done: int, total: int) -> None:
        progress.update(task, description=what, completed=done, total=total)
        if not console.is_terminal:
            console.print(f"{what} ({done} of {total})" if total > 1 else what, markup=False, highlight=False)

    with progress:
        yield report


class JsonLines:
    """Events as JSON lines on standard output."""

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: Event | AnnotateEvent) -> None:
        sys.stdout.write(json_text(event.as_json()) + "\n")
        sys.stdout.flush()


class LiveDisplay:
    """A progress bar and a table on a terminal; a line now and then elsewhere. Both on standard error."""

    def __init__(self, model: str, folder: Path):
        self.console = Console(stderr=True)
        self.model, self.folder = model, folder
        self.progress = tokens_progress(self.console)
        self.task = self.progress.add_task("loading", total=None, rate="", visible=False)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.last_printed = 0.0

    def __enter__(self) -> LiveDisplay:
        self.console.print(f"Building {self.model} into {self.folder}", markup=False, highlight=False)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live.is_started:
            self.live.stop()

    def __call__(self, event: Event) -> None:
        doing = {"calibrating": "calibrating", "checkpoint": "saving"}.get(
            event.kind, "clustering" if event.dictionaries else "calibrating"
        )
        rate = f"{event.tokens_per_second:,.0f} tokens/s" if event.tokens_per_second else ""
        self.progress.update(
            self.task,
            description=doing,
            completed=event.tokens,
            total=event.max_tokens,
            rate=rate,
            visible=True,
        )
        if self.live.is_started:
            parts: list[Progress | Table] = [self.progress]
            if event.dictionaries:
                parts.append(dictionaries_table(event.dictionaries))
            self.live.update(Group(*parts))
        elif event.kind != "progress" or time.monotonic() - self.last_printed > _PLAIN_SECONDS:
            self.last_printed = time.monotonic()
            regions = "  ".join(
                f"{s.site} percentile {s.percentile:g}: {s.k:,} regions, missing mass {s.unseen.estimate:.2%}"
                for s in event.dictionaries
            )
            line = f"{event.kind}: {event.tokens:,} of {event.max_tokens:,} tokens  {rate}  {regions}"
            self.console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
