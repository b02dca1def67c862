"""Figures for papers: sizes of regions, growth, distances, and the sphere. Needs the extra `figures`.

Every function returns a matplotlib Figure of its own; nothing global changes. `width` is in inches: a single
column of a paper has about 3.4, both have 7. Text keeps its size, so include figures without scaling them.

Shapes: k regions, d = d_model, m marked regions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int64

from ..errors import EPError, require_extra
from ..folder.annotation import BIN_WIDTH, BINS
from ..folder.dictionary import StoredDictionary
from ..folder.labels import MADE, Labels
from ..text.visible import visible
from . import map as atlas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE, DOUBLE = 3.4, 7.0  # inches
FORMATS = ("svg", "png", "pdf")

_MARKED = 25
_GAPS = (2.0, 8.0, 16.0, 26.0, 38.0)  # points between a circle and its name, at which to look for room
_LABEL = 22  # characters at most
_INK, _FAINT = "#222222", "#666666"
_BLUE, _ORANGE = "#0072b2", "#d55e00"  # told apart with any kind of colour vision (Okabe and Ito)
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "exemplar-partitioning",
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}


def sizes(dictionaries: Sequence[StoredDictionary], width: float = SINGLE) -> Figure:
    """Members of regions by rank, a line per dictionary; online counts unless all are annotated.

    Raises EPError without dictionaries or matplotlib.
    """
    counted = "members" if all(d.annotated for d in dictionaries) else "online counts"
    with drawing(dictionaries):
        figure, (axes,) = blank(width)
        for d, style in zip(dictionaries, _styles(dictionaries), strict=True):
            count_k = np.sort(_count(d, counted))[::-1]
            count_k = count_k[count_k > 0]
            axes.plot(np.arange(1, len(count_k) + 1), count_k, label=_name(d, dictionaries), **style)
        axes.set(xlabel="region, by size", ylabel=counted)
        _log_counts(axes)
        _legend(figure, axes)
    return figure


def saturation(dictionaries: Sequence[StoredDictionary], width: float = SINGLE) -> Figure:
    """Regions along the stream, a line per dictionary; a square where no new one came any more.

    Raises EPError without dictionaries or matplotlib.
    """
    with drawing(dictionaries):
        figure, (axes,) = blank(width)
        for d, style in zip(dictionaries, _styles(dictionaries), strict=True):
            n, k = np.array(d.config.build.growth).T
            axes.plot(n, k, label=_name(d, dictionaries), **style)
            if d.config.build.stopped == "saturated":
                axes.plot(n[-1], k[-1], marker="s", ms=3.5, color=style["color"])
        axes.set(xlabel="activations streamed", ylabel="regions")
        _log_counts(axes)
        _legend(figure, axes)
    return figure


def distances(dictionary: StoredDictionary, width: float = SINGLE) -> Figure:
    """How far members lie from their exemplar, beside how far exemplars lie from the nearest other one.

    Raises EPError if the dictionary is not annotated, or without matplotlib.
    """
    theta = dictionary.threshold
    edges = BIN_WIDTH * np.arange(BINS + 1)
    members = dictionary.annotation.histogram.sum(axis=0)
    # edges that meet theta: by the rule of leader clustering nothing lies below it
    from_theta = np.concatenate([np.arange(theta, 0, -BIN_WIDTH)[::-1], np.arange(theta, 2, BIN_WIDTH)[1:]])
    between, _ = np.histogram(_to_nearest_other(dictionary), from_theta)
    with drawing([dictionary]):
        figure, panels = blank(width, nrows=2, sharex=True, height_ratios=(3, 2))
        shown = [
            ("members to their exemplar", members, edges, _BLUE),
            ("exemplars to the nearest other", between, from_theta, _ORANGE),
        ]
        for axes, (title, count, bins, colour) in zip(panels, shown, strict=True):
            share = count / max(1, count.sum())
            axes.stairs(share, bins, fill=True, color=colour, alpha=0.25, lw=0)
            axes.stairs(share, bins, color=colour, lw=1)
            axes.axvline(theta, color=_INK, lw=0.8, ls=(0, (3, 2)))
            axes.set_ylim(0)
            axes.set_title(title, loc="left", fontsize=7, pad=3)
        used = np.concatenate([edges[1:][members > 0], from_theta[1:][between > 0], [theta]])
        panels[0].set_xlim(0, used.max() + BIN_WIDTH)
        panels[0].text(theta, 1.02, f"\N{GREEK SMALL LETTER THETA} = {theta:.3f}",
            transform=panels[0].get_xaxis_transform(), ha="center", fontsize=7)  # fmt: skip
        panels[1].set_xlabel("cosine distance")
        figure.supylabel(f"share per {BIN_WIDTH:g}", fontsize=8)
    return figure


def sphere(dictionary: StoredDictionary, width: float = DOUBLE) -> Figure:
    """Regions on a sphere, in an equal-area projection, by the first three principal axes of their exemplars.

    The area of a circle goes with the region's members (online counts unless annotated); the biggest are named
    by their label or commonest token, where there is room. Raises EPError without matplotlib.
    """
    counted = "members" if dictionary.annotated else "online counts"
    count_k = _count(dictionary, counted)
    place_k2 = atlas.sphere(dictionary)
    with drawing([dictionary]):
        figure, (axes,) = blank(width, 0.53 * width, subplot_kw={"projection": "mollweide"})
        figure.set_layout_engine("none")  # labels are placed where the axes are now
        axes.set_position((0.01, 0.06, 0.98, 0.93))
        axes.grid(True, lw=0.3, color="#dddddd")
        axes.spines["geo"].set_edgecolor("#aaaaaa")
        axes.set(xticklabels=[], yticklabels=[])
        order = np.argsort(-count_k, kind="stable")  # small ones on top
        crowded = max(1, dictionary.k / 1000) ** 0.5
        area_k = (1.5 + 24 * width * count_k / max(1, count_k.max())) / crowded
        circles = {"linewidths": 0.3, "edgecolors": "white", "color": _BLUE, "alpha": 0.7}
        axes.scatter(*place_k2[order].T, s=area_k[order], zorder=2, **circles)
        marked = order[:_MARKED][count_k[order[:_MARKED]] > 0]
        _name_places(axes, place_k2[marked], np.sqrt(area_k[marked]) / 2, _short_labels(dictionary, marked))
        caption = f"{dictionary.k:,} regions; area of a circle: {counted} (largest: {count_k.max():,})"
        figure.text(0.5, 0.01, caption, ha="center", fontsize=7, color=_FAINT)
    return figure


def to_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as a file of one of FORMATS; the same figure gives the same bytes."""
    if kind not in FORMATS:
        raise EPError(f"a figure can be written as {', '.join(FORMATS)}; got {kind!r}")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    buffer = BytesIO()
    with style():
        figure.savefig(buffer, format=kind, metadata=undated)
    return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Our settings of matplotlib, whatever it is set to elsewhere; then again what it was set to."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


