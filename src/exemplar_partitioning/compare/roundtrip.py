"""Round trips across models: does a region lead to another model's region and back to itself?

Units are tokens of texts that both models read. A region's representative is the unit nearest to its exemplar
among its members. From a region of a: its representative, the region of b that this unit lies in, that region's
representative, the region of a that this one lies in. The trip returns if that is where it began.

Units are the exemplars' own tokens of both dictionaries, embedded by both models: then a region is represented by
its exemplar itself. Or the aligned tokens of a text, as in the paper.

Two controls. *Re-pairing*: units of one model are paired at random with those of the other; exemplars of a only with
exemplars of a, and so for b, or else every exemplar that meets an exemplar would return. *Text*: in the place of the
other model stand the units' texts (the eight words that end with the token; TF-IDF of words and pairs of words,
reduced to 100 components): k-means clusters, as many as the other dictionary has regions with units; or, where units
are exemplars, the other dictionary's exemplar of the nearest text. What returns through the text as well tells
nothing of the other model.

Shapes: n units, k and l regions of the dictionaries a and b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from threadpoolctl import threadpool_limits

from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..folder.origin import describe
from .common_tokens import MAX_TOKENS, Place, common_tokens, places
from .transport import embed

REPAIRINGS = 2000
_WORDS = 8
_COMPONENTS = 100


@dataclass(frozen=True, eq=False)
class Assigned:
    """Region of each unit, -1 for none, and its distance to the exemplar; k regions there are."""

    ids_n: Int64[np.ndarray, " n"]
    distance_n: Float[np.ndarray, " n"]
    k: int

    def representatives(self) -> Int64[np.ndarray, " k"]:
        """The nearest unit of each region, the first on a tie; -1 for a region without any."""
        placed = np.flatnonzero(self.ids_n >= 0)
        order = placed[np.lexsort((placed, self.distance_n[placed], self.ids_n[placed]))]
        regions, first = np.unique(self.ids_n[order], return_index=True)
        representative_k = np.full(self.k, -1, np.int64)
        representative_k[regions] = order[first]
        return representative_k


@dataclass(frozen=True)
class Trips:
    """Trips that returned, of those begun; the same for units paired at random: mean, largest, and p."""

    began: int
    returned: int
    null_mean: float
    null_high: int
    p: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the share that returned and chance."""
        began = max(self.began, 1)
        return vars(self) | {"share": self.returned / began, "null_share": self.null_mean / began}


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """Round trips between two dictionaries.

    Attributes:
        from_a: trips that begin in a region of a.
        from_b: in one of b.
        text_a: the same trips as from_a, through texts.
        text_b: as from_b.
        returned_k: for each region of a, whether its trip returned.
        units: how many there were, and of which kind.
    """

    a: StoredDictionary
    b: StoredDictionary
    from_a: Trips
    from_b: Trips
    text_a: Trips
    text_b: Trips
    returned_k: Bool[np.ndarray, " k"]
    units: int
    kind: str

    def __repr__(self) -> str:
        return f"RoundTrip({self.a!r}, {self.b!r}, {self.units:,} {self.kind})"

    def summary(self) -> dict[str, Any]:
        """Plain values."""
        summary: dict[str, Any] = {"a": describe(self.a), "b": describe(self.b), "units": self.units, "kind": self.kind}
        trips = {"from_a": self.from_a, "from_b": self.from_b, "text_a": self.text_a, "text_b": self.text_b}
        return summary | {name: trip.as_json() for name, trip in trips.items()}


def roundtrip(
    a: StoredDictionary,
    b: StoredDictionary,
    *,
    text: Any = None,
    model_a: Any = None,
    model_b: Any = None,
    field: str = "text",
    max_tokens: int = MAX_TOKENS,
    final: bool = False,
    device: str = "auto",
    seed: int = 0,
) -> RoundTrip:
    """Round trips between dictionaries of any two models or sites.

    Args:
        a: the first dictionary.
        b: the second.
        text: its aligned tokens are the units; without one, the exemplars of both dictionaries are.
        model_a: where the first's model is, or the model.
        model_b: the second's.
        field: column or key that holds the text.
        max_tokens: of text to read; 50,000 unless told.
        final: of a text, only the last token of each window is a unit (prompts).
        device: of the forward passes.
        seed: of the random pairings.

    Returns:
        How many return, beside re-paired units and the text alone.

    Raises:
        EPError: another model than a dictionary's, or a text without aligned tokens.
    """
    first, second = places(a, b, model_a, model_b, device=device)
    if text is None:
        x_nd, y_ne, contexts = _exemplar_units(a, b, first, second)
        group_n = np.repeat([0, 1], [a.k, b.k])
        kind = "exemplars of both dictionaries"
    else:
        tokens = common_tokens(first, second, text, field=field, max_tokens=max_tokens)
        tokens = tokens[np.flatnonzero(tokens.last_n)] if final else tokens
        x_nd, y_ne, contexts = tokens.a_nd, tokens.b_ne, tokens.context_n
        group_n = np.zeros(len(tokens), np.int64)
        kind = f"{'last ' if final else ''}tokens of {tokens.source}"
    in_a, in_b = Assigned(*a.assign(x_nd), a.k), Assigned(*b.assign(y_ne), b.k)
    points_nc = text_points(contexts, seed)
    if text is None:
        text_a, text_b = (text_neighbours(points_nc, np.flatnonzero(group_n == other)) for other in (1, 0))
    else:
        sizes = (len(np.unique(side.ids_n)) for side in (in_b, in_a))
        text_a, text_b = (text_clusters(points_nc, size, seed) for size in sizes)
    from_a, returned_k = trips(in_a, in_b, group_n, seed)
    return RoundTrip(
        a=a,
        b=b,
        from_a=from_a,
        from_b=trips(in_b, in_a, group_n, seed)[0],
        text_a=trips(in_a, text_a, group_n, seed)[0],
        text_b=trips(in_b, text_b, group_n, seed)[0],
        returned_k=returned_k,
        units=len(x_nd),
        kind=kind,
    )


