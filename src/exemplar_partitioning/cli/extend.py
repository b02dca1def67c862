"""`ep extend`: dictionaries grow on, on new text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..text.visible import visible
from . import options
from .interrupts import stop_on_interrupt
from .output import print_json

_NEW = 8  # new regions to name


def extend(
    path: options.Folder,
    text: Annotated[list[str], typer.Argument(help="New text: files, folders, globs or hf:owner/dataset.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the dictionaries that have grown.")],
    max_tokens: options.MaxTokens = 1_000_000,
    field: options.Field = "text",
    model: options.Model = None,
    trust_remote_code: options.RemoteCode = False,
    device: options.Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the same command began.")] = False,
    as_json: options.Json = False,
) -> None:
    """Continue a build on new text: centre, threshold and regions stay, what the text has beyond them is appended.

    Labels given by hand come along. Annotations do not, as they know nothing of the new text: run ep annotate.
    The missing mass is that of both texts, or of the new one where the dictionary does not tell of the first.
    """
    from ..building.extend import extend as run

    with stop_on_interrupt() as asked:
        grown = run(
            path,
            options.sources(text),
            out=out,
            model=options.reader(path, model, trust_remote_code, device),
            max_tokens=max_tokens,
            field=field,
            device=device,
            resume=resume,
            stop=asked,
        )
    if as_json:
        rows = [
            {
                "path": str(new.path),
                "k_before": old.k,
                "k": new.k,
                "n_activations": new.config.build.n_activations - old.config.build.n_activations,
                "unseen": new.config.build.unseen.model_dump(),
            }
            for old, new in grown
        ]
        print_json(rows)
        return
    for old, new in grown:
        added = new.regions.slice(old.k)
        names = ", ".join(repr(visible(token)) for token in added["token"].to_pylist()[:_NEW])
        more = f": {names}" + (", ..." if len(added) > _NEW else "") if len(added) else ""
        read = new.config.build.n_activations - old.config.build.n_activations
        typer.echo(f"{new.path}: {old.k:,} regions and {len(added):,} new ones in {read:,} activations{more}")
    typer.echo(f"Not annotated, whatever the source was; for evidence on old and new text: ep annotate {out} TEXT")
