"""The figure of the reconstruction experiment at full size, from rows of docs/results/reconstruction/full.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKS = {
    "exemplars": {"color": "#0072b2", "marker": "o"},
    "means": {"color": "#56b4e9", "marker": "o"},
    "random activations": {"color": "#666666", "marker": "x", "ls": "--"},
    "k-means": {"color": "#009e73", "marker": "v"},
    "Gaussian": {"color": "#bbbbbb", "marker": ".", "ls": ":"},
    "TopK of 0.1 M, pursuit": {"color": "#e69f00", "marker": "^"},
    "TopK of 5 M, pursuit": {"color": "#d55e00", "marker": "^"},
    "TopK of 5 M, own codes": {"color": "#d55e00", "marker": "s", "ls": ""},
}


def reconstruction_figure(curves: Mapping[str, Sequence[dict[str, Any]]]) -> Figure:
    """FVU of the other documents with 95 % intervals, and CE recovered, against L0; by the names above."""
    from exemplar_partitioning.show.figures import DOUBLE, blank, style

    with style():
        figure, _ = blank(DOUBLE, 3.0, ncols=2)
        for name, rows in curves.items():
            looks = {"markersize": 3, "label": name, **_LOOKS[name]}
            l0 = [row["l0"] for row in rows]
            for panel, figure_name in zip(figure.axes, ("fvu_others", "recovered_zero"), strict=True):
                value, low, high = zip(*(row[figure_name] for row in rows), strict=True)
                panel.plot(l0, value, **looks)
                panel.fill_between(l0, low, high, color=looks["color"], alpha=0.1, lw=0)
        ks = sorted({row["k"] for rows in curves.values() for row in rows if row["k"]})
        for panel in figure.axes:
            panel.set(xscale="log", xlabel="features in use (L0)")
            panel.set_xticks(ks, [str(k) for k in ks])
            panel.minorticks_off()
        figure.axes[0].set(ylabel="FVU, other documents")
        figure.axes[1].set(ylabel="CE recovered (zero)")
        figure.axes[1].legend()
    return figure
