"""The slow oracle: the definition of the method, one row at a time, in float64. It judges the engine.

Written from the laws alone (CONTRIBUTING.md); shares no code with the package.
"""

import numpy as np
from scipy.optimize import nnls


def halving_sum(terms):
    """Sum of a vector by adding its right half to its left half until one number is left."""
    terms = np.array(terms, np.float64)
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        terms[: len(terms) - half] += terms[half:]
        terms = terms[:half]
    return terms[0]


def direction(x, c):
    y = np.asarray(x, np.float32).astype(np.float64) - np.asarray(c, np.float32).astype(np.float64)
    return y / np.sqrt(halving_sum(y * y))


def similarity(u, e):
    return halving_sum(u * e.astype(np.float64))


def distance(u, e):
    return 1.0 - similarity(u, e)


def has_direction(x, c):
    x = np.asarray(x, np.float32)
    return bool(np.isfinite(x).all() and (x != np.asarray(c, np.float32)).any() and (x != 0).any())


def leader_clustering(x, c, theta):
    """Exemplars, the rows they came from, the exemplar each row arrived at (-1: no direction), and how
    many later rows each exemplar alone covered.
    """
    exemplars, births, ids, soles = [], [], [], []
    for row, activation in enumerate(x):
        if not has_direction(activation, c):
            ids.append(-1)
            continue
        u = direction(activation, c)
        near = [similarity(u, e) for e in exemplars]
        if not near or min(1.0 - s for s in near) > theta:
            exemplars.append(u.astype(np.float32))
            births.append(row)
            soles.append(0)
            ids.append(len(exemplars) - 1)
        else:
            ids.append(int(np.argmax(near)))
            soles[ids[-1]] += sum(1.0 - s <= theta for s in near) == 1
    return np.array(exemplars), np.array(births), np.array(ids), np.array(soles)


def assign(x, c, exemplars):
    """Exemplar of largest u . e of every row, lowest id on an exact tie, and its distance 1 - u . e.

    Below one half, u . e tells exemplars apart whose distances round to the same number.
    """
    near = np.array([[similarity(direction(a, c), e) for e in exemplars] for a in x])
    return near.argmax(axis=1), 1.0 - near.max(axis=1)


def centre(batches):
    """Mean projection times the spherical mean direction."""
    x = np.concatenate(batches).astype(np.float64)
    g = (x / np.linalg.norm(x, axis=1, keepdims=True)).mean(axis=0)
    g /= np.linalg.norm(g)
    return ((x.mean(axis=0) @ g) * g).astype(np.float32)


def threshold(batches, c, percentile):
    """Mean over batches of the within-batch percentile of pairwise cosine distance."""
    per_batch = []
    for batch in batches:
        u = np.array([direction(x, c) for x in batch if has_direction(x, c)])
        i, j = np.triu_indices(len(u), k=1)
        per_batch.append(np.percentile([distance(u[a], u[b]) for a, b in zip(i, j, strict=True)], percentile))
    return float(np.mean(per_batch))


def decompose(u, atoms, k, method, nonnegative):
    """Weights over all atoms that matching pursuit gives a unit direction, and the length of what is left.

    Coordinates of unit vectors are multiples of 2**-26 by definition (docs/decomposition.md).
    """
    u, atoms = (np.round(unit.astype(np.float32) * 2.0**26).astype(np.float64) / 2.0**26 for unit in (u, atoms))
    left, picks, weights = u.copy(), [], np.zeros(len(atoms))
    for _ in range(k):
        products = atoms @ left
        strengths = products if nonnegative else abs(products)
        if method == "omp":
            strengths[picks] = -np.inf
        if strengths.max() <= 1e-6 or np.linalg.norm(left) <= 1e-6:
            break
        picks.append(int(np.flatnonzero(strengths >= strengths.max() - 1e-6)[0]))
        if method == "mp":
            weights[picks[-1]] += products[picks[-1]]
        elif nonnegative:
            weights[picks] = nnls(atoms[picks].T, u)[0]
        else:
            weights[picks] = np.linalg.lstsq(atoms[picks].T, u, rcond=None)[0]
        left = u - weights @ atoms
    return weights, np.linalg.norm(left)
