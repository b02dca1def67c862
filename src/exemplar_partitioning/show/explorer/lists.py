"""The list of regions: searched, filtered, sorted, a page at a time."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from ...folder import bookmarks
from ...folder.text_search import excerpt, ranked
from .library import View
from .views import brief, by_number, by_text, check_order, containing, numbers, shown, size_is

SORTS = (
    *("best", "region", "token", "label", "size", "coherence", "stability", "distance", "lens"),
    *("interest", "identity", "documents", "contrast", "score"),
)
_SHOWN_TOKENS = 4  # of a region


def regions(
    view: View,
    *,
    query: str = "",
    within: str = "any",
    sort: str = "best",
    descending: bool = True,
    several: bool = False,
    members: int = 0,
    kept: str = "",
    offset: int = 0,
    limit: int = 100,
) -> dict[str, Any]:
    """A page of the regions that a text occurs in, in some order; regions without a value come last.

    The order `best` is that of the search, or without one of interest.

    Args:
        view: the dictionary.
        query: text to find.
        within: where: one of SEARCHES.
        sort: one of SORTS.
        descending: from the largest on.
        several: leave out regions of a single word.
        members: leave out smaller regions.
        kept: name of a list of bookmarks; regions of it alone.
        offset: of the page's first row.
        limit: rows of the page, at most.

    Raises:
        EPError: an unknown sort or search.
    """
    check_order(sort, SORTS, within)
    how = _found(view, query) if within == "any" else {}
    matching = np.array([*how], np.int64) if how else containing(view, query, within)
    matching = matching[_kept(view, several, members)[matching]]
    if kept:
        matching = matching[np.isin(matching, bookmarks.read(view.dictionary).get(kept, []))]
    if sort != "best" or not how:
        matching = _ordered(view, matching, "interest" if sort == "best" else sort, descending)
    page = shown(matching, offset, limit)
    rows = brief(view, page)
    if view.annotation is not None:
        _describe(view, rows)
    for row in rows if how else ():
        row |= {"how": how[row["region"]][0], "text": excerpt(view.dictionary, row["region"], query)}
    return {
        "total": view.dictionary.k,
        "matching": len(matching),
        "offset": offset,
        "size_is": size_is(view),
        "regions": rows,
        "not_annotated": view.not_annotated,
    }


def _found(view: View, query: str) -> dict[int, tuple[str, float]]:
    """What a search finds, and how; a number also finds that region, first."""
    if not re.search(r"\w", query):
        return {}
    number = query.strip()
    is_region = re.fullmatch("[0-9]{1,9}", number) and int(number) < view.dictionary.k
    first = {int(number): ("number", 1.0)} if is_region else {}
    return first | {region: how for region, how in ranked(view.dictionary, query).items() if region not in first}


def _describe(view: View, rows: list[dict[str, Any]]) -> None:
    assert view.annotation is not None
    interest, page = view.annotation.interest, pa.array([row["region"] for row in rows], pa.int64())
    columns = ["coherence", "stability", "mean_distance", "top_tokens"]
    for row, more in zip(rows, view.annotation.regions.select(columns).take(page).to_pylist(), strict=True):
        about = interest.row(row["region"])
        row |= more | about | {"interest": about["score"], "score": row["score"]}
        row["top_tokens"] = [each["token"] for each in more["top_tokens"][:_SHOWN_TOKENS]]
        row["lens_top"] = interest.promoted[row["region"]][:_SHOWN_TOKENS]


def _kept(view: View, several: bool, members: int) -> np.ndarray:
    """Which regions the filters leave."""
    kept_k = view.sizes_k >= members
    if several and view.annotation is not None:
        kept_k = kept_k & ~view.annotation.interest.single_word
    return kept_k


def _ordered(view: View, regions: np.ndarray, sort: str, descending: bool) -> np.ndarray:
    if sort == "label":
        return by_text(regions, [label.text for label in view.labels()[0]], descending)
    if sort == "token":
        return by_text(regions, view.tokens, descending)
    if sort == "lens" and view.annotation is not None:
        texts = ["\n".join(tokens[:_SHOWN_TOKENS]) for tokens in view.annotation.interest.promoted]
        return by_text(regions, texts, descending)
    if sort in ("interest", "lens") and view.annotation is None:
        sort = "size"
    return by_number(regions, numbers(view, sort), descending)