@contextmanager
def drawing(dictionaries: Sequence[StoredDictionary]) -> Iterator[None]:
    """Make sure that there is something to draw, and something to draw with."""
    if not dictionaries:
        raise EPError("there is nothing to draw: give at least one dictionary")
    require_extra("figures", "matplotlib", of="a figure")
    with style():
        yield


def blank(width: float, height: float | None = None, **subplots: Any) -> tuple[Figure, Sequence[Axes]]:
    """A figure, and its axes from top to bottom."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height or 0.7 * width), layout="constrained")
    FigureCanvasAgg(figure)
    vars(figure)["_repr_svg_"] = lambda: to_bytes(figure, "svg").decode()  # shown in notebooks without pyplot
    return figure, figure.subplots(squeeze=False, **subplots)[:, 0].tolist()


def _count(dictionary: StoredDictionary, counted: str) -> Int64[np.ndarray, " k"]:
    """`members` or `online counts` of every region."""
    column = dictionary.annotation.regions["members"] if counted == "members" else dictionary.regions["arrivals"]
    return column.to_numpy()


def _to_nearest_other(dictionary: StoredDictionary) -> Float[np.ndarray, " k"]:
    """Cosine distance of every exemplar to the nearest other one; none for a single region."""
    from sklearn.neighbors import NearestNeighbors

    if dictionary.k < 2:
        return np.empty(0)
    e_kd = dictionary.exemplars.numpy()
    return NearestNeighbors(n_neighbors=1, metric="cosine").fit(e_kd).kneighbors()[0][:, 0]


def _name(dictionary: StoredDictionary, among: Sequence[StoredDictionary]) -> str:
    """Percentile and threshold, and the site where several are shown."""
    calibration, site = dictionary.config.calibration, dictionary.config.site.name
    several = len({d.config.site.name for d in among}) > 1
    theta = f"\N{GREEK SMALL LETTER THETA} = {calibration.threshold:.3f}"
    return f"{site + ', ' if several else ''}p = {calibration.percentile:g} ({theta})"


def _styles(dictionaries: Sequence[StoredDictionary]) -> list[dict[str, Any]]:
    """Colour by percentile, from dark to light; dashes by site."""
    from matplotlib import colormaps

    percentiles = sorted({d.config.calibration.percentile for d in dictionaries})
    sites = list(dict.fromkeys(d.config.site.name for d in dictionaries))
    dashes = ["-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1))]
    step = 0.85 / max(1, len(percentiles) - 1)
    return [
        {
            "color": colormaps["viridis"](step * percentiles.index(d.config.calibration.percentile)),
            "ls": dashes[sites.index(d.config.site.name) % len(dashes)],
        }
        for d in dictionaries
    ]


def _log_counts(axes: Axes) -> None:
    """Both axes logarithmic, with counts as 200, 5k, 1M; between the powers of ten where there are few of them."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        axes.set(**{f"{name}scale": "log"})
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axis.set_major_formatter(EngFormatter(sep=""))
        axis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the axes, where no line can run through it; the figure grows by its rows."""
    rows = (len(axes.get_legend_handles_labels()[1]) + 1) // 2
    figure.set_figheight(figure.get_figheight() + 0.15 * rows)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.02), ncols=2, columnspacing=1, borderaxespad=0.2)


def _short_labels(dictionary: StoredDictionary, regions: Int64[np.ndarray, " m"]) -> list[str]:
    """Their labels in few characters that the font has."""
    best = Labels.read(dictionary).some(regions.tolist())
    texts = [_tokens_of(label.text) if label.source in MADE else label.text for label in best]
    shown = [_drawable(visible(text)) for text in texts]
    return [text if len(text) <= _LABEL else text[: _LABEL - 1] + "\u2026" for text in shown]


def _tokens_of(label: str) -> str:
    """As many of the tokens that a label was made from as there is room for, without what it says about them."""
    tokens = re.split(r" \u2192 | after | near ", label.rpartition("such as ")[2])[0]
    tokens = re.sub(r" \d+%$", "", tokens).replace("\u201d / \u201c", "\u201d \u201c")
    while len(tokens) > _LABEL and " \u201c" in tokens:
        tokens = tokens.rpartition(" \u201c")[0]
    return tokens


def _drawable(text: str) -> str:
    """Characters that the font lacks become its sign for that, instead of warnings and boxes."""
    return "".join(c if ord(c) in _glyphs() else "\ufffd" for c in text)


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(_STYLE["font.family"][0])).get_charmap())


def _name_places(
    axes: Axes, place_m2: Float[np.ndarray, "m 2"], radius_m: Float[np.ndarray, " m"], texts: Sequence[str]
) -> None:
    """Names beside circles (radii in points), the first ones first; left out where every place is taken."""
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text

    figure, points = axes.figure, 72 / axes.figure.dpi
    centre_m2 = axes.transData.transform(place_m2) * points
    inscribed_m1 = radius_m[:, None] * np.sqrt(0.5)
    boxes = list(np.hstack([centre_m2 - inscribed_m1, centre_m2 + inscribed_m1]))
    room = np.asarray(figure.bbox.extents) * points
    for place, centre, radius, text in zip(place_m2, centre_m2, radius_m, texts, strict=True):
        line = {"arrowstyle": "-", "lw": 0.4, "color": _INK, "shrinkA": 0, "shrinkB": float(radius)}
        middle = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 6.5}
        name = axes.annotate(text, place, (0, 0), arrowprops=line, parse_math=False, **middle)
        name.set_path_effects([withStroke(linewidth=1.4, foreground="white")])
        extent = Text.get_window_extent(name)  # of an annotation it would be with its line
        size = np.array([extent.width, extent.height]) * points
        for gap, offset in _offsets(float(radius), size):
            box = np.concatenate([centre + offset - size / 2, centre + offset + size / 2])
            if _inside(box, room) and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                name.set_position((offset[0], offset[1]))
                if gap == _GAPS[0] and name.arrow_patch:
                    name.arrow_patch.set_visible(False)
                break
        else:
            name.remove()


def _offsets(radius: float, size: Float[np.ndarray, " 2"]) -> Iterator[tuple[float, Float[np.ndarray, " 2"]]]:
    """Where the middle of a text of this size may go, from the middle of its circle: beside it, then farther off."""
    for gap in _GAPS:
        for angle in np.pi * np.array([0, 1, 0.5, 1.5, 0.2, 0.8, 1.2, 1.8, 0.35, 0.65, 1.35, 1.65]):
            towards = np.array([np.cos(angle), np.sin(angle)])
            yield gap, towards * (radius + gap) + np.round(towards, 6) * size / 2


def _inside(box: Float[np.ndarray, " 4"], room: Float[np.ndarray, " 4"]) -> bool:
    return bool((box[:2] >= room[:2]).all() and (box[2:] <= room[2:]).all())


def _overlap(box: Float[np.ndarray, " 4"], other: Float[np.ndarray, " 4"]) -> bool:
    return bool((box[:2] < other[2:]).all() and (other[:2] < box[2:]).all())
