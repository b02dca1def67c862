"""`ep show --text`: a text read through a dictionary, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column
from rich.text import Text

from ..errors import DataError, EPError
from ..folder.labels import Labels
from ..folder.model import model_of
from ..folder.origin import describe
from ..reading import read
from ..text.visible import visible
from .terminal import console, counted, cut, fixed, table

if TYPE_CHECKING:
    from ..folder.dictionary import StoredDictionary
    from ..models.loaded import LoadedModel

_BYTES = 1_000_000
_TOKEN = 20  # columns at most
_OTHER_COLUMNS = 6 + _TOKEN + 6 + 8 + 6 + 5 * 2  # beside the label


def text_of(file: Path) -> str:
    """A text file's content; EPError if there is none or it is too large, DataError if it is not text."""
    if not file.is_file():
        raise EPError(f"no file {file}; give a text file")
    if file.stat().st_size > _BYTES:
        raise EPError(
            f"{file} has {file.stat().st_size:,} bytes; a text shown token by token has at most {_BYTES:,}. "
            "For more, run `ep annotate`"
        )
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start:,}") from error


def view(dictionary: StoredDictionary, text: str, model: str | LoadedModel | None) -> dict[str, Any]:
    """Every token of a text with its region, and what holds for the text as a whole, as plain values."""
    (tokens,) = read([dictionary], model_of(dictionary, model), text)
    labels = Labels.read(dictionary)
    regions = {token.region for token in tokens if token.region is not None}
    texts: dict[int | None, str] = {region: labels.best(region).text for region in regions}
    with_region = sum(token.region is not None for token in tokens)
    within = sum(token.within for token in tokens)
    return {
        "dictionary": {"path": str(dictionary.path), **describe(dictionary)},
        "tokens": [token.as_json() | {"label": texts.get(token.region)} for token in tokens],
        "summary": {
            "tokens": len(tokens),
            "with_region": with_region,
            "within": within,
            "share_within": within / with_region if with_region else None,
            "regions": len(regions),
        },
    }


def print_text(shown: dict[str, Any]) -> None:
    """The view for people: a line per token, and a summary."""
    out, d, summary = console(), shown["dictionary"], shown["summary"]
    lines = table(
        Column("", justify="right", style="dim", min_width=4),
        Column("token", no_wrap=True),
        ">region",
        ">distance",
        Column("theta", no_wrap=True),
        Column("label", no_wrap=True, overflow="ellipsis"),
    )
    for token in shown["tokens"]:
        lines.add_row(*_row(token, max(10, out.width - _OTHER_COLUMNS)))
    out.print(lines)
    share = "" if summary["share_within"] is None else f", {summary['share_within']:.1%}"
    out.print(
        f"\n{d['site']} percentile {d['percentile']:g}, {counted(d['k'], 'region')}, theta {fixed(d['threshold'])}"
    )
    out.print(
        Text.assemble(
            (counted(summary["tokens"], "token"), "bold"),
            f"; {summary['within']:,} within theta{share}; in {counted(summary['regions'], 'region')}",
        )
    )


def _row(token: dict[str, Any], room: int) -> list[str | Text]:
    position, text = str(token["position"]), cut(visible(token["text"]), _TOKEN)
    if token["region"] is None:
        return [position, Text(text, style="dim"), Text("none", style="dim"), "", "", ""]
    style, side = ("cyan", "within") if token["within"] else ("yellow", "beyond")
    return [
        position,
        Text.assemble((text, f"black on {style}")),
        str(token["region"]),
        fixed(token["distance"]),
        Text(side, style=style),
        Text(cut(visible(token["label"]), room), style="" if token["within"] else "dim"),
    ]
