"""What cannot know the answer: sets of directions drawn at random, words without a model, labels dealt out anew.

Every experiment takes its nulls from here, so that a null of one name is the same thing on every page. Nulls of a
dictionary's own metrics are in `exemplar_partitioning.annotating.quality`.

Shapes: n activations, k directions, d = d_model, t texts, v words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import normalize

from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.errors import EPError


def random_exemplars(u_nd: Tensor, k: int, seed: int) -> Float32[Tensor, "k d"]:
    """Directions of k of some activations, whatever they cover. Raises EPError if there are fewer."""
    return u_nd[torch.from_numpy(random_rows(len(u_nd), k, seed)).to(u_nd.device)]


def random_rows(n: int, k: int, seed: int) -> Int64[np.ndarray, " k"]:
    """K of n rows, none twice."""
    if n < k:
        raise EPError(f"{k:,} directions cannot be had from {n:,} activations; give more text")
    return np.random.default_rng(seed).choice(n, k, replace=False)


def gaussian_directions(d_model: int, k: int, seed: int) -> Float32[Tensor, "k d"]:
    """Unit directions that know nothing of the model."""
    return normalize(torch.randn((k, d_model), generator=torch.Generator().manual_seed(seed)), dim=1)


def random_cells(dictionary: Dictionary, seed: int) -> Dictionary:
    """As many cells around the same centre, about Gaussian directions."""
    return Dictionary(
        dictionary.center, gaussian_directions(dictionary.d_model, dictionary.k, seed), dictionary.threshold
    )


def words(texts: Sequence[str], fitted_on: Sequence[int]) -> Float32[np.ndarray, "t v"]:
    """TF-IDF of the words of texts (lower case, sublinear), of the vocabulary of some of them: no model at all."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True)
    vectorizer.fit([texts[i] for i in fitted_on])
    return vectorizer.transform(texts).toarray().astype(np.float32)


def permuted(group_n: np.ndarray, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """A random permutation that keeps every input within its group."""
    order = np.argsort(group_n, kind="stable")
    permutation = np.empty(len(group_n), np.int64)
    permutation[order] = np.lexsort((rng.random(len(group_n)), group_n))
    return permutation
