"""Figures of experiments, from their result files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def arms_figure(result: dict[str, Any]) -> Figure:
    """How often the behaviour shows on test prompts under every arm (`run.py`).

    With 95 % intervals, or as a stroke for each of several of one kind.
    """
    from exemplar_partitioning.show.figures import blank, style

    arms: dict[str, list[dict[str, Any]]] = {"no intervention": [result["baseline"]]}
    for arm in result["arms"]:
        arms.setdefault(arm["name"], []).append(arm)
    labels = [name if len(rows) == 1 else f"{name} ({len(rows)})" for name, rows in arms.items()]
    with style():
        figure, (axes,) = blank(5.5, 0.24 * len(arms) + 0.7)
        for y, (name, rows) in enumerate(arms.items()):
            ours = not any(word in name for word in ("no intervention", "null", "difference", "random"))
            colour = "C0" if ours else "0.35"
            if len(rows) == 1:
                axes.plot([rows[0]["low"], rows[0]["high"]], [y, y], color=colour, lw=1.5)
                axes.plot([rows[0]["rate"]], [y], "o", color=colour, ms=4)
            else:
                axes.plot([row["rate"] for row in rows], [y] * len(rows), "|", color=colour, ms=8)
        axes.axvline(result["baseline"]["rate"], color="0.8", lw=0.8, zorder=0)
        axes.set_yticks(range(len(arms)), labels)
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(f"share of test prompts: {result['behaviour']['about']}")
    return figure
