"""The figure of concept detection, from its result files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .pooled import REFERENCES, pooled, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS = ("exemplar", "mean")
_MARKS = "osD^v<>pP*"


def axbench_figure(results: Sequence[dict[str, Any]]) -> Figure:
    """Mean AUROC of every method with its interval, pooled; marks: each model and site."""
    from exemplar_partitioning.show.figures import blank, style

    finest = min(d["percentile"] for d in results[0]["dictionaries"])
    rows = shown(pooled(results), finest)[::-1]
    places = [f"{r['model']['id']}, {site}" for r in results for site in r["plan"]["sites"]]
    best = max(row["auroc"][0] for row in rows if row["basis"] in REFERENCES and row["training"] == "own")
    with style():
        figure, (axes,) = blank(7.0, 0.19 * len(rows) + 0.9)
        for y, row in enumerate(rows):
            mean, low, high = row["auroc"]
            ours = row["basis"] in _OURS or row["basis"].startswith("exemplar,")
            colour = "C0" if ours else "C1" if row["basis"] in REFERENCES else "0.35"
            axes.plot([low, high], [y, y], color=colour, lw=1.5)
            axes.plot([mean], [y], "o", color=colour, ms=4)
            for value, mark in zip(row["places"], _MARKS, strict=False):
                axes.plot([value], [y], mark, color=colour, ms=3, mfc="none", alpha=0.6)
        axes.axvline(best, color="0.8", lw=0.8, zorder=0)
        names = [", ".join(filter(None, (r["basis"], r["rule"], r["training"]))) for r in rows]
        axes.set_yticks(range(len(rows)), names)
        for place, mark in zip(places, _MARKS, strict=False):
            axes.plot([], [], mark, color="0.35", ms=3, mfc="none", label=place)
        axes.legend(loc="upper left", fontsize=6)
        axes.set_xlabel(f"mean AUROC over concepts, 95 % interval (percentile {finest:g})")
    return figure
