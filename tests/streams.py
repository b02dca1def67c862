"""Streams of activations that are hard on exactness, for hypothesis."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def streams(draw, max_rows=60, max_d=9, bad_rows=True, permuted=False):
    """(x [n, d] float32, centre [d] float32, theta): clouds, lattices full of exact ties, copies, copies at other
    lengths, rows equal to the centre, rows that are not finite, and thresholds at exact distances.

    permuted: also permutations of one row at other lengths, whose similarities differ in their last bits.
    """
    n, d = draw(st.integers(1, max_rows)), draw(st.integers(1, max_d))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["lattice", "cloud", *(["permuted"] if permuted else [])]))
    if kind == "permuted":  # the same products summed in other orders: equal but for the last bits
        d = 8
        x = np.array(
            [rng.permutation(rng.integers(-3, 4, size=8) if i % 9 == 0 else 1 + np.arange(8)) for i in range(n)]
        )
        x = (x * rng.choice([1, 2, 3, 0.1, 7], size=(n, 1))).astype(np.float32)
        center = np.zeros(d, np.float32)
    elif kind == "lattice":
        x = rng.integers(-2, 3, size=(n, d)).astype(np.float32)
        center = rng.integers(-1, 2, size=d).astype(np.float32)
    else:
        x = (rng.normal(size=(n, d)) * draw(st.sampled_from([1e-6, 1.0, 1e4]))).astype(np.float32)
        center = (rng.normal(size=d) * draw(st.sampled_from([0.0, 0.5, 10.0]))).astype(np.float32)
    for row in np.flatnonzero(rng.random(n) < 0.3):  # the direction of an earlier row, perhaps at another length
        scale = np.float32(rng.choice([1.0, 2.0, 0.5, 3.0]))
        x[row] = center + scale * (x[rng.integers(0, row + 1)] - center)
    if bad_rows:
        for row in np.flatnonzero(rng.random(n) < 0.1):
            x[row] = rng.choice([np.nan, np.inf, -np.inf]) if rng.random() < 0.5 else center
    theta = draw(st.sampled_from([1e-6, 0.01, 0.1, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0]))
    return x, center, theta


@st.composite
def cuts(draw, n):
    """Sizes of consecutive pieces of n rows."""
    sizes = []
    while sum(sizes) < n:
        sizes.append(min(draw(st.sampled_from([1, 2, 7, 19, 1000])), n - sum(sizes)))
    return sizes
