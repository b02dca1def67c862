"""What holds in an annotation whatever wrote it: rows of the regions, counts that agree, examples that fit.

As in invariants: rows are checked when a table is first read, `check_annotation` takes a pass over everything.

Shapes: k regions, d = d_model, p pairs of a region and a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core.association import log_likelihood
from .invariants import require

if TYPE_CHECKING:
    from .annotation import Annotation
    from .dictionary import StoredDictionary

_HEAT = 2e-3  # of a token's distance, kept in thousandths
_IDENTITY = 1e-4  # between a region's distances and its mean direction, both rounded
_LISTS = ("top_tokens", "before_tokens", "lens_top", "lens_bottom", "mean_lens_top", "mean_lens_bottom")


def check_evidence(annotation: Annotation, table: pa.Table) -> None:
    """That the annotation's rows are those of the regions, and its numbers possible."""
    path = annotation.path / "regions.parquet"
    record, k = annotation.record, annotation.dictionary.k
    n = {name: table[name].to_numpy() for name in ("members", "within", "half", "examples")}
    require(table["region"].to_numpy() == np.arange(k), path, "its regions are not in order")
    for name, count_k in n.items():
        require(count_k >= 0, path, f"a count of {name} is negative")
    require(n["within"] <= n["members"], path, "more members within theta than members")
    require(n["half"] <= n["members"], path, "more members in half of the documents than members")
    require(n["members"].sum() == record.n_activations, path, f"its members are not {record.n_activations:,} together")
    require((n["members"] == 0).sum() == record.empty, path, f"{record.empty:,} regions should be without members")
    for name, (low, high) in _RANGES.items():
        values = table[name].drop_null().to_numpy()
        require((values >= low - 1e-6) & (values <= high + 1e-6), path, f"{name} not between {low} and {high}")
    for name in _LISTS:
        for field in table[name].combine_chunks().flatten().flatten():
            if pa.types.is_floating(field.type):
                require(np.isfinite(field.to_numpy(zero_copy_only=False)), path, f"a number of {name} is not finite")


_RANGES = {"coherence": (0, 1), "mean_distance": (0, 2), "std_distance": (0, 2), "stability": (-1, 1)}


def check_means(annotation: Annotation, tensors: dict[str, np.ndarray]) -> None:
    """That means.safetensors has a direction and a histogram for each region, of as many members as it has."""
    from .annotation import BINS

    path, d = annotation.path / "means.safetensors", annotation.dictionary
    mean_kd, histogram = tensors["mean_directions"], tensors["histogram"]
    shapes = (mean_kd.shape, mean_kd.dtype.name, histogram.shape, histogram.dtype.name)
    require(
        shapes == ((d.k, d.config.width), "float32", (d.k, BINS), "int32"),
        path,
        "other shapes than docs/format.md says",
    )
    require(np.isfinite(mean_kd), path, "a mean direction is not finite")
    length_k = np.linalg.norm(mean_kd, axis=1)
    require((length_k == 0) | (np.abs(length_k - 1) < 1e-4), path, "a mean direction is no unit vector")
    require(histogram >= 0, path, "a count of the histogram is negative")
    members_k = annotation.regions["members"].to_numpy()
    require(histogram.sum(axis=1, dtype=np.int64) == members_k, path, "a histogram counts other members")


def check_examples(annotation: Annotation, region: int, rows: list[dict[str, Any]]) -> None:
    """That examples of a region are its own, in order, and point into their tokens."""
    from .annotation import KINDS

    path = annotation.path / "examples.parquet"
    require([row["region"] == region for row in rows], path, f"examples of region {region} are another's")
    require([row["kind"] in KINDS for row in rows], path, f"a kind of example that is none of {', '.join(KINDS)}")
    keys = [(KINDS.index(row["kind"]), row["rank"]) for row in rows]
    require(keys == sorted(set(keys)), path, f"examples of region {region} are not in order")
    for row in rows:
        lengths = {len(row[name]) for name in ("token_ids", "tokens", "distances")}
        require(len(lengths) == 1 and 0 <= row["at"] < min(lengths), path, f"an example of region {region} is cut")
        heat = [x for x in (row["distance"], *row["distances"]) if x is not None]
        require([0 <= x <= 2 for x in heat], path, f"a distance in region {region} is not between 0 and 2")


