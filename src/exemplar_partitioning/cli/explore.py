"""`ep explore`: dictionaries in the browser."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EPError, require_extra
from . import options
from .terminal import counted

if TYPE_CHECKING:
    from ..show.explorer.library import Library
    from ..show.explorer.live import Live

_PORT = 8765


def explore(
    path: options.Folder = Path("demo"),
    other: Annotated[Path | None, typer.Argument(help="Another one, to compare with.", metavar="DIR2")] = None,
    *,
    match: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that `ep match --text --out` wrote: members shared, and its cutoff."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Load the model too, to read any text as you type, and to steer it.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Where the model is, if it has moved; with --live.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Where the build's text is, to show more of it, if its folder does not say; with --live."),
    ] = None,
    trust_remote_code: options.RemoteCode = False,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port on this machine.", show_default=f"{_PORT}, or a free one"),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> None:
    """Look at dictionaries in the browser: regions, examples, map, resolution tree, matching of two.

    Serves this machine alone, and needs no network. Ctrl-C ends it.
    """
    require_extra("explorer", "plotly", "starlette", "uvicorn", of="the explorer")
    if model is not None and not live:
        raise EPError("--model tells which model reads text; add --live")
    if text and not live:
        raise EPError("--text is read with the model's tokenizer; add --live")

    import threading
    import webbrowser

    from ..show.explorer.library import Library
    from ..show.explorer.overlaps import read_overlaps
    from ..show.explorer.server import app, listen, server

    library = Library([path] if other is None else [path, other])
    overlaps = [read_overlaps(folder, library) for folder in match or ()]
    with listen(port, _PORT) as listener:
        reader = _live(library, model, text or (), trust_remote_code) if live else None
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        typer.echo(f"{counted(len(library.entries), 'dictionary')} at {address}  (Ctrl-C ends)")
        sys.stdout.flush()
        threading.Thread(target=library.open_all, daemon=True).start()
        if not no_browser:
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        application = app(library, reader, overlaps)
        with contextlib.suppress(KeyboardInterrupt):
            server(application).run(sockets=[listener])
        if application.state.background.busy:
            os._exit(0)  # a thread within torch can neither be stopped nor outlive the interpreter


def _live(library: Library, model: str | None, text: Sequence[str], trust_remote_code: bool) -> Live:
    """The model of the first dictionary that is whole."""
    from ..folder.model import model_of
    from ..show.explorer.live import Live

    key = next((entry.key for entry in library.entries.values() if entry.config), next(iter(library.entries)))
    typer.echo("Loading the model ...", err=True)
    return Live(model_of(library.open(key).dictionary, model, trust_remote_code=trust_remote_code), text)
