"""The command `ep`: one verb per job, progress for people, `--json` for machines."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from .. import __version__
from ..errors import EPError, ResourceError
from .annotate import annotate
from .attribute import attribute
from .build import build
from .check import check
from .combine import combine
from .concept import concept, watch
from .decompose import decompose
from .evaluate import evaluate
from .explore import explore
from .export import export
from .extend import extend
from .figures import figures
from .hub import pull, push
from .import_ import import_
from .label import label
from .localise import localise
from .match import match
from .ood import ood
from .report import report
from .roundtrip import roundtrip
from .search import search
from .show import show
from .steer import steer
from .transport import transport
from .tree import tree

# With less address space, libraries end the process themselves while they are loaded, each in its own way.
_LEAST_MEMORY = 1000 << 20

app = typer.Typer(
    name="ep",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Feature dictionaries for language-model activations, without training.",
    epilog="Start with `ep build`: it needs no argument, model or text of your own.",
)
app.command(no_args_is_help=False)(build)
app.command()(extend)
app.command()(annotate)
app.command()(show)
app.command()(search)
app.command()(steer)
app.command()(localise)
app.command()(concept)
app.command()(watch)
app.add_typer(ood, name="ood")
app.command()(label)
app.command()(match)
app.command()(transport)
app.command()(roundtrip)
app.command()(combine)
app.command()(tree)
app.command()(decompose)
app.command()(attribute)
app.command()(evaluate)
app.command()(explore)
app.command()(figures)
app.command()(report)
app.command()(export)
app.command("import")(import_)
app.command()(check)
app.command()(push)
app.command()(pull)
for verb in entry_points(group="exemplar_partitioning.verbs"):  # of packages that build on this one
    app.add_typer(verb.load(), name=verb.name)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"exemplar-partitioning {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors of the user's making are one message and an exit code, not a trace."""
    # OpenMP threads that spin while they wait make every step some ten times slower as soon as another
    # program wants a core; sleeping after a short while costs nothing. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        _check_address_space()
        app()
    except EPError as error:
        typer.secho(f"ep: {error}", err=True, fg="red")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.secho("ep: stopped at once; the last checkpoint is kept, go on with --resume", err=True, fg="red")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.filename:  # of a file or folder that somebody takes away meanwhile
            typer.secho(f"ep: {error.strerror}: {error.filename}; run the same command again", err=True, fg="red")
            sys.exit(ResourceError.exit_code)
        if not _out_of_memory(error):
            raise
        typer.secho(
            "ep: out of memory. Close other programs or raise the limit (`ulimit -v`); a smaller --batch-size, fewer "
            "sites or percentiles at once, and a smaller model take less. An unfinished build goes on with --resume",
            err=True,
            fg="red",
        )
        sys.exit(ResourceError.exit_code)


def _check_address_space() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_MEMORY:
        raise ResourceError(
            f"{limit >> 20:,} MB of address space are allowed here; {_LEAST_MEMORY >> 20:,} are needed before any work "
            "begins. Raise the limit (`ulimit -v`)"
        )


def _out_of_memory(error: BaseException) -> bool:
    """Whether that is what a library means: each says it in its own way, the dynamic linker as a failed import."""
    message = str(error).lower()
    words = ("cannot allocate memory", "can't allocate memory", "failed to map segment", "out of memory")
    return isinstance(error, MemoryError) or any(word in message for word in words)