def check_example_columns(annotation: Annotation, table: pa.Table) -> None:
    """The same of some columns of all examples, as far as these tell: whose they are, and where they point to."""
    path = annotation.path / "examples.parquet"
    counts_k = annotation.regions["examples"].to_numpy()
    whose_n = np.repeat(np.arange(len(counts_k)), counts_k)
    require(table["region"].to_numpy() == whose_n, path, "examples of a region are another's")
    at_n = table["at"].to_numpy()
    for name in {"token_ids", "tokens", "distances"} & {*table.column_names}:
        length_n = pc.call_function("list_value_length", [table[name]]).to_numpy()
        require((at_n >= 0) & (at_n < length_n), path, "an example is cut")


def check_annotation(d: StoredDictionary) -> None:
    """That the parts of an annotation fit one another, and the dictionary; what takes a pass over all of it."""
    from .annotation import BIN_WIDTH, BINS

    annotation, path = d.annotation, d.annotation.path / "means.safetensors"
    table, members_k = annotation.regions, annotation.regions["members"].to_numpy()
    filled_k = members_k > 0
    distance_k, coherence_k = (table[name].fill_null(0).to_numpy() for name in ("mean_distance", "coherence"))
    along_k = np.einsum("kd,kd->k", annotation.mean_directions, d.exemplars.numpy()).astype(np.float64)
    identity_k = np.abs(distance_k - (1 - coherence_k * along_k))  # the mean of 1 - u e over the members
    require(identity_k[filled_k] <= _IDENTITY, path, "mean directions do not belong to the members' distances")
    low_b = np.arange(BINS) * BIN_WIDTH
    high_b = np.append(low_b[1:], 2.0)
    for bound_b, sign in ((low_b, 1), (high_b, -1)):
        bound_k = (annotation.histogram @ bound_b)[filled_k] / members_k[filled_k]
        require(sign * (distance_k[filled_k] - bound_k) >= -1e-6, path, "a histogram does not fit its mean distance")
        square_k = (annotation.histogram @ bound_b**2)[filled_k] / members_k[filled_k]
        spread_k = (distance_k**2 + table["std_distance"].fill_null(0).to_numpy() ** 2)[filled_k]
        require(sign * (spread_k - square_k) >= -1e-6, path, "a histogram does not fit its distances' spread")
        near_k = annotation.histogram @ (bound_b <= d.threshold - sign * 1e-9)
        require(sign * (near_k - table["within"].to_numpy()) >= 0, path, "a histogram has other members within theta")
    within = float(table["within"].to_numpy().sum()) / max(1, annotation.record.n_activations)
    require(abs(within - annotation.record.coverage) < 1e-6, annotation.path / "annotation.json", "another coverage")
    _check_sizes(annotation, members_k)
    text_of = _texts(annotation)
    for region in range(d.k):
        rows = annotation.examples(region)
        for kind, sign in (("nearest", 1), ("farthest", -1)):
            heat = np.array([sign * row["distance"] for row in rows if row["kind"] == kind])
            require(np.diff(heat) >= 0, annotation.path / "examples.parquet", f"examples {kind} are not in order")
        for row in rows:
            named = [
                text_of.get(token, text) == text for token, text in zip(row["token_ids"], row["tokens"], strict=True)
            ]
            require(named, annotation.path / "examples.parquet", "a token is called as another")
            heat = row["distances"][row["at"]]
            fits = heat is None or abs(heat - row["distance"]) <= _HEAT
            require(
                fits, annotation.path / "examples.parquet", f"an example of region {region} points to another token"
            )
    _check_tokens(annotation)


def _check_sizes(annotation: Annotation, members_k: np.ndarray) -> None:
    """That what is said of the regions' sizes and tokens follows from their members."""
    record, path = annotation.record, annotation.path / "annotation.json"
    vocabulary = annotation.dictionary.config.model.vocab_size or 0
    require(record.n_activations + record.skipped <= record.n_tokens, path, "more activations than tokens")
    require(record.n_documents <= record.n_tokens, path, "more documents than tokens")
    share_k = members_k[members_k > 0] / max(1, members_k.sum())
    require(abs(np.exp(-(share_k * np.log(share_k)).sum()) / record.effective - 1) < 1e-6, path, "another effective")
    for part in (record.quality.dictionary, record.quality.random_exemplars, record.quality.gaussian):
        shares = (part.coverage, part.gini, part.utilisation, part.cohesion / 2, part.nearest_inter / 2)
        require([-1e-6 <= share <= 1 + 1e-6 for share in shares], path, "a metric out of its range")
        require(abs(part.silhouette) <= 1 + 1e-6, path, "a silhouette out of its range")
    path = annotation.path / "regions.parquet"
    for name in _LISTS:
        column = annotation.regions[name].combine_chunks()
        tokens, counted = column.flatten(), "count" in [field.name for field in column.type.value_type]
        ids = tokens.field("token_id").to_numpy()
        require((ids >= 0) & ((ids < vocabulary) | (vocabulary == 0)), path, f"{name} beyond the vocabulary")
        require(tokens.field("lift").to_numpy() >= 0, path, f"a lift of {name} is negative")
        if counted:
            of_r = np.repeat(members_k, np.diff(column.offsets.to_numpy()))
            counts = tokens.field("count").to_numpy()
            require((counts > 0) & (counts <= of_r), path, f"{name} counts more than the members")
        else:
            shares = tokens.field("probability").to_numpy()
            require((shares >= 0) & (shares <= 1), path, f"a probability of {name} is none")


