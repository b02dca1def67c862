"""The pictures of concepts.md, drawn by the method itself: `make pages`.

Each figure is a function of this file and of examples/ep_from_scratch.py, whose functions it calls.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCRATCH = DOCS.parent / "examples" / "ep_from_scratch.py"
INK, SOFT, ACCENT = "#26323f", "#9fb0c0", "#c2410c"


def file_of(name: str) -> Path:
    return DOCS / "figures" / f"concept-{name}.svg"


def digest() -> str:
    """What the figures follow from."""
    return hashlib.sha256(Path(__file__).read_bytes() + SCRATCH.read_bytes()).hexdigest()


def stale() -> list[str]:
    """Figures that are missing or were drawn by another version of the code."""
    files = [file_of(name) for name in FIGURES]
    return [file.name for file in files if not file.is_file() or digest() not in file.read_text()]


def _scratch():
    sys.path.insert(0, str(SCRATCH.parent))
    import ep_from_scratch

    return ep_from_scratch


def _panels(count: int, width: float, height: float):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "ep", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    return plt.subplots(1, count, figsize=(width, height), layout="constrained")


def _bare(axes, title: str) -> None:
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_center():
    """Activations lie in a cone; seen from their centre they point everywhere."""
    scratch = _scratch()
    rng = np.random.default_rng(4)
    kinds = np.array([[1.0, 0.2], [-0.6, 0.9], [-0.3, -1.0]])
    x_nd = np.array([4.2, 2.4]) + kinds[rng.integers(0, 3, 150)] + 0.22 * rng.normal(size=(150, 2))
    c_d = scratch.find_center([x_nd])
    figure, (raw, centred) = _panels(2, 7.4, 3.5)
    for axes, origin_d in ((raw, np.zeros(2)), (centred, c_d)):
        u_nd = scratch.directions(x_nd, origin_d)
        y_nd = x_nd - origin_d
        angle = np.linspace(0, 2 * np.pi, 200)
        axes.plot(np.cos(angle), np.sin(angle), color=SOFT, lw=0.8)
        axes.plot(*np.stack([u_nd, y_nd]).transpose(2, 0, 1), color=SOFT, lw=0.25, zorder=0)
        axes.plot(*y_nd.T, ".", ms=4, color=INK)
        axes.plot(*u_nd.T, ".", ms=5, color=ACCENT)
        axes.plot(0, 0, "+", ms=9, color=INK)
    _bare(raw, "From the origin: all directions are alike")
    _bare(centred, "From the centre: directions tell kinds apart")
    return figure


def draw_leader():
    """The rule at work: after a few activations, after more, and the regions in the end."""
    from matplotlib.patches import Circle
    from scipy.spatial import Voronoi, voronoi_plot_2d

    scratch = _scratch()
    rng = np.random.default_rng(11)
    middles = rng.uniform(-0.34, 0.34, size=(7, 2))
    xy_n2 = np.concatenate([middles[rng.integers(0, 7, 260)] + 0.07 * rng.normal(size=(260, 2))])
    xy_n2 = xy_n2[np.abs(xy_n2).max(axis=1) < 0.44]
    theta = 0.0065
    # a patch of the sphere, seen from above: chord^2 = 2 * cosine distance
    u_nd = np.column_stack([xy_n2, np.sqrt(1 - (xy_n2**2).sum(axis=1))])
    births, e_kd = scratch.lead(u_nd, theta)
    region_n, _ = scratch.assign(u_nd, e_kd)
    figure, panels = _panels(3, 9.6, 3.5)
    for axes, seen in zip(panels, (6, 60, len(u_nd)), strict=True):
        old = births[births < seen]
        last = seen == len(u_nd)
        if last:
            voronoi_plot_2d(Voronoi(e_kd[:, :2]), axes, show_points=False, show_vertices=False, line_colors=SOFT)
            axes.scatter(*xy_n2.T, s=8, c=region_n % 10, cmap="tab10", alpha=0.75, linewidths=0)
        else:
            axes.plot(*xy_n2[:seen].T, ".", ms=4, color=INK)
            for x, y in xy_n2[old]:
                axes.add_patch(Circle((x, y), np.sqrt(2 * theta), fc=ACCENT, ec=ACCENT, alpha=0.13))
        axes.plot(*xy_n2[old].T, "*", ms=9, color=ACCENT, mec="white", mew=0.5)
        _bare(
            axes,
            f"{seen} activations, {len(old)} regions: their cells"
            if last
            else f"{seen} activations, {len(old)} exemplars",
        )
        axes.set(xlim=(-0.52, 0.52), ylim=(-0.52, 0.52))
    return figure


def draw_calibration():
    """theta is a percentile of the distances there are; the number of regions follows."""
    scratch = _scratch()
    x_nd = scratch.blobs(2_000)
    c_d = scratch.find_center([x_nd])
    u_nd = scratch.directions(x_nd, c_d)
    distances = (1 - u_nd @ u_nd.T)[np.triu_indices(len(u_nd), 1)]
    percentiles = (1, 2, 4, 8, 10)
    thetas = np.percentile(distances, percentiles)
    figure, (left, right) = _panels(2, 8.4, 3.0)
    left.hist(distances, bins=90, color=SOFT)
    for i, (p, theta) in enumerate(zip(percentiles, thetas, strict=True)):
        top = 1.2 - 0.09 * i
        left.axvline(theta, ymax=top, color=ACCENT, lw=0.8, clip_on=False)
        left.annotate(f" percentile {p}", (theta, top), xycoords=("data", "axes fraction"), va="top", fontsize=7.5)
    left.set(xlabel="cosine distance of two activations", yticks=[])
    left.set_title("Distances of all pairs, and theta for five percentiles", fontsize=9, loc="left", pad=34)
    counts = [len(scratch.lead(u_nd, theta)[0]) for theta in thetas]
    right.plot(percentiles, counts, marker="*", ms=9, color=ACCENT, lw=1)
    right.set(xlabel="percentile", ylabel="regions", yscale="log")
    right.set(xticks=percentiles, yticks=counts, yticklabels=counts)
    right.minorticks_off()
    right.set_title("Small is fine: regions by percentile", fontsize=9, loc="left", pad=34)
    return figure


FIGURES = {"center": draw_center, "leader": draw_leader, "calibration": draw_calibration}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        draw().savefig(file_of(name), metadata={"Date": None, "Description": f"source sha256 {digest()}"})
