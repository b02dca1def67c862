"""A build as a file of options: `run.yaml`, which lies beside what it gave and which `ep build --config` reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

from ..files import read_json, write_new
from .options import BuildRequest, GivenRequest

FILE = "run.yaml"
PYTHON = "!python"  # tag of what was an object in Python, which no file can name
_SPELLED = {"site": "sites"}  # options of the command that have other names
_OF_THE_MOMENT = ("resume", "on_event", "stop", "progress")  # do not decide what a build gives


class Option(NamedTuple):
    """A key of the file. meaning: for people."""

    name: str
    value: Any
    meaning: str = ""


class PythonObject(str):
    """What stands in a file for an object of Python: what it was."""


def as_yaml(options: Iterable[Option]) -> str:
    """Options in lines, each below what it means; those without a value are commented out."""
    import yaml

    class Dumper(yaml.SafeDumper): ...

    Dumper.add_representer(PythonObject, lambda dumper, it: dumper.represent_scalar(PYTHON, str(it)))
    lines = []
    for name, value, meaning in options:
        line = yaml.dump({name: value}, Dumper=Dumper, default_flow_style=True, width=10**6).strip()[1:-1]
        comment = f"# {' '.join(meaning.split())}\n" if meaning else ""
        lines.append(f"{comment}{'# ' if value is None else ''}{line}\n")
    return "".join(lines)


def plain(value: Any) -> Any:
    """A value of an option as YAML holds it."""
    if isinstance(value, list | tuple):
        return [plain(part) for part in value] or None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value) if isinstance(value, Path) else _described(value)


def _described(value: Any) -> PythonObject:
    of = f" of {len(value):,}" if isinstance(value, Sized) else ""
    return PythonObject(f"{type(value).__name__}{of}")


def keep_build(out: Path, model: Any, text: Any, asked: BuildRequest) -> None:
    """Leave in a folder what it was built by."""
    import torch

    from ..models.loaded import LoadedModel
    from ..text.documents import looks_like_source

    settings = read_json(out / "build.json")["settings"]
    if isinstance(model, LoadedModel):
        loaded = model.asked or {"model": _described(model.model)}
    else:
        loaded = {"model": plain(model)}
    several = text if isinstance(text, Sequence) and not isinstance(text, str) else [text]
    lies = text is None or all(map(looks_like_source, several))
    decided = {
        "percentiles": settings["percentiles"],
        "sites": settings["sites"],
        "template_date": settings.get("template_date"),
        "keep_activations": asked.keep_activations == "all",
    }
    read = {"text": plain(text) if lies else _described(text), "threads": torch.get_num_threads()}
    _keep(out, asked, {**loaded, **read, **decided})


def keep_given(out: Path, x: Any, asked: GivenRequest) -> None:
    """Leave in a folder what activations it was built on, and how."""
    decided = {
        "activations": _files(x),
        "tokens": _files(asked.tokens),
        "percentiles": read_json(out / "build.json")["settings"]["percentiles"],
        "max_tokens": None if asked.max_tokens == GivenRequest.model_fields["max_tokens"].default else asked.max_tokens,
        "model": None if asked.model == "unknown" else asked.model,
    }
    _keep(out, asked, decided)


def _files(given: Any) -> Any:
    several: list[Any] = [*given] if isinstance(given, list | tuple) and given else [given]
    return plain([Path(part) for part in several] if all(isinstance(part, str | Path) for part in several) else given)


def _keep(out: Path, asked: BuildRequest | GivenRequest, more: dict[str, Any]) -> None:
    fields = {name: field.description for name, field in type(asked).model_fields.items() if name not in _OF_THE_MOMENT}
    options = [Option(name, plain(value)) for name, value in more.items() if name not in fields and value is not None]
    options += [
        Option(_SPELLED.get(name, name), plain(more.get(name, getattr(asked, name))), why or "")
        for name, why in fields.items()
    ]
    if not (out / FILE).exists():  # of a build that had ended before
        write_new(out / FILE, as_yaml(options).encode())
