"""The command `ep`: one verb per job, progress for people, `--json` for machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from .. import __version__
from ..errors import EPError, ResourceError

# With less address space, libraries end the process themselves while they are loaded, each in its own way.
_LEAST_MEMORY = 1000 << 20

_VERBS = (  # in the order of the help
    *("build", "rebuild", "extend", "annotate", "show", "search", "steer", "localise", "concept", "watch", "ood"),
    *("label", "match", "transport", "roundtrip", "combine", "tree", "decompose", "attribute", "evaluate", "explore"),
    *("figures", "report", "export", "import", "check", "push", "pull"),
)
_MODULES = {"watch": "concept", "push": "hub", "pull": "hub", "import": "import_"}  # of others' names than the verb's


class _Verb(TyperCommand):
    """A command that refuses an option given twice, where only the last would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options: dict[str, Any] = {
            name: each for each in self.params if each.param_type_name == "option" for name in each.opts
        }
        given = set[str]()
        words = iter(args)
        for word in words:
            name, equals, _ = word.partition("=")
            if word == "--":
                break
            if (option := options.get(name)) is None or getattr(option, "is_flag", False):
                continue
            if name in given and not getattr(option, "multiple", False):
                several = "values together, where it takes several: --percentile 2,5, --field title+body"
                raise typer.BadParameter(f"given twice; give it once, and {several}", ctx=ctx, param=option)
            given.add(name)
            if not equals:
                next(words, None)
        return super().parse_args(ctx, args)


class _Verbs(Mapping[str, Any]):
    """Commands by name, each imported and made when it is asked for: `ep show` waits for no other."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            verb, made = self._verb(name), typer.Typer(add_completion=False, rich_markup_mode="markdown")
            made.callback()(lambda: None)  # so that there are commands, and not one alone
            if isinstance(verb, typer.Typer):
                for command in verb.registered_commands:
                    command.cls = _Verb
                made.add_typer(verb, name=name)
            else:
                made.command(name, cls=_Verb)(verb)
            self._made[name] = vars(get_command(made))["commands"][name]
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        yield from _VERBS
        yield from self._of_others

    def __len__(self) -> int:
        return len(_VERBS) + len(self._of_others)

    def _verb(self, name: str) -> Any:
        if name not in _VERBS:
            return self._of_others[name].load()
        return getattr(import_module(f".{_MODULES.get(name, name)}", __name__), "import_" if name == "import" else name)

    @cached_property
    def _of_others(self) -> dict[str, Any]:
        """Verbs of packages that build on this one."""
        from importlib.metadata import entry_points

        return {entry.name: entry for entry in entry_points(group="exemplar_partitioning.verbs")}


class _Group(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Verbs()

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.commands]


app = typer.Typer(
    name="ep",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Feature dictionaries for language-model activations, without training.",
    epilog="Start with `ep build`: it needs no argument, model or text of your own.",
)


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
        _check_words(sys.argv[1:])
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


def _check_words(words: list[str]) -> None:
    """No tokenizer and no file of ours holds a byte that is not UTF-8."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise EPError(
                f"an argument is not UTF-8 at character {error.start}: {word[:60]!a}; write it, or name the file, so"
            ) from error


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
