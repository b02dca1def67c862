"""`ep rebuild`: a build repeated from the options that its folder keeps, and whether the bytes are the same."""

from __future__ import annotations

import filecmp
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..building.run_file import FILE
from ..errors import EPError
from . import options
from .output import print_json

_NOT_OF_THE_BUILD = ("labels.json", "origin.json")  # beside the dictionaries, by people or other commands


def rebuild(
    path: Annotated[Path, typer.Argument(help="Folder of a build, which holds run.yaml.", metavar="DIR")],
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only say whether the same bytes come out; nothing is kept.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the new build.", show_default=False)] = None,
    as_json: options.Json = False,
) -> None:
    """Repeat a build, and say whether the files are the same, or which differs first.

    Run it where the build was run, if its paths were relative. Exit code 1: something differs.
    """
    if verify == (out is not None):
        raise typer.BadParameter("say where the new build goes with --out, or compare alone with --verify")
    if not (path / FILE).is_file():
        raise EPError(
            f"{path} holds no {FILE}: it was saved by other means than a build, or by an earlier version; write "
            "one with `ep build ... --print-config`"
        )
    with tempfile.TemporaryDirectory(prefix="ep-rebuild-", dir=path.absolute().parent) as place:
        again = out or Path(place) / path.name
        _build(path / FILE, again)
        answer = compared(path, again)
    if as_json:
        print_json(answer)
    elif answer["same"]:
        typer.echo(f"the same: {answer['files']:,} files, byte for byte")
    else:
        why = "".join(f"\n  {line}" for line in answer["why"])
        typer.echo(f"differs first: {answer['differs']} ({answer['equal']:,} of {answer['files']:,} are the same){why}")
    if not answer["same"]:
        raise typer.Exit(1)


def _build(config: Path, out: Path) -> None:
    from . import app

    app(["build", "--config", str(config), "--out", str(out)], standalone_mode=False, prog_name="ep")


def compared(old: Path, new: Path) -> dict[str, Any]:
    """Whether two builds hold the same files: `same`, `files`, `equal`, `differs` (the first) and `why`."""
    files = list(dict.fromkeys([*_files(old), *_files(new)]))
    equal, _, _ = filecmp.cmpfiles(old, new, files, shallow=False)
    first = next((name for name in files if name not in equal), None)
    why = [] if first is None else [*_why(old / "build.json", new / "build.json"), *_why(old / first, new / first)]
    return {"same": first is None, "files": len(files), "equal": len(equal), "differs": first, "why": why}


def _files(root: Path) -> Iterator[str]:
    """Files of dictionaries, before those that hold their hashes, before annotations."""
    from ..folder.listing import find

    for folder in find(root):
        files = [file for file in folder.rglob("*") if file.is_file() and file.name not in _NOT_OF_THE_BUILD]
        ordered = sorted(files, key=lambda file: (file.parent != folder, ".json" in file.name, file.as_posix()))
        yield from (file.relative_to(root).as_posix() for file in ordered)
    if (root / "answers.jsonl").is_file():
        yield "answers.jsonl"


def _why(old: Path, new: Path) -> Iterator[str]:
    """What two JSON files, or the settings in them, say differently."""
    if not (old.is_file() and new.is_file()):
        yield f"only in {(old if old.is_file() else new).parent}"
        return
    if old.suffix != ".json":
        return
    a, b = (json.loads(file.read_bytes()) for file in (old, new))
    if old.name == "build.json":
        a, b = a.get("settings", a), b.get("settings", b)
    for key, value in sorted(_leaves(a).items()):
        if key.startswith("files.") or (other := _leaves(b).get(key)) == value:
            continue
        yield f"{key}: {value} before, {other} now"


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    inside = (_leaves(each, f"{name}.{key}" if name else str(key)) for key, each in value.items())
    return {key: leaf for part in inside for key, leaf in part.items()}
