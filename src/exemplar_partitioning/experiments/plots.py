"""Figures of experiments, from their result files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def arms_figure(result: dict[str, Any]) -> Figure:
    """How often the behaviour shows on test prompts under every arm, with 95 % intervals (`causal.run`)."""
    from ..figures import blank, style

    random = [arm for arm in result["arms"] if arm["name"] == "random direction"]
    arms = [arm for arm in result["arms"] if arm["name"] != "random direction"]
    rows = [("no intervention", result["baseline"]), *((arm["name"], arm) for arm in arms)]
    with style():
        figure, (axes,) = blank(5.5, 0.24 * (len(rows) + 1) + 0.7)
        for y, (name, row) in enumerate(rows):
            ours = not any(word in name for word in ("no intervention", "null", "difference"))
            colour = "C0" if ours else "0.35"
            axes.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.5)
            axes.plot([row["rate"]], [y], "o", color=colour, ms=4)
        axes.plot([arm["rate"] for arm in random], [len(rows)] * len(random), "|", color="0.35", ms=8)
        axes.axvline(result["baseline"]["rate"], color="0.8", lw=0.8, zorder=0)
        axes.set_yticks(range(len(rows) + 1), [*(name for name, _ in rows), f"{len(random)} random directions"])
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(f"share of test prompts: {result['behaviour']['about']}")
    return figure
