"""Options of a command from a file, and as a file: YAML, a key an option."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

_NOT_KEPT = ("config", "print_config", "help")
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
    for key in values:
        if key not in known:
            near = get_close_matches(str(key), [name for name in known if name], 1)
            meant = f"; did you mean {near[0]}?" if near else f"; expected {', '.join(sorted(map(str, known)))}"
            raise EPError(f"{file} has {key!r}, which is no option{meant}")
        each = values[key] if isinstance(values[key], list) else [values[key]]
        if not all(value is None or isinstance(value, bool | int | float | str) for value in each):
            raise EPError(f"{file} has something else than text, numbers or a list of them for {key}; write it as that")
    context.default_map = {
        key: ",".join(map(str, value)) if isinstance(value, list) and not _several(known[key]) else value
        for key, value in values.items()
    }
    return file


def _several(parameter: Any) -> bool:
    return parameter.nargs == -1 or getattr(parameter, "multiple", False)


def print_config(context: typer.Context) -> None:
    """All options with their values and meanings, as a file that --config reads."""
    import yaml

    for parameter in context.command.params:
        if parameter.name is None or parameter.name in _NOT_KEPT:
            continue
        value = _plain(context.params.get(parameter.name))
        line = yaml.safe_dump({parameter.name: value}, default_flow_style=True).strip()[1:-1]
        meaning = " ".join((getattr(parameter, "help", None) or "").split())
        sys.stdout.write(f"# {meaning}\n{'# ' if value is None else ''}{line}\n")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value] or None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_read, is_eager=True, show_default=False, help="YAML with options, as --print-config prints them."
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all options with values and meanings as YAML, and stop.")
]
