"""Figures of a dictionary: `d.plot.sizes()`, each a matplotlib figure that a notebook shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..folder.dictionary import StoredDictionary
from ..folder.interest import sizes
from . import figures
from . import map as atlas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AREA = 160.0  # of the largest region's circle, in square points
_GREY = "#999999"  # of regions without members


class Plots:
    """What there is to draw of a dictionary; needs the extra `figures`."""

    def __init__(self, dictionary: StoredDictionary):
        self._dictionary = dictionary

    def sizes(self, width: float = figures.SINGLE) -> Figure:
        """Members of regions by rank; online counts without annotation.

        Args:
            width: in inches.

        Raises:
            EPError: no matplotlib.
        """
        return figures.sizes([self._dictionary], width)

    def growth(self, width: float = figures.SINGLE) -> Figure:
        """Regions along the stream.

        Args:
            width: in inches.

        Raises:
            EPError: no matplotlib.
        """
        return figures.saturation([self._dictionary], width)

    def distances(self, width: float = figures.SINGLE) -> Figure:
        """How far members lie from their exemplar, and exemplars from each other.

        Args:
            width: in inches.

        Raises:
            EPError: no annotation, or no matplotlib.
        """
        return figures.distances(self._dictionary, width)

    def sphere(self, width: float = figures.DOUBLE) -> Figure:
        """Regions on a sphere, the biggest named.

        Args:
            width: in inches.

        Raises:
            EPError: no matplotlib.
        """
        return figures.sphere(self._dictionary, width)

    def map(self, width: float = figures.DOUBLE) -> Figure:
        """Regions on a plane, those with similar exemplars near each other: area by size, colour by coherence.

        Args:
            width: in inches.

        Raises:
            EPError: no matplotlib.
            ResourceError: the layout cannot be kept in the user's cache.
        """
        d = self._dictionary
        with figures.drawing([d]):
            from matplotlib import colormaps

            figure, (axes,) = figures.blank(width, 0.75 * width)
            place_k2, size_k = atlas.layout(d), sizes(d)
            order = np.argsort(-size_k, kind="stable")  # small ones on top
            area_k = 2 + _AREA * size_k / max(1, size_k.max())
            circles = {"linewidths": 0.3, "edgecolors": "white", "alpha": 0.8, "s": area_k[order]}
            if d.annotated:
                coherence_k = d.annotation.regions["coherence"].to_numpy(zero_copy_only=False)[order]
                colours = colormaps["viridis"].with_extremes(bad=_GREY)
                drawn = axes.scatter(*place_k2[order].T, c=coherence_k, cmap=colours, plotnonfinite=True, **circles)
                figure.colorbar(drawn, ax=axes, shrink=0.6, label="coherence")
            else:
                axes.scatter(*place_k2[order].T, color=_GREY, **circles)
            axes.set(xticks=[], yticks=[], aspect="equal")
            axes.spines[:].set_visible(False)
            axes.set_title(f"{d.k:,} regions; axes have no meaning", loc="left", fontsize=7)
        return figure
