"""Options of a command made from the fields of what it asks for, so that both are declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..text.windowing import ordered
from .options import count


def asking(
    request: type[BaseModel],
    *,
    but: Collection[str],
    given: Mapping[str, Any],
    counts: Collection[str] = (),
    panels: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every field of a request, in the place of its `**asked`.

    Args:
        request: whose fields are asked for.
        but: fields that have no option, or one that the command declares itself.
        given: for fields that people write in a way of their own, what `typer.Option` takes: also `spelled`, the
            names of the option, `kind`, its type, `help` where it says more, and `default`.
        counts: fields that are large numbers: `2_000_000` and `2e6` are fine.
        panels: headings of the help, each with the fields below it.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        *first, _ = inspect.signature(command, eval_str=True).parameters.values()
        fields = {name: field for name, field in ordered(request).items() if name not in but}
        heading = {name: panel for panel, names in panels.items() for name in names}
        made = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=given.get(name, {}).get("default", field.default),
                annotation=_option(
                    name, field, dict(given.get(name, {})) | _large(field, name in counts), heading.get(name)
                ),
            )
            for name, field in fields.items()
        ]

        @wraps(command)
        def call(**values: Any) -> None:
            command(**values)

        return with_parameters(call, [*first, *made])

    return decorate


def with_parameters(call: Callable[..., None], parameters: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """A command that shows these parameters, each given by name."""
    shown = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    vars(call)["__signature__"] = inspect.Signature(shown)
    vars(call)["__annotations__"] = {each.name: each.annotation for each in shown}
    return call


def _large(field: FieldInfo, asked: bool) -> dict[str, Any]:
    return {"parser": count, "metavar": "COUNT", "show_default": f"{field.default:_}"} if asked else {}


def _option(name: str, field: FieldInfo, given: dict[str, Any], panel: str | None) -> Any:
    given.pop("default", None)
    kind = given.pop("kind", field.annotation)
    spelled = given.pop("spelled", f"--{name.replace('_', '-')}")
    if kind is bool and field.default and "/" not in spelled:
        spelled = f"{spelled}/--no-{spelled.removeprefix('--')}"
    if "parser" not in given:
        least = next((rule.ge for rule in field.metadata if hasattr(rule, "ge")), None)
        given |= {} if least is None else {"min": least}
    given = {"help": field.description, **given}
    return Annotated[kind, typer.Option(spelled, rich_help_panel=panel, **given)]
