"""The figure of the probes, from their result file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMS = {"one-hot": "C0", "exemplar": "C3", "share": "C1", "cosine": "C2", "random": "0.5"}


def probes_figure(result: dict[str, Any]) -> Figure:
    """Retention above chance over percentiles, pooled; and accuracy task by task at the finest (`run.py`)."""
    from exemplar_partitioning.show.figures import blank, style

    with style():
        figure, _ = blank(7.0, 3.0, ncols=2)
        _over_percentiles(figure.axes[0], result)
        _task_by_task(figure.axes[1], result)
    return figure


def _over_percentiles(axes: Axes, result: dict[str, Any]) -> None:
    percentiles = sorted(d["percentile"] for d in result["dictionaries"])
    row_of = {(row["arm"], row["detail"]): row for row in result["pooled"]}
    for arm, colour in _FORMS.items():
        rows = [row_of[key] for p in percentiles if (key := (arm, f"p {p:g}")) in row_of]
        if not rows:  # a result older than the arm
            continue
        for figure, line in (("retention", "-"), ("corrected", "--")):
            value, low, high = zip(*(row[figure] for row in rows), strict=True)
            axes.plot(percentiles, value, line, marker="o", ms=3, color=colour, label=arm if line == "-" else None)
            axes.fill_between(percentiles, low, high, color=colour, alpha=0.12, lw=0)
    axes.axhline(0.9, color="0.8", lw=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_xticks(percentiles, [f"{p:g}" for p in percentiles], minor=False)
    axes.minorticks_off()
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("percentile")
    axes.set_ylabel("retention (dashed: above chance)")
    axes.legend(loc="lower left")


def _task_by_task(axes: Axes, result: dict[str, Any]) -> None:
    finest = f"p {min(d['percentile'] for d in result['dictionaries']):g}"
    for arm in ("one-hot", "share"):
        points = []
        for task in result["tasks"]:
            row = {(a["arm"], a["detail"]): a for a in task["arms"]}
            judged = row[arm, finest]
            points.append((row[judged["against"], ""]["accuracy"][0], judged["accuracy"][0]))
        axes.plot(*zip(*points, strict=True), "o", ms=3, alpha=0.7, mew=0, color=_FORMS[arm], label=f"{arm}, {finest}")
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="0.8", lw=0.8, zorder=0)
    axes.plot([low, high], [0.9 * low, 0.9 * high], color="0.8", lw=0.8, ls=":", zorder=0)
    axes.set_xlim(low, high)
    axes.set_xlabel("accuracy from raw activations")
    axes.set_ylabel("from regions")
    axes.legend(loc="upper left")
