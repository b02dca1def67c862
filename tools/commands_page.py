"""The generated parts of the reference: verbs of the command line, and keywords of what takes a request.

`tools/pages.py` puts them into reference/command-line.md and reference/building.md.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from typer.main import get_command

import exemplar_partitioning as ep
from exemplar_partitioning import cli


def listing() -> str:
    """Every verb of `ep` with its arguments and options; verbs that other packages add are not among them."""
    return "\n\n".join(part for name, command in _verbs(get_command(cli.app), "ep") for part in _verb(name, command))


def keywords(name: str) -> str:
    """The keywords of `ep.build` and the like as a Markdown table, from its signature and docstring."""
    function = getattr(ep, name)
    told = dict(re.findall(r"^    (\w+): (.+)$", inspect.getdoc(function) or "", re.MULTILINE))
    rows = [
        [f"`{key}`", f"`{_type(p.annotation)}`", _value(p.default), _plain(told[key])]
        for key, p in inspect.signature(function).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    ]
    lines = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    return "\n".join(["| keyword | type | default | |", "|---|---|---|---|", *lines])


def _type(annotation: Any) -> str:
    """A type as it is written, without what pydantic adds."""
    text = inspect.formatannotation(annotation).replace("Annotated[", "").replace(", SkipValidation]", "")
    return re.sub(r"\b(?:\w+\.)+(\w+)|collections\.abc\.", r"\1", text)


def _value(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    return "never" if callable(default) else f"`{default!r}`"


def _verbs(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, part in command.commands.items():
        if word != "experiment":  # of ep_experiments
            yield from _verbs(part, f"{name} {word}")


def _verb(name: str, command: Any) -> Iterator[str]:
    parameters = [p for p in command.params if p.name != "help" and not p.hidden]
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    yield f"## {name}"
    yield " ".join([f"`{name}", *(_shape(p) for p in arguments), "[OPTIONS]`"])
    yield _plain(command.help or "")
    panels: dict[str, list[Any]] = {}
    for p in parameters:
        panels.setdefault(p.rich_help_panel or "", []).append(p)
    for panel, rows in panels.items():
        head = panel or "argument or option"
        yield "\n".join([f"| {head} | value | default | |", "|---|---|---|---|", *map(_row, rows)])


def _shape(argument: Any) -> str:
    word = (argument.metavar or argument.name.upper()).strip("{}") + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _row(p: Any) -> str:
    names = _shape(p) if p.param_type_name == "argument" else ", ".join(p.opts + p.secondary_opts)
    cells = [f"`{names}`", _kind(p), _default(p), _plain(p.help or "")]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _kind(p: Any) -> str:
    annotation = p.type_descriptor.annotation
    if annotation is bool:
        return "switch"
    if p.metavar and p.param_type_name == "option":
        return p.metavar
    kind = next((part for part in get_args(annotation) if part is not type(None)), annotation)
    several = get_origin(annotation) is list
    name = {str: "text", Path: "path", int: "whole number", float: "number"}.get(
        kind, getattr(kind, "__name__", "text")
    )
    return f"{name}, several" if several else name


def _default(p: Any) -> str:
    if p.required:
        return "required"
    if isinstance(p.show_default, str):
        return p.show_default.strip("()").replace("<", "&lt;")
    if p.default in (None, False, "") or not p.show_default:
        return ""
    return "on" if p.default is True else f"`{getattr(p.default, 'value', p.default)}`"


def _plain(text: str) -> str:
    """A help text in one line a paragraph; globs are no emphasis."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\b", ""))
    text = "\n\n".join(" ".join(part.split()).replace("*", r"\*") for part in paragraphs)
    return re.sub(r"(?<![`\w-])--[a-z]+(?:-[a-z]+)*", r"`\g<0>`", text)  # options do not break at their dashes
