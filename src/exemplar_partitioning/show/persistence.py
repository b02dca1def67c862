"""A picture of dictionaries in a row: how many regions each has, and since when it has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .figures import DOUBLE, blank, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..compare.row import Row

_BAR = 0.44  # of the room from one to the next


def persistence(row: Row, width: float = DOUBLE) -> Figure:
    """A bar a dictionary, its regions by where in the row they begin, and bands to those that continue them.

    Crosses tell how many regions of each would be said to persist into the next if nothing corresponded. Raises
    EPError without matplotlib.
    """
    rows, n = row.rows(), len(row.dictionaries)
    height_nb = np.array([each["begun"] + [0] * (n - len(each["begun"])) for each in rows], float)
    top_nb = height_nb.cumsum(axis=1)
    with drawing(row.dictionaries):
        from matplotlib import colormaps

        figure, (axes,) = blank(width, max(2.4, 0.42 * width))
        colours = colormaps["viridis"](np.linspace(0.05, 0.92, n))
        for begin in range(n):
            bottom_n, top_n = top_nb[:, begin] - height_nb[:, begin], top_nb[:, begin]
            axes.bar(range(n), height_nb[:, begin], _BAR, bottom=bottom_n, color=colours[begin], lw=0)
            for at in range(begin, n - 1):
                ends = [at + _BAR / 2, at + 1 - _BAR / 2]
                between = slice(at, at + 2)
                axes.fill_between(ends, bottom_n[between], top_n[between], color=colours[begin], alpha=0.3, lw=0)
        chance = [each["by_chance"] for each in rows[1:]]
        axes.plot(np.arange(1, n) - 0.5, chance, "x", color="#d55e00", ms=4, label="carried on by chance, at most")
        few = n <= 8
        angle = {} if few else {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(n), [name if len(name) < 24 else f"\u2026{name[-22:]}" for name in row.names], **angle)
        axes.set(ylabel="regions, by where they begin", xlim=(-0.5, n - 0.5))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure
