"""Options of a command from a file, and as a file: YAML, a key an option; lists of values are a sweep."""

from __future__ import annotations

import itertools
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from ..building.run_file import PYTHON, Option, PythonObject, as_yaml, plain

_NOT_KEPT = ("config", "print_config", "help", "estimate", "models")
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
        values = yaml.load(text, Loader=_loader()) or {}
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
        if objects := [part for part in each if isinstance(part, PythonObject)]:
            raise EPError(
                f"{file} says that {key} was given in Python ({objects[0]}), which no file holds: write in its place "
                "where it lies, or repeat the build in Python"
            )
        if not all(part is None or isinstance(part, bool | int | float | str) for part in each):
            raise EPError(f"{file} has something else than text, numbers or a list of them for {key}; write it as that")
        if isinstance(value, list) and value and (not several or isinstance(value[0], list)):
            swept[key] = value
    context.meta[_SWEPT] = {key: [_given(value, key) for value in values] for key, values in swept.items()}
    context.default_map = {key: _given(value[0] if key in swept else value, key) for key, value in values.items()}
    return file


def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader): ...

    Loader.add_constructor(PYTHON, lambda loader, node: PythonObject(node.value))
    return Loader


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


def said(context: typer.Context, key: str, *, or_in_file: bool = False) -> bool:
    """Whether the command line itself says it."""
    source = context.get_parameter_source(key)
    return source is not None and source.name in ("COMMANDLINE", *(["DEFAULT_MAP"] if or_in_file else []))


def _name(value: Any) -> str:
    """A value in the name of a folder: of a path, its end."""
    parts = [str(part).rstrip("/").rpartition("/")[2] for part in (value if isinstance(value, list) else [value])]
    return "+".join(parts).replace(",", "+").replace(" ", "-")


def print_config(context: typer.Context) -> None:
    """All options with their values and meanings, as a file that --config reads."""
    parameters = [each for each in context.command.params if each.name and each.name not in _NOT_KEPT]
    values = {each.name: plain(context.params.get(each.name)) for each in parameters}
    sys.stdout.write(
        as_yaml(Option(each.name, values[each.name], getattr(each, "help", None) or "") for each in parameters)
    )


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
