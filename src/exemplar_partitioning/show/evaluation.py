"""The figure of an evaluation: what codes lack, against how many features they use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EPError, require_extra
from ..evaluating.result import Evaluation
from .figures import FORMATS, SINGLE, blank, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKS = {
    "exemplars": {"color": "#0072b2", "marker": "o"},
    "means": {"color": "#0072b2", "marker": "o"},
    "random activations": {"color": "#666666", "marker": "x", "ls": "--"},
    "SAE": {"color": "#d55e00", "marker": "s", "ls": ""},
    "SAE decoder": {"color": "#d55e00", "marker": "^"},
}


def check_drawing(path: Path) -> None:
    """Raise EPError unless a figure can be drawn into such a file."""
    if path.suffix.lstrip(".") not in FORMATS:
        raise EPError(f"a figure is a file {', '.join(f'.{name}' for name in FORMATS)}; got {path.name}")
    require_extra("figures", "matplotlib", of="a figure")


def curves(evaluation: Evaluation, width: float = SINGLE) -> Figure:
    """FVU against L0 with 95 % intervals; below it cross-entropy, if the model was run. The null is dashed."""
    spliced = evaluation.ce_clean is not None
    with style():
        figure, axes = blank(width, width * (1.3 if spliced else 0.7), nrows=2 if spliced else 1, sharex=True)
        for code in dict.fromkeys(row.code for row in evaluation.rows):
            rows = [row for row in evaluation.rows if row.code == code]
            l0, fvu = [row.l0 for row in rows], [row.fvu.estimate for row in rows]
            looks = {"markersize": 3, "label": code, **_LOOKS[code]}
            axes[0].plot(l0, fvu, **looks)
            low, high = [row.fvu.low for row in rows], [row.fvu.high for row in rows]
            if len(rows) > 1:
                axes[0].fill_between(l0, low, high, color=looks["color"], alpha=0.12, lw=0)
            else:
                axes[0].vlines(l0, low, high, color=looks["color"], lw=0.6)
            if spliced:
                axes[1].plot(l0, [row.ce or 0.0 for row in rows], **looks)
        axes[0].set(ylabel="FVU", xscale="log")
        axes[0].legend()
        if evaluation.ce_clean is not None:
            axes[1].axhline(evaluation.ce_clean, color="#222222", lw=0.6, ls=":")
            across = axes[1].get_yaxis_transform()
            axes[1].text(0.01, evaluation.ce_clean, "model as it is", transform=across, va="bottom")
            axes[1].set(ylabel="cross-entropy, nats")
        ks = sorted({row.k for row in evaluation.rows if row.k})
        axes[-1].set_xticks(ks, [str(k) for k in ks])
        axes[-1].minorticks_off()
        axes[-1].set_xlabel("features in use (L0)")
    return figure
