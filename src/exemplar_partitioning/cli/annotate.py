"""`ep annotate`: evidence for every region of the dictionaries in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..annotating.options import AnnotateRequest
from . import options
from .asking import asking
from .interrupts import stop_on_interrupt
from .terminal import console, table

if TYPE_CHECKING:
    from ..folder.dictionary import StoredDictionary


@asking(
    AnnotateRequest,
    but=("checkpoint_seconds", "on_event", "stop", "ray", "workers"),
    given={
        "model": {"kind": str | None, "help": "Where the model is, if not where the build had it."},
        "activations": {"kind": list[Path] | None},
        "tokens": {"kind": list[Path] | None},
        "tokenizer": {"kind": str | None},
    },
    counts=("max_tokens",),
)
def annotate(
    path: options.Folder,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, globs or hf:owner/dataset. Without any: the text of the build, if it is the "
            "packaged one or a hub dataset.",
            show_default=False,
        ),
    ] = None,
    *,
    trust_remote_code: options.RemoteCode = False,
    threads: options.Threads = None,
    as_json: options.JsonLines = False,
    ray: options.Ray = None,
    workers: options.Workers = None,
    **asked: Any,
) -> None:
    """Gather evidence for every region: members, examples in context, top tokens, logit lens.

    One pass with frozen exemplars for all dictionaries of the folder. When it was interrupted, the same
    command goes on where it was.
    """
    options.workers(ray, workers)

    import torch

    from ..api import annotate as run
    from .display import display

    if threads is not None:
        torch.set_num_threads(threads)
    asked["model"] = options.reader(path, asked["model"], trust_remote_code, asked["device"])
    with display(as_json) as on_event, stop_on_interrupt() as stop:
        pool: dict[str, Any] = {"stop": stop, "ray": ray, "workers": workers}
        dictionaries = run(path, options.sources(text), on_event=on_event, **pool, **asked)
    if not as_json:
        _print(dictionaries, path)


def _print(dictionaries: list[StoredDictionary], path: Path) -> None:
    """A table of the annotated dictionaries, and what to do next."""
    out, record = console(), dictionaries[0].annotation.record
    out.print(
        f"\n[bold]{len(dictionaries)} dictionaries annotated[/] on {record.n_tokens:,} tokens of "
        f"{record.n_documents:,} documents",
        markup=True,
    )
    figures = ("percentile", "regions", "empty", "within theta", "effective regions", "Gini")
    shown = table("site", *(f">{name}" for name in (*figures, "random exemplars within theta")))
    for dictionary in dictionaries:
        known = dictionary.annotation.record
        shown.add_row(
            dictionary.config.site.name,
            f"{dictionary.config.calibration.percentile:g}",
            f"{dictionary.k:,}",
            f"{known.empty:,}",
            f"{known.coverage:.2%}",
            f"{known.effective:,.0f}",
            f"{known.gini:.2f}",
            f"{known.quality.random_exemplars.coverage:.2%}",
        )
    out.print(shown)
    example = dictionaries[len(dictionaries) // 2]
    chosen = f"--site {example.config.site.name} --percentile {example.config.calibration.percentile:g}"
    biggest = example.annotation.regions["members"].to_numpy().argmax()
    out.print(f"\nNext:\n  ep explore {path}\n  ep show {path} {chosen} --region {biggest}", soft_wrap=True)
