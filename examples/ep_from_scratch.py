"""Exemplar Partitioning from scratch: the whole method in one file of numpy, written to be read.

    python examples/ep_from_scratch.py                                   # random blobs
    python examples/ep_from_scratch.py activations.npy --percentile 2    # your own activations, [n, d]

A stream of activations x_1, x_2, ... becomes a dictionary in four steps:

    calibrate   a centre, and a threshold theta chosen by one number, the percentile
    lead        a row becomes an exemplar iff no earlier exemplar lies within theta
    assign      every row belongs to the region of its nearest exemplar
    describe    what the members of each region have in common

The package does the same in bounded memory, many times faster, and so that batches, threads and devices
change no bit. Exemplars and regions are the same row for row (tests/core/test_from_scratch.py).

Shapes: n activations, k exemplars, d the width of an activation. Directions are called u, exemplars e.
"""

import argparse

import numpy as np

BATCH = 16_384  # rows among which distances are ranked: part of the definition of theta
SAMPLE = 13 * BATCH  # rows at the beginning of the stream that calibrate
TILE = 1_024  # rows compared with all exemplars at a time: no matrix [n, k] is ever held


def has_direction(x_nd, c_d):
    """Rows that may take part: finite, not zero, and not the centre itself."""
    return np.isfinite(x_nd).all(axis=1) & (x_nd != 0).any(axis=1) & (x_nd != c_d).any(axis=1)


def directions(x_nd, c_d):
    """Where each activation lies as seen from the centre: unit vectors [n, d] in float64."""
    y_nd = x_nd.astype(np.float64) - c_d
    return y_nd / np.sqrt((y_nd**2).sum(axis=1, keepdims=True))


def calibration_batches(x_nd, batch):
    """Whole batches of the first rows; one smaller batch if there are not enough."""
    size = min(batch, len(x_nd))
    return [x_nd[i : i + size] for i in range(0, min(SAMPLE, len(x_nd)) - size + 1, size)]


def find_center(batches):
    """The centre [d], float32: along the mean *direction*, as far out as activations reach on average along it.

    Activations have a few huge components and lengths that differ by orders of magnitude. In the mean of
    directions every activation weighs the same; in the mean of activations the longest would decide.
    """
    x_nd = np.concatenate(batches).astype(np.float64)
    x_nd = x_nd[has_direction(x_nd, 0)]
    g_d = directions(x_nd, 0).mean(axis=0)
    g_d /= np.linalg.norm(g_d)
    return ((x_nd.mean(axis=0) * g_d).sum() * g_d).astype(np.float32)


def find_threshold(batches, c_d, percentile):
    """theta: the mean over batches of a percentile of the cosine distances of all pairs within a batch."""
    found = []
    for x_nd in batches:
        u_nd = directions(x_nd[has_direction(x_nd, c_d)], c_d)
        pairs = np.concatenate([1 - u_nd[i + 1 :] @ u_nd[i] for i in range(len(u_nd) - 1)])
        found.append(np.percentile(pairs, percentile, overwrite_input=True))
    return float(np.mean(found))


def lead(u_nd, theta):
    """Leader clustering: numbers of the rows that become exemplars, and the exemplars [k, d] in float32.

    A row becomes one iff every earlier exemplar is farther than theta. So exemplars are pairwise farther
    apart than theta, every row lies within theta of one, and the stream cut short gives a list cut short.
    """
    births, e_kd = [], np.empty_like(u_nd)  # an exemplar is stored in float32, and compared as it is stored
    for t, u_d in enumerate(u_nd):
        if not births or (1 - e_kd[: len(births)] @ u_d).min() > theta:
            e_kd[len(births)] = u_d.astype(np.float32)
            births.append(t)
    return np.array(births), e_kd[: len(births)].astype(np.float32)


def assign(u_nd, e_kd):
    """Region and cosine distance of every row: its nearest exemplar, be it within theta or not.

    Nearest: largest u . e, lowest number on a tie; with all exemplars in place, as a nearer one may have come later.
    """
    region_n, distance_n = np.empty(len(u_nd), np.int64), np.empty(len(u_nd))
    for start in range(0, len(u_nd), TILE):
        rows = slice(start, start + TILE)
        cosine_nk = u_nd[rows] @ e_kd.T.astype(np.float64)
        region_n[rows] = cosine_nk.argmax(axis=1)
        distance_n[rows] = 1 - cosine_nk.max(axis=1)
    return region_n, distance_n.clip(0, 2)


def describe(u_nd, region_n, distance_n, k):
    """Of each region: members, coherence (length of their mean direction, 1 if all are alike), mean distance."""
    members_k = np.bincount(region_n, minlength=k)
    sum_kd = np.zeros((k, u_nd.shape[1]))
    np.add.at(sum_kd, region_n, u_nd)
    some_k = np.maximum(members_k, 1)
    coherence_k = np.linalg.norm(sum_kd, axis=1) / some_k
    return members_k, coherence_k, np.bincount(region_n, distance_n, minlength=k) / some_k


def partition(x_nd, percentile=2.0, batch=BATCH):
    """The four steps. Rows without a direction belong nowhere: region -1 at distance infinity."""
    c_d = find_center(batches := calibration_batches(x_nd, batch))
    theta = find_threshold(batches, c_d, percentile)
    rows = np.flatnonzero(has_direction(x_nd, c_d))
    u_nd = directions(x_nd[rows], c_d)
    births, e_kd = lead(u_nd, theta)
    region_n, distance_n = np.full(len(x_nd), -1), np.full(len(x_nd), np.inf)
    region_n[rows], distance_n[rows] = assign(u_nd, e_kd)
    members_k, coherence_k, mean_distance_k = describe(u_nd, region_n[rows], distance_n[rows], len(e_kd))
    return {
        "center": c_d,
        "threshold": theta,
        "exemplars": e_kd,
        "exemplar_rows": rows[births],
        "regions": region_n,
        "distances": distance_n,
        "members": members_k,
        "coherence": coherence_k,
        "mean_distance": mean_distance_k,
    }


def blobs(n=3_000, d=32, kinds=12, seed=0):
    """Like a model's activations: a few kinds, sizes and lengths that differ widely, one huge component."""
    rng = np.random.default_rng(seed)
    kind_n = rng.choice(kinds, size=n, p=rng.dirichlet(np.ones(kinds)))
    x_nd = rng.normal(size=(kinds, d))[kind_n] + 0.3 * rng.normal(size=(n, d))
    x_nd *= rng.lognormal(size=(n, 1))
    x_nd[:, 0] += 20
    return x_nd.astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("activations", nargs="?", help=".npy file of a matrix [n, d]; random blobs if left out")
    parser.add_argument("--percentile", type=float, default=2.0, help="resolution: small is fine (default 2)")
    given = parser.parse_args()
    x_nd = np.load(given.activations).astype(np.float32) if given.activations else blobs()
    p = partition(x_nd, given.percentile)
    print(f"{len(x_nd):,} activations, theta {p['threshold']:.4f}, {len(p['exemplars']):,} regions\n")
    print("region  exemplar's row  members  coherence  mean distance")
    for i in np.argsort(-p["members"], kind="stable")[:10]:
        row, members = p["exemplar_rows"][i], p["members"][i]
        print(f"{i:6d}  {row:14,d}  {members:7,d}  {p['coherence'][i]:9.3f}  {p['mean_distance'][i]:13.3f}")
