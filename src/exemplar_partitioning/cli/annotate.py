"""`ep annotate`: evidence for every region of the dictionaries in a folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .interrupts import stop_on_interrupt

if TYPE_CHECKING:
    from ..annotating.run import AnnotateEvent
    from ..folder.dictionary import StoredDictionary


def annotate(
    path: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, globs or hf:owner/dataset. Without any: the text of the build, if it is the "
            "packaged one or a hub dataset.",
            show_default=False,
        ),
    ] = None,
    *,
    max_tokens: Annotated[str, typer.Option(help="Tokens of text to read.")] = "500_000",
    model: Annotated[
        str | None, typer.Option(help="Where the model is, if not where the build had it.", show_default=False)
    ] = None,
    trust_remote_code: options.RemoteCode = False,
    replace: Annotated[bool, typer.Option("--replace", help="Put new evidence in the place of what is there.")] = False,
    field: Annotated[str, typer.Option(help="Column or key that holds the text.")] = "text",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON event per line instead of a display.")] = False,
    ray: options.Ray = None,
    workers: options.Workers = None,
) -> None:
    """Gather evidence for every region: members, examples in context, top tokens, logit lens.

    One pass with frozen exemplars for all dictionaries of the folder. When it was interrupted, the same
    command goes on where it was.
    """
    tokens = options.count(max_tokens)
    options.workers(ray, workers)

    import torch

    from ..api import annotate as run
    from .display import JsonLines

    if threads is not None:
        torch.set_num_threads(threads)
    display = JsonLines() if as_json else Bar()
    with display, stop_on_interrupt() as asked:
        dictionaries = run(
            path,
            [Path(source) for source in text] if text else None,
            model=options.reader(path, model, trust_remote_code, device),
            max_tokens=tokens,
            field=field,
            device=device,
            replace=replace,
            on_event=display,
            stop=asked,
            ray=ray,
            workers=workers,
        )
    if not as_json:
        say_what_is_known(dictionaries, path)


class Bar:
    """A progress bar on a terminal, a line now and then elsewhere; on standard error."""

    _PLAIN_SECONDS = 15.0

    def __init__(self) -> None:
        from rich.console import Console

        from .display import tokens_progress

        self.console = Console(stderr=True)
        self.progress = tokens_progress(self.console, transient=True)
        self.task = self.progress.add_task("annotating", total=None, rate="", visible=False)
        self.last_printed = 0.0

    def __enter__(self) -> Bar:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: AnnotateEvent) -> None:
        doing = {"lens": "logit lens and metrics", "checkpoint": "saving"}.get(event.kind, "annotating")
        rate = f"{event.tokens_per_second:,.0f} tokens/s" if event.tokens_per_second else ""
        if self.console.is_terminal:
            self.progress.update(
                self.task,
                description=doing,
                completed=event.tokens,
                total=event.max_tokens,
                rate=rate,
                visible=True,
            )
        elif event.kind != "progress" or time.monotonic() - self.last_printed > self._PLAIN_SECONDS:
            self.last_printed = time.monotonic()
            line = f"{event.kind}: {event.tokens:,} of {event.max_tokens:,} tokens  {rate}"
            self.console.print(line.rstrip(), highlight=False)


def say_what_is_known(dictionaries: list[StoredDictionary], path: Path) -> None:
    """A table of the annotated dictionaries, and what to do next."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    record = dictionaries[0].annotation.record
    console.print(
        f"\n[bold]{len(dictionaries)} dictionaries annotated[/] on {record.n_tokens:,} tokens of "
        f"{record.n_documents:,} documents",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("site")
    for name in ("p", "regions", "empty", "within theta", "effective regions", "Gini", "random exemplars within theta"):
        table.add_column(name, justify="right")
    for dictionary in dictionaries:
        known = dictionary.annotation.record
        table.add_row(
            dictionary.config.site.name,
            f"{dictionary.config.calibration.percentile:g}",
            f"{dictionary.k:,}",
            f"{known.empty:,}",
            f"{known.coverage:.2%}",
            f"{known.effective:,.0f}",
            f"{known.gini:.2f}",
            f"{known.quality.random_exemplars.coverage:.2%}",
        )
    console.print(table)
    example = dictionaries[len(dictionaries) // 2]
    chosen = f"--site {example.config.site.name} --percentile {example.config.calibration.percentile:g}"
    biggest = example.annotation.regions["members"].to_numpy().argmax()
    console.print(
        f"\nNext:\n  ep explore {path}\n  ep show {path} {chosen} --region {biggest}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
