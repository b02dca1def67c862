"""`ep decompose`: of which regions every token of a text is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.choices import READ_STEPS
from . import options
from .chosen import Chosen, of_dictionary
from .output import print_json

if TYPE_CHECKING:
    from ..reading import TokenDecomposition

_TOKEN, _LABEL = 20, 8  # columns: of a token at most, of a label at least
_OTHER = 6 + _TOKEN + 12  # columns beside regions
_REGION = 15  # of a region, beside its label


@of_dictionary
def decompose(
    chosen: Chosen,
    text: Annotated[str | None, typer.Argument(help="What to read.", show_default="the text of --file")] = None,
    *,
    file: Annotated[Path | None, typer.Option(help="Read this text file.")] = None,
    k: options.Steps = READ_STEPS,
    basis: options.Basis = "exemplar",
    method: options.Method = "omp",
    top: Annotated[int, typer.Option(min=1, help="Regions of a token to show, those of most weight first.")] = 3,
    as_json: options.Json = False,
) -> None:
    """Read a text and write every token's activation as a weighted sum of regions.

    Weights are shares of the activation's length from the centre; what is left is the share of it that the regions
    do not make up.
    """
    from ..errors import EPError
    from ..folder.labels import Labels
    from ..reading import decomposed
    from .show_text import text_of

    if (text is None) == (file is None):
        raise EPError("give either a text or --file, a file to read it from")
    dictionary = chosen.dictionary
    dictionary.check_pursuit(k, basis=basis, method=method)
    tokens = decomposed(
        dictionary,
        chosen.loaded,
        text_of(file) if file is not None else text or "",
        k,
        basis=basis,
        method=method,
    )
    shown = sorted({region for token in tokens for region in token.regions})
    texts = {label.region: label.text for label in Labels.read(dictionary).some(shown)}
    if as_json:
        rows = [token.as_json() | {"labels": [texts[region] for region in token.regions]} for token in tokens]
        print_json({"dictionary": str(dictionary.path), "basis": basis, "method": method, "k": k, "tokens": rows})
    else:
        _print(tokens, texts, top)


def _print(tokens: list[TokenDecomposition], texts: dict[int, str], top: int) -> None:
    from rich.table import Column
    from rich.text import Text

    from ..text.visible import visible
    from .terminal import console, cut, table

    shown = table(
        Column("", justify="right", style="dim", min_width=4),
        Column("token", no_wrap=True),
        Column("regions, each with its weight", overflow="fold"),
        ">more",
        ">left",
    )
    out = console()
    room = max(_LABEL, (out.width - _OTHER) // top - _REGION)
    for token in tokens:
        order = sorted(range(len(token.regions)), key=lambda i: -abs(token.weights[i]))
        made_of: list[Any] = []
        for i in order[:top]:
            weight = f"{token.weights[i] / (token.norm or 1):.2f}"
            label = cut(visible(texts[token.regions[i]]), room)
            made_of += [(weight, "bold"), f" {token.regions[i]} ", (label, "cyan"), "   "]
        shown.add_row(
            str(token.position),
            cut(visible(token.text), _TOKEN),
            Text.assemble(*made_of) if made_of else Text("none", style="dim"),
            str(max(0, len(order) - top)) if made_of else "",
            "" if token.left is None else f"{token.left:.0%}",
        )
    out.print(shown)
    left = [token.left**2 for token in tokens if token.left is not None]
    if left:
        out.print(f"\nleft of the squared length, on average: {sum(left) / len(left):.1%}")
