"""The figure of `ood/separate.py`, from its result file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTROL = "control: the same"

_LINES = {"surprise": "C0", "distance": "C1", "as many random activations as": "0.55"}
_POINTS = {"k-NN": "s", "Mahalanobis": "D", "PCA residual": "v"}
_LEVELS = {"perplexity": ":", "norm": "--"}  # keep next to nothing, or the model itself


def ood_figure(result: dict[str, Any]) -> Figure:
    """Memory of each method against its mean AUROC over the tasks of a suite, per document and per token."""
    from exemplar_partitioning.show.figures import blank, style

    suites, levels = result["suites"], ("document", "token")
    with style():
        figure, _ = blank(7.0, 2.2 * len(suites), nrows=len(suites), ncols=2)
        panels = figure.axes
        for axes, (suite, level) in zip(panels, ((s, lv) for s in suites for lv in levels), strict=True):
            for start, colour in _LINES.items():
                own = list(_of(suite, level, start))
                axes.plot(*zip(*own, strict=True), "o-", color=colour, ms=3.5, lw=1.2, label=start.removesuffix(" as"))
            for start, marker in _POINTS.items():
                own = list(_of(suite, level, start))
                axes.plot(*zip(*own, strict=True), marker, color="0.2", ms=4, ls="", label=start)
            for name, stroke in _LEVELS.items():
                axes.axhline(mean_auroc(suite, name, level), color="0.6", lw=0.8, ls=stroke, label=name)
            axes.set(xscale="log", ylim=(0.4, 1.01))
            axes.set_title(f"{suite['about']}, per {level}", fontsize=8, loc="left")
        for axes in panels[-2:]:
            axes.set_xlabel("megabytes kept")
        for axes in panels[::2]:
            axes.set_ylabel("mean AUROC")
        panels[0].legend(fontsize=6, loc="lower right")
    return figure


def mean_auroc(suite: dict[str, Any], method: str, level: str) -> float:
    """Of a suite's tasks, the control left out."""
    tasks = [task for task in suite["tasks"] if task["name"] != CONTROL]
    return float(np.mean([task["methods"][method][level]["auroc"][0] for task in tasks]))


def _of(suite: dict[str, Any], level: str, start: str) -> Iterator[tuple[float, float]]:
    for name, cost in sorted(suite["methods"].items(), key=lambda method: method[1]["bytes"]):
        if name.startswith(start):
            yield cost["bytes"] / 1e6, mean_auroc(suite, name, level)
