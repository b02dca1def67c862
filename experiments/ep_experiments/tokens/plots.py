"""Figures of what dictionaries and autoencoders take, and of growth on kinds of text, from their result files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def tokens_figure(result: dict[str, Any]) -> Figure:
    """Detection against tokens, and against operations with the model's forward pass (`run.py`)."""
    from exemplar_partitioning.show.figures import blank, style

    with style():
        figure, _ = blank(7.0, 2.7, ncols=2, sharey=True)
        for axes, cost, label in zip(
            figure.axes, ("tokens", "flops"), ("tokens", "floating point operations"), strict=True
        ):
            _curve(axes, result["dictionaries"], cost, "C0", f"regions, p {result['percentile']:g}")
            kinds = dict.fromkeys(row["name"].rpartition("-")[0] for row in result["autoencoders"])
            for colour, kind in zip(("C1", "C2", "C3"), kinds, strict=False):
                rows = [row for row in result["autoencoders"] if row["name"].rpartition("-")[0] == kind]
                _curve(axes, rows, cost, colour, f"autoencoder, {kind}")
            axes.set_xscale("log")
            axes.set_xlabel(label)
        figure.axes[0].set_ylabel("AUROC of the best unit,\nmean over tasks (95 %)")
        figure.axes[0].legend(loc="lower right")
    return figure


def _curve(axes: Axes, rows: list[dict[str, Any]], cost: str, colour: str, label: str) -> None:
    rows = sorted(rows, key=lambda row: row[cost])
    cost_m = [row[cost] for row in rows]
    axes.plot(cost_m, [row["mean_auroc"] for row in rows], "-o", ms=3, color=colour, label=label)
    axes.fill_between(
        cost_m, [row["low"] for row in rows], [row["high"] for row in rows], color=colour, alpha=0.12, lw=0
    )


def saturation_figure(result: dict[str, Any]) -> Figure:
    """Growth on every kind of text, a panel a percentile; a square where a build would have stopped."""
    from exemplar_partitioning.show.figures import blank, style

    percentiles = list(dict.fromkeys(row["percentile"] for row in result["results"]))
    with style():
        figure, _ = blank(7.0, 2.4, ncols=len(percentiles))
        for axes, percentile in zip(figure.axes, percentiles, strict=True):
            rows = [row for row in result["results"] if row["percentile"] == percentile]
            for i, row in enumerate(rows):
                n_c, k_c = zip(*row["curve"], strict=True)
                axes.plot(n_c, k_c, color=f"C{i}", label=row["domain"])
                if at := row["saturated_at"]:
                    k = max(k for n, k in row["curve"] if n <= at)
                    axes.plot([at], [k], "s", ms=4, color=f"C{i}")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(f"p {percentile:g}", loc="left", fontsize=8)
            axes.set_xlabel("activations")
        figure.axes[0].set_ylabel("regions")
        figure.axes[-1].legend(loc="lower right")
    return figure