def trips(
    here: Assigned, there: Assigned, group_n: Int64[np.ndarray, " n"], seed: int = 0
) -> tuple[Trips, Bool[np.ndarray, " k"]]:
    """Trips from every region here that has units, through the regions there, beside pairings at random in a group."""
    usable = (here.ids_n >= 0) & (there.ids_n >= 0)
    if not usable.any():
        raise EPError("no unit has a region in both dictionaries")
    here, there = (Assigned(side.ids_n[usable], side.distance_n[usable], side.k) for side in (here, there))
    rep_here, rep_there = here.representatives(), there.representatives()
    began = np.flatnonzero(rep_here >= 0)
    groups = [np.flatnonzero(group_n[usable] == group) for group in np.unique(group_n[usable])]
    rng = np.random.default_rng(seed)

    def back(to: np.ndarray, fro: np.ndarray) -> np.ndarray:
        """Whether each trip returns, unit i here being paired with unit to[i] there, and j there with fro[j] here."""
        passing = there.ids_n[to[rep_here[began]]]
        return here.ids_n[fro[rep_there[passing]]] == began

    identity = np.arange(len(here.ids_n))
    returned = back(identity, identity)
    null = np.empty(REPAIRINGS, np.int64)
    for i in range(REPAIRINGS):
        to, fro = identity.copy(), identity.copy()
        for units in groups:
            to[units] = rng.permutation(units)
        fro[to] = identity
        null[i] = back(to, fro).sum()
    returned_k = np.zeros(here.k, np.bool_)
    returned_k[began] = returned
    p = (1 + int((null >= returned.sum()).sum())) / (1 + REPAIRINGS)
    return Trips(len(began), int(returned.sum()), float(null.mean()), int(null.max()), p), returned_k


def text_points(contexts: list[str], seed: int = 0) -> Float[np.ndarray, "n c"]:
    """Texts by their last words, as unit vectors of TF-IDF reduced to 100 components; zeros without a known word."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    ends = [" ".join(context.split()[-_WORDS:]) or "-" for context in contexts]
    vectorizer = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), max_features=20_000, sublinear_tf=True)
    tfidf: Any = vectorizer.fit_transform(ends)
    components = min(_COMPONENTS, tfidf.shape[1] - 1, len(ends) - 1)
    if components < 1:
        return np.asarray(normalize(tfidf.toarray()))
    with threadpool_limits(1):  # the same texts give the same clusters on any machine
        return np.asarray(normalize(TruncatedSVD(components, random_state=seed).fit_transform(tfidf)))


def text_clusters(points_nc: Float[np.ndarray, "n c"], size: int, seed: int = 0) -> Assigned:
    """k-means clusters of texts."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(min(size, len(points_nc)), random_state=seed, batch_size=4096)
    with threadpool_limits(1):  # the same texts give the same clusters on any machine
        ids_n = model.fit_predict(points_nc).astype(np.int64)
    centers = np.asarray(model.cluster_centers_)
    return Assigned(ids_n, np.linalg.norm(points_nc - centers[ids_n], axis=1), len(centers))


def text_neighbours(points_nc: Float[np.ndarray, "n c"], exemplars: Int64[np.ndarray, " k"]) -> Assigned:
    """Each text goes with the nearest of some; those go with themselves, and come first in their region."""
    cosine_nk = points_nc @ points_nc[exemplars].T
    ids_n = cosine_nk.argmax(axis=1)
    distance_n = 1 - cosine_nk[np.arange(len(ids_n)), ids_n]
    ids_n[exemplars], distance_n[exemplars] = np.arange(len(exemplars)), -1
    return Assigned(ids_n, distance_n, len(exemplars))


def _exemplar_units(
    a: StoredDictionary, b: StoredDictionary, first: Place, second: Place
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Activations of all exemplars' tokens in both models, a's first, and their texts."""
    tokenizers = first.loaded.tokenizer, second.loaded.tokenizer
    same = a.config.model.tokenizer_hash == b.config.model.tokenizer_hash
    x = [embed(a, first).x_kd, embed(b, first, None if same else tokenizers[1]).x_kd]
    y = [embed(a, second, None if same else tokenizers[0]).x_kd, embed(b, second).x_kd]
    contexts = [
        text
        for dictionary, tokenizer in zip((a, b), tokenizers, strict=True)
        for text in tokenizer.batch_decode(dictionary.regions["window_tokens"].to_pylist(), skip_special_tokens=True)
    ]
    return np.concatenate(x), np.concatenate(y), contexts
