"""`ep search`: regions by what they are about."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from . import options
from .output import print_json


def search(
    path: options.Folder,
    query: Annotated[str, typer.Argument(help="Words to look for.")],
    *,
    meaning: Annotated[
        bool, typer.Option("--meaning", help="Have the model read the words, and list the regions nearest to them.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Regions to list.")] = 20,
    site: options.Site = None,
    percentile: options.Percentile = None,
    model: options.Model = None,
    as_json: options.Json = False,
) -> None:
    """Find regions by what they are about: by labels, tokens, examples in context, and what they promote.

    Whole words come first, then words of the same stem, then parts of words. The first search of a dictionary makes
    an index in the user's cache.
    """
    from ..errors import EPError
    from ..folder.listing import OnDisk, choose
    from ..folder.text_search import search as by_words

    if meaning:
        from ..folder.model import model_of

        dictionary = options.chosen_dictionary(path, site, percentile)
        hits = dictionary.search(query, top, model=model_of(dictionary, model))
    elif model is not None:
        raise EPError("--model tells which model reads the words; add --meaning")
    else:
        hits = by_words(OnDisk(choose(path, site, percentile)), query, top)
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    from rich.table import Column
    from rich.text import Text

    from ..text.visible import visible
    from .terminal import console, cut, highlighted, table

    out = console()
    room = max(24, out.width - 22)
    shown = table(">region", "by", Column("label", no_wrap=True, width=room // 3), Column("example", no_wrap=True))
    for hit in hits:
        before, _, rest = visible(hit.text).partition("\u00ab")
        token, _, after = rest.rpartition("\u00bb")
        before = before[-(room // 3) :]
        example = Text.assemble((before, "dim"), highlighted(token, out.color_system is None), (after, "dim"))
        example.truncate(room - room // 3, overflow="ellipsis")
        shown.add_row(str(hit.region), hit.how, cut(visible(hit.label), room // 3), example)
    out.print(shown if hits else "nothing; try another word, or --meaning, which asks the model")
