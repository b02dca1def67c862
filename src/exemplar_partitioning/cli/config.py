"""Options of a command from a file, and as a file: YAML, a key an option; lists of values are a sweep."""

from __future__ import annotations

import itertools
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

FILE = "run.yaml"  # beside the dictionaries that a run gave
_NOT_KEPT = ("config", "print_config", "help", "estimate", "models")
_OF_THE_MOMENT = ("resume", "as_json", "track")  # do not decide what a run gives
_JOINED = ("percentiles", "sites", "roles")  # written as lists, or with commas between
_SWEPT = "exemplar_partitioning.swept"
_LARGEST = 1 << 20  # characters of a file of options


def _read(context: typer.Context, file: Path | None) -> Path | None:
    """Take the defaults of a command's options from a file; what is said on the command line goes before it."""
    if file is None:
        return None
    import yaml

    from ..errors import EPError

    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_LARGEST)
        if len(text) == _LARGEST:
            raise ValueError(f"a file of options is shorter than {_LARGEST:,} characters")
        values = yaml.safe_load(text) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise EPError(f"{file} cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise EPError(
            f"{file} holds a {type(values).__name__}; expected a key an option, as --print-config prints them"
        )
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name not in _NOT_KEPT}
    swept = {}
    for key, value in values.items():
        if key not in known:
            near = get_close_matches(str(key), [name for name in known if name], 1)
            meant = f"; did you mean {near[0]}?" if near else f"; expected {', '.join(sorted(map(str, known)))}"
            raise EPError(f"{file} has {key!r}, which is no option{meant}")
        several = key in _JOINED or _several(known[key])
        each = value if isinstance(value, list) else [value]
        if several and each and isinstance(each[0], list):
            each = [part for parts in each for part in (parts if isinstance(parts, list) else [parts])]
        if not all(part is None or isinstance(part, bool | int | float | str) for part in each):
            raise EPError(f"{file} has something else than text, numbers or a list of them for {key}; write it as that")
        if isinstance(value, list) and value and (not several or isinstance(value[0], list)):
            swept[key] = value
    context.meta[_SWEPT] = {key: [_given(value, key) for value in values] for key, values in swept.items()}
    context.default_map = {key: _given(value[0] if key in swept else value, key) for key, value in values.items()}
    return file


def _several(parameter: Any) -> bool:
    return parameter.nargs == -1 or getattr(parameter, "multiple", False)


def _given(value: Any, key: str) -> Any:
    """A value as it would be given on the command line."""
    return ",".join(map(str, value)) if isinstance(value, list) and key in _JOINED else value


def sweep(context: typer.Context, models: list[str] | None) -> list[tuple[str, dict[str, Any]]]:
    """The runs that lists of values ask for, each with its name and all of its options; none for a single run.

    Args:
        context: of the command.
        models: named each with --model, in which case what stands in the model's place is a text.
    """
    params, swept = dict(context.params), dict(context.meta.pop(_SWEPT, {}))
    for key in [*swept]:
        if said(context, key):
            del swept[key]
    if models:
        if said(context, "model"):
            params["text"] = [params["model"], *(params["text"] or [])]
        swept["model"] = models
    if not swept:
        return []
    options = {parameter.name: parameter for parameter in context.command.params}
    runs = []
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        names = [f"{key}={_name(value)}" if [*swept] != ["model"] else _name(value) for key, value in chosen.items()]
        parsed = {key: options[key].process_value(context, value) for key, value in chosen.items()}
        runs.append((",".join(names), params | parsed | {"models": None}))
    return runs


def said(context: typer.Context, key: str) -> bool:
    """Whether the command line itself says it."""
    source = context.get_parameter_source(key)
    return source is not None and source.name == "COMMANDLINE"


def _name(value: Any) -> str:
    """A value in the name of a folder: of a path, its end."""
    parts = [str(part).rstrip("/").rpartition("/")[2] for part in (value if isinstance(value, list) else [value])]
    return "+".join(parts).replace(",", "+").replace(" ", "-")


def print_config(context: typer.Context) -> None:
    """All options with their values and meanings, as a file that --config reads."""
    sys.stdout.write(as_yaml(context))


def keep_config(context: typer.Context, folder: Path) -> None:
    """Leave in a folder what it was made by, for `ep rebuild`."""
    from ..files import write_new

    write_new(folder / FILE, as_yaml(context, lasting=True).encode())


def as_yaml(context: typer.Context, *, lasting: bool = False) -> str:
    """The options of a command as YAML, with what they mean; lasting: those alone that decide what it gives."""
    import yaml

    lines, left_out = [], (*_NOT_KEPT, *(_OF_THE_MOMENT if lasting else ()))
    for parameter in context.command.params:
        if parameter.name is None or parameter.name in left_out:
            continue
        value = _plain(context.params.get(parameter.name))
        line = yaml.safe_dump({parameter.name: value}, default_flow_style=True, width=10**6).strip()[1:-1]
        meaning = " ".join((getattr(parameter, "help", None) or "").split())
        lines.append(f"# {meaning}\n{'# ' if value is None else ''}{line}\n")
    return "".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value] or None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_read,
        is_eager=True,
        show_default=False,
        help="YAML with options, as --print-config prints them; a list of values for one is a run each.",
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all options with values and meanings as YAML, and stop.")
]