def _texts(annotation: Annotation) -> dict[int, str]:
    """The text of each token that is listed; but for pieces of characters, which read otherwise beside others."""
    text_of: dict[int, str] = {}
    for name in _LISTS:
        flat = annotation.regions[name].combine_chunks().flatten()
        pairs = zip(flat.field("token_id").to_pylist(), flat.field("token").to_pylist(), strict=True)
        same = [text_of.setdefault(token, text) == text for token, text in pairs]
        require(same, annotation.path / "regions.parquet", f"a token of {name} is called as another")
    text_of = {token: text for token, text in text_of.items() if "\ufffd" not in text}
    rows = annotation.dictionary.regions
    pairs = zip(rows["token_id"].to_pylist(), rows["token"].to_pylist(), strict=True)
    named = [text_of.get(token, text) == text for token, text in pairs]
    require(named, annotation.dictionary.path / "regions.parquet", "a token is called as another")
    return text_of


def _check_tokens(annotation: Annotation) -> None:
    """That what is counted of tokens is one count of one text, and the lists those of their regions.

    Count, members and lift give how often a token is in the whole text: the same for every region. A token that
    examples of a region show often enough to rank before the last of its list must be in the list: more would only
    tell more.
    """
    table, path = annotation.regions, annotation.path / "regions.parquet"
    if not annotation.dictionary.config.model.known:
        return  # which token an activation is of need not be known
    members_k, total = table["members"].to_numpy().astype(np.float64), annotation.record.n_activations
    lists = table["top_tokens"].combine_chunks()
    region_p = np.repeat(np.arange(len(members_k)), np.diff(lists.offsets.to_numpy()))
    token_p, count_p, lift_p = (lists.flatten().field(name).to_numpy() for name in ("token_id", "count", "lift"))
    in_text_p = count_p * total / (members_k[region_p] * lift_p)
    in_text: dict[int, float] = dict(zip(token_p.tolist(), in_text_p.tolist(), strict=True))
    expected_p = np.array([in_text[token] for token in token_p.tolist()])
    require(np.abs(in_text_p / expected_p - 1) < 1e-6, path, "a token is counted as of two texts")
    ratio_p = log_likelihood(count_p, members_k[region_p], in_text_p, total)
    falls_p = (np.diff(ratio_p) <= 1e-6 * np.abs(ratio_p[1:])) | (np.diff(region_p) > 0)
    require(falls_p, path, "top tokens are not in order")
    listed = set(zip(region_p.tolist(), token_p.tolist(), strict=True))
    length_k = np.diff(lists.offsets.to_numpy())
    last_k = np.where(length_k == length_k.max(initial=1), np.inf, -np.inf)  # a list with room has all there are
    np.minimum.at(last_k, region_p, ratio_p)
    examples = annotation.example_columns(["region", "document", "position", "at", "token_ids"])
    seen: dict[tuple[int, int], set[tuple[str, int]]] = {}
    for row in examples.to_pylist():
        seen.setdefault((row["region"], row["token_ids"][row["at"]]), set()).add((row["document"], row["position"]))
    for (region, token), places in seen.items():
        if (region, token) in listed or token not in in_text:
            continue
        both, times = len(places), in_text[token]
        tells = both * total > members_k[region] * times * (1 + 1e-6)
        ratio = log_likelihood(np.array(both), members_k[region], np.array(times), total)
        require(not (tells and ratio > last_k[region] * (1 + 1e-6)), path, f"a token of region {region} is not listed")
