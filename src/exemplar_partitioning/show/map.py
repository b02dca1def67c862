"""Where to draw regions: on a plane, neighbours beside neighbours, and on a sphere.

Positions follow from the dictionary alone, not from its annotation: a map looks the same before and after.

Shapes: k regions, d = d_model, p regions placed first, r the rest.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64
from threadpoolctl import threadpool_limits

from ..core.nearest import nearest
from ..folder.dictionary import StoredDictionary
from .kept import Arrays, kept

_PLACED = 3000  # by t-SNE; the rest follow them
_PERPLEXITY = 30.0
_ITERATIONS = 500  # twice as many keep no more of the nearest ten
_VERSION = 2  # of the positions: a cache from another one is not read


def layout(dictionary: StoredDictionary) -> Float32[np.ndarray, "k 2"]:
    """Positions of all regions on a plane, within -1..1: exemplars of small cosine distance lie near each other.

    t-SNE up to 3,000 regions. Beyond, of the 3,000 with the highest online counts; every other region goes beside the
    nearest of those. Computed once, then read from the user's cache.
    """

    def compute() -> Arrays:
        return {"xy": _layout(dictionary.exemplars.numpy(), dictionary.regions["arrivals"].to_numpy())}

    return kept(f"atlas/{dictionary.content_id}-{_VERSION}", compute)["xy"]


def sphere(dictionary: StoredDictionary) -> Float32[np.ndarray, "k 2"]:
    """Longitude and latitude, in radians, of the exemplars seen along their first three principal axes.

    Longitude 0 is where most activations came to. Made for an equal-area projection, such as matplotlib's `mollweide`.
    """
    with threadpool_limits(1):
        x, y, z = _principal(dictionary.exemplars.numpy(), 3).T
    around_k = x + 1j * y
    middle = dictionary.regions["arrivals"].to_numpy() @ (around_k / np.maximum(np.abs(around_k), 1e-12))
    longitude_k = np.angle(around_k * np.exp(-1j * np.angle(middle)))
    return np.stack([longitude_k, np.arctan2(z, np.hypot(x, y))], axis=1).astype(np.float32)


def _layout(e_kd: Float32[np.ndarray, "k d"], count_k: Int64[np.ndarray, " k"]) -> Float32[np.ndarray, "k 2"]:
    order_k = np.argsort(-count_k, kind="stable")
    first_p, rest_r = order_k[:_PLACED], order_k[_PLACED:]
    xy_k2 = np.zeros((len(e_kd), 2), dtype=np.float32)
    with threadpool_limits(1):  # t-SNE amplifies the last bits that sums across threads differ in
        xy_k2[first_p] = _tsne(e_kd[first_p])
        if len(rest_r):
            xy_k2[rest_r] = _beside(e_kd[rest_r], e_kd[first_p], xy_k2[first_p])
        xy_k2 = _principal(xy_k2, 2)  # turned so that the map is wider than high, as screens are
    xy_k2 -= (xy_k2.max(axis=0) + xy_k2.min(axis=0)) / 2
    return xy_k2 / max(float(np.abs(xy_k2).max()), 1e-12)


def _tsne(e_pd: Float32[np.ndarray, "p d"]) -> Float32[np.ndarray, "p 2"]:
    """t-SNE; where there are too few points for neighbourhoods, their two principal axes."""
    from sklearn.manifold import TSNE

    start_p2 = _principal(e_pd, 2)
    if len(e_pd) < 5:
        return start_p2
    start_p2 *= 1e-4 / start_p2[:, 0].std()
    perplexity = min(_PERPLEXITY, (len(e_pd) - 1) / 3)
    tsne = TSNE(metric="cosine", init=start_p2, perplexity=perplexity, max_iter=_ITERATIONS, random_state=0, n_jobs=1)
    return tsne.fit_transform(e_pd)


def _principal(e_kd: Float32[np.ndarray, "k d"], axes: int) -> Float32[np.ndarray, "k axes"]:
    """Coordinates along the first principal axes; 0 along those that there are none of."""
    from sklearn.decomposition import PCA

    axes_ka = np.zeros((len(e_kd), axes), dtype=np.float32)
    count = min(axes, *e_kd.shape)
    if len(e_kd) > 1:
        axes_ka[:, :count] = PCA(count, random_state=0).fit_transform(e_kd)
    return axes_ka


def _beside(
    e_rd: Float32[np.ndarray, "r d"],
    placed_pd: Float32[np.ndarray, "p d"],
    xy_p2: Float32[np.ndarray, "p 2"],
) -> Float32[np.ndarray, "r 2"]:
    """Each beside the nearest placed one, as far off as placed ones usually lie from each other.

    The mean of several would keep fewer neighbours: where they are apart, it lies among strangers.
    """
    from sklearn.neighbors import NearestNeighbors

    nearest_r = nearest(e_rd, placed_pd)[0]
    apart = np.median(NearestNeighbors(n_neighbors=1).fit(xy_p2).kneighbors()[0])
    return xy_p2[nearest_r] + np.random.default_rng(0).normal(scale=apart / 2, size=(len(e_rd), 2))
