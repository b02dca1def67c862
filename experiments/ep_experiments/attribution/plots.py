"""The figure of the attribution experiment, from its result file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKS: dict[str, dict[str, Any]] = {
    "exemplars": {"color": "#0072b2", "marker": "o"},
    "means": {"color": "#56b4e9", "marker": "o"},
    "neurons": {"color": "#d55e00", "marker": "s"},
    "random activations": {"color": "#666666", "marker": "x", "ls": "--"},
    "random order": {"color": "#bbbbbb", "marker": ".", "ls": ":"},
}
_PANELS = {
    "faithfulness_by_size": "logit difference, the n largest alone",
    "completeness_by_size": "logit difference, without the n largest",
}


def attribution_figure(result: dict[str, Any]) -> Figure:
    """Faithfulness, and what the others still carry, by the number of nodes; means over all prompts."""
    from exemplar_partitioning.show.figures import DOUBLE, blank, style

    with style():
        figure, _ = blank(DOUBLE, 2.4, ncols=2, sharey=True)
        for panel, (name, title) in zip(figure.axes, _PANELS.items(), strict=True):
            for arm, figures in result["summary"]["all"]["arms"].items():
                panel.plot(result["sizes"], figures[name], **{"markersize": 3, "label": arm, **_LOOKS[arm]})
            panel.axhline(0, color="#222222", lw=0.4)
            panel.set(xscale="log", xlabel="nodes n, of all tokens together")
            panel.set_xticks(result["sizes"], [str(n) for n in result["sizes"]])
            panel.minorticks_off()
            panel.set_title(f"share of the {title}", fontsize=7, loc="left")
        figure.axes[0].legend()
    return figure
