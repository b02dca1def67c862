"""What a running build or annotation looks like: to people, and to programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .output import json_text
from .terminal import interval, table

if TYPE_CHECKING:
    from ..folder.summary import DictionarySummary
    from ..stream import ProgressEvent

_BYTES_PER_TOKEN = 4  # of text, roughly
_SEVERAL = 6  # dictionaries that a line names
_PLAIN_SECONDS = 15.0  # between lines when nobody looks at a terminal

_DOING = {"calibrating": "calibrating", "checkpoint": "saving", "lens": "logit lens and metrics"}  # else the usual
_MUCH_DISK = 1e9  # bytes
_ENDS = {
    "saturated": "saturated",
    "unseen": "missing mass",
    "budget": "token budget",
    "text": "end of text",
    None: "growing",
}


def dictionaries_table(summaries: Iterable[DictionarySummary]) -> Group:
    """One table per site, one row per dictionary, as it grows or as it is stored; 80 columns are enough."""
    of_site: dict[str, Table] = {}
    for s in summaries:
        if s.site not in of_site:
            names = ("percentile", "theta", "regions", "activations", "missing mass\n% (95 %)", "new of\nlast %")
            of_site[s.site] = table(*(f">{name}" for name in names), "ended by", title=s.site)
        mass = [100 * part for part in (s.unseen.estimate, s.unseen.low, s.unseen.high)]
        of_site[s.site].add_row(
            f"{s.percentile:g}",
            f"{s.threshold:.4f}",
            f"{s.k:,}",
            f"{s.n_activations:,}",
            interval(mass) if s.n_activations else "",
            f"{100 * s.recent:.2g}",
            _ENDS[s.stopped],
        )
    return Group(*of_site.values())


def unmixed(summaries: Iterable[DictionarySummary]) -> str | None:
    """What to know where later text brought more new regions than earlier text did."""
    for s in summaries:
        if s.uneven is not None:
            return (
                f"{s.site}, percentile {s.percentile:g}: {s.uneven[0]:,} regions were new in a part of the text and "
                f"{s.uneven[1]:,} in an equal part after it. The text is not mixed, and missing mass tells of text "
                "like that read, not of sources to come; shuffle the documents, or raise --shuffle-buffer"
            )
    return None


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A line on standard error that says what is being done, and how far it is."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = progress.add_task("", total=1)
    doing, printed = "", 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal doing, printed
        if what != doing:  # another rate
            progress.reset(task)
        progress.update(task, description=what, completed=done, total=total)
        if not console.is_terminal and (what != doing or time.monotonic() - printed > _PLAIN_SECONDS):
            printed = time.monotonic()
            console.print(f"{what} ({done:,} of {total:,})" if total > 1 else what, markup=False, highlight=False)
        doing = what

    with progress:
        yield report


@contextmanager
def display(as_json: bool, title: str = "", size: int | None = None) -> Iterator[Callable[[ProgressEvent], None]]:
    """What shows events as they come: JSON lines on standard output, or a display for people on standard error.

    size: bytes of the text, if they are known: the bar is measured against it where the budget is larger.
    """
    if as_json:
        yield _print_json
        return
    shown = _Display(size)
    if title:
        shown.print(title)
    with shown.live if shown.console.is_terminal else nullcontext():
        yield shown


def _print_json(event: ProgressEvent) -> None:
    sys.stdout.write(json_text(event.as_json()) + "\n")
    sys.stdout.flush()


class _Display:
    """A bar, and a table of the dictionaries that grow, on a terminal; a line now and then elsewhere."""

    def __init__(self, size: int | None = None) -> None:
        self.there = size and max(1, size // _BYTES_PER_TOKEN)
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.fields[about]}{task.total:,.0f} tokens"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.progress.add_task("loading", total=None, rate="", about="", visible=False)
        self.last_printed = 0.0

    def print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, event: ProgressEvent) -> None:
        disk = getattr(event, "disk_bytes", 0)
        if event.kind in ("start", "resume") and disk >= _MUCH_DISK:
            self.print(f"activations will take up to {disk / 1e9:,.1f} GB on disk, until they are no longer needed")
        growing = getattr(event, "dictionaries", None)  # none of an annotation, which has nothing that grows
        usual = "annotating" if growing is None else "clustering" if growing else "calibrating"
        rate = f"{event.tokens_per_second:,.0f} tokens/s" if event.tokens_per_second else ""
        total, about = self._total(event)
        read: dict[str, Any] = {
            "completed": event.tokens,
            "total": total,
            "about": about,
            "rate": rate,
            "visible": True,
        }
        self.progress.update(self.task, description=_DOING.get(event.kind, usual), **read)
        if self.live.is_started:
            self.live.update(Group(self.progress, *([dictionaries_table(growing)] if growing else [])))
        elif event.kind != "progress" or time.monotonic() - self.last_printed > _PLAIN_SECONDS:
            self.last_printed = time.monotonic()
            line = f"{event.kind}: {event.tokens:,} of {about}{total:,} tokens  {rate}  {_in_a_line(growing or ())}"
            self.print(line.rstrip())

    def _total(self, event: ProgressEvent) -> tuple[int, str]:
        """Tokens that will be read, and a word before them if that is a guess from the size of the text."""
        if self.there is None or self.there >= event.max_tokens:
            return event.max_tokens, ""
        return max(self.there, event.tokens), "about "


def _in_a_line(growing: Sequence[DictionarySummary]) -> str:
    """Where dictionaries stand; many of them together."""
    if len(growing) > _SEVERAL:
        ended = sum(each.stopped is not None for each in growing)
        return f"{len(growing)} dictionaries: {sum(each.k for each in growing):,} regions, {ended} ended"
    return "  ".join(
        f"{s.site} percentile {s.percentile:g}: {s.k:,} regions, missing mass {s.unseen.estimate:.2%}" for s in growing
    )
