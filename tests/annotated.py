"""Builds of synthetic annotated dictionaries: random contents in the real folders, in no time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.folder import annotation
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder import schema as records
from exemplar_partitioning.folder.dictionary import StoredDictionary
from exemplar_partitioning.folder.invariants import content_ids
from exemplar_partitioning.folder.listing import percentile_name
from made_up import model_record, text_record

SITE = "resid_post.1"
HOSTILE = [
    "<script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 1">',
    "\u202egnirts desrever",
    " \u05e9\u05dc\u05d5\u05dd",
    " \U0001f469\u200d\U0001f52c",
    "\x00\x1b[31m\x07",
    "\n\n\t",
    "",
    " " * 12,
    "w" * 300,
    "'\"&amp;`${1}{{x}}",
]
_SYLLABLES = ["ba", "cor", "den", "fil", "go", "har", "in", "ka", "lum", "mo", "ner", "pol", "ri", "sta", "ten", "vo"]
VOCABULARY = HOSTILE + [f" {a}{b}" for a in _SYLLABLES for b in _SYLLABLES] + [",", ".", "ing", "\u00e9", " the"]
EMPTY = 5  # this region never has members, like one in fifty others

_EXAMPLES, _TOKENS, _AT = 4, 16, 11  # of each kind; tokens of an example; which of them is the example


def annotated(
    path: str | Path,
    k: int = 120,
    d: int = 16,
    percentiles: tuple[float, ...] = (2, 8),
    seed: int = 0,
    annotate: bool = True,
) -> list[StoredDictionary]:
    """Write `<path>/resid_post.1/p<percentile>` for each percentile and load them.

    The first percentile has k regions, a later one fewer: the first of the same exemplars, with a larger threshold.
    Exemplars of regions below `len(HOSTILE)` were observed at hostile tokens; region EMPTY has no members.
    """
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((max(2, k // 40), d))
    exemplars_kd = topics[rng.integers(len(topics), size=k)] + 0.7 * rng.standard_normal((k, d))
    exemplars_kd = (exemplars_kd / np.linalg.norm(exemplars_kd, axis=1, keepdims=True)).astype(np.float32)
    token_k = np.r_[np.arange(len(HOSTILE)), rng.integers(len(HOSTILE), len(VOCABULARY), size=k)][:k]
    center = rng.standard_normal(d).astype(np.float32)
    made = []
    for percentile in percentiles:
        kept = max(6, round(k * percentiles[0] / percentile))
        threshold = min(0.9, 0.3 + 0.06 * percentile)
        folder = Path(path) / SITE / percentile_name(percentile)
        dictionary = Dictionary(torch.from_numpy(center), torch.from_numpy(exemplars_kd[:kept]), threshold)
        arrivals_k = _sizes(rng, kept) + 1
        config = _config(kept, d, percentile, threshold, int(arrivals_k.sum()), float(np.linalg.norm(center)))
        store.save(folder, config, dictionary, _regions(rng, exemplars_kd[:kept], token_k[:kept], arrivals_k))
        loaded = store.load(folder)
        if annotate:
            _annotate(rng, loaded, token_k[:kept])
        made.append(loaded)
    return made


def _sizes(rng: np.random.Generator, k: int) -> np.ndarray:
    """A few large regions, many small ones."""
    return np.minimum(20_000, rng.pareto(0.9, size=k) * 12).astype(np.int64)


def _config(k: int, d: int, percentile: float, threshold: float, n: int, center_norm: float) -> records.Config:
    steps = np.unique(np.linspace(max(1, n // 40), n, 40).astype(int))
    grown = np.maximum(1, k * (1 - np.exp(-5 * steps / n)) / (1 - np.exp(-5))).astype(int)
    return records.Config(
        model=model_record("synthetic-<b>model</b>", d_model=d, vocab_size=len(VOCABULARY)),
        site=records.SiteRecord(name=SITE, transformer_lens="blocks.1.hook_resid_post", module_path="model.layers.1"),
        text=text_record("synthetic.jsonl"),
        calibration=records.CalibrationRecord(
            percentile=percentile,
            threshold=threshold,
            spread=0.001,
            batch=100,
            n_activations=200,
            center_norm=center_norm,
        ),
        build=records.BuildRecord(
            k=k,
            n_activations=n,
            skipped=0,
            stopped="saturated",
            saturation_window=500,
            until_unseen=None,
            unseen=records.UnseenRecord(estimate=0.002, low=0.0005, high=0.005),
            growth=list(zip(steps.tolist(), grown.tolist(), strict=True)),
            device="cpu",
        ),
        versions={"exemplar-partitioning": "0", "torch": "0", "transformers": "0"},
    )


def _regions(rng: np.random.Generator, exemplars_kd: np.ndarray, token_k: np.ndarray, arrivals_k: np.ndarray):
    k = len(exemplars_kd)
    words = np.array(VOCABULARY, dtype=object)
    windows = rng.integers(len(HOSTILE), len(VOCABULARY), size=(k, 8))
    windows[:, -1] = token_k
    return pa.table(
        {
            "region": pa.array(np.arange(k), pa.int32()),
            "content_id": content_ids(exemplars_kd),
            "document": [f"synthetic.jsonl:{i}" for i in rng.integers(0, 500, size=k)],
            "position": pa.array(rng.integers(0, 2000, size=k), pa.int32()),
            "token_id": pa.array(token_k, pa.int32()),
            "token": words[token_k].tolist(),
            "context": ["".join(row) for row in words[windows[:, :-1]]],
            "raw_norm": pa.array(rng.uniform(5, 60, size=k), pa.float32()),
            "arrival_index": pa.array(np.sort(rng.integers(0, arrivals_k.sum(), size=k)), pa.int64()),
            "arrivals": pa.array(arrivals_k, pa.int64()),
            "window_tokens": _lists(np.full(k, 8), pa.array(windows.ravel(), pa.int32()), "window_tokens"),
        },
        schema=records.REGIONS_SCHEMA,
    )


def _lists(lengths: np.ndarray, values: pa.Array, column: str, schema: pa.Schema = records.REGIONS_SCHEMA) -> pa.Array:
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, type=schema.field(column).type)


def _structs(column: str, lengths: np.ndarray, ids: np.ndarray, **others: np.ndarray) -> pa.Array:
    """Lists of (token_id, token, ...) with these lengths."""
    struct = annotation.REGIONS_SCHEMA.field(column).type.value_type
    tokens = pa.array(VOCABULARY).take(pa.array(ids))
    values = [ids, tokens, *others.values()]
    arrays = [pa.array(v, field.type) for v, field in zip(values, struct, strict=True)]
    return _lists(lengths, pa.StructArray.from_arrays(arrays, fields=list(struct)), column, annotation.REGIONS_SCHEMA)


def _annotate(rng: np.random.Generator, dictionary: StoredDictionary, token_k: np.ndarray) -> None:
    k, theta = dictionary.k, dictionary.threshold
    members_k = _sizes(rng, k)
    members_k[rng.random(k) < 0.02] = 0
    members_k[EMPTY] = 0
    centers = (np.arange(annotation.BINS) + 0.5) * annotation.BIN_WIDTH
    mean_k = theta * rng.uniform(0.5, 1.0, size=k)
    weights = np.exp(-(((centers - mean_k[:, None]) / 0.12) ** 2))
    histogram = rng.multinomial(members_k, weights / weights.sum(1, keepdims=True)).astype(np.int32)
    within_k = (histogram * (centers < theta)).sum(1)
    has = members_k > 0
    means_kd = dictionary.exemplars.numpy() + 0.1 * rng.standard_normal((k, dictionary.d_model))
    means_kd = np.where(has[:, None], means_kd / np.linalg.norm(means_kd, axis=1, keepdims=True), 0)

    def where_members(values: np.ndarray) -> pa.Array:
        return pa.array(values, pa.float64(), mask=~has)

    counted = np.where(has, 10, 0)
    tops, before = (rng.integers(0, len(VOCABULARY), size=(k, 10)) for _ in range(2))
    tops[:, 0] = token_k
    falling = np.sort(rng.pareto(1.0, size=(k, 10)), axis=1)[:, ::-1]
    falling /= falling.sum(axis=1, keepdims=True)
    count = np.maximum(1, falling * members_k[:, None]).astype(np.int64)
    lift = 1 + rng.pareto(1.0, size=(k, 10)) * 20
    columns: dict[str, object] = {
        "region": pa.array(np.arange(k), pa.int32()),
        "members": members_k,
        "within": within_k,
        "coherence": where_members(rng.uniform(0.2, 0.95, size=k)),
        "mean_distance": where_members((histogram * centers).sum(1) / np.maximum(1, members_k)),
        "std_distance": where_members(np.full(k, 0.1)),
        "half": members_k // 2,
        "stability": where_members(rng.uniform(0, 1, size=k)),
    }
    for name, ids in (("top_tokens", tops), ("before_tokens", before)):
        columns[name] = _structs(name, counted, ids[has].ravel(), count=count[has].ravel(), lift=lift[has].ravel())
    for name, means in (("lens", False), ("mean_lens", True)):
        rows = has if means else np.full(k, True)
        for end, sign in (("top", 1), ("bottom", -1)):
            ids = rng.integers(0, len(VOCABULARY), size=(int(rows.sum()), 10))
            lengths = np.where(rows, 10, 0)
            columns[f"{name}_{end}"] = _structs(
                f"{name}_{end}",
                lengths,
                ids.ravel(),
                probability=falling[rows].ravel(),
                lift=(lift[rows] ** sign).ravel(),
            )
    each_k = np.minimum(_EXAMPLES, members_k)
    columns["examples"] = pa.array(3 * each_k, pa.int32())
    annotation.write(
        dictionary.path / annotation.FOLDER,
        _record(dictionary, members_k, within_k),
        pa.table(columns, schema=annotation.REGIONS_SCHEMA),
        [_examples(rng, theta, token_k, each_k)],
        mean_directions=means_kd.astype(np.float32),
        histogram=histogram,
    )


def _examples(rng: np.random.Generator, theta: float, token_k: np.ndarray, each_k: np.ndarray) -> pa.Table:
    """Examples sorted by region: of each kind as many as each_k says."""
    schema = annotation.EXAMPLES_SCHEMA
    region = np.repeat(np.arange(len(each_k)), 3 * each_k)
    within = np.arange(len(region)) - np.repeat(np.cumsum(3 * each_k) - 3 * each_k, 3 * each_k)
    kind, rank = within // each_k[region], within % each_k[region]
    n = len(region)
    ids = rng.integers(len(HOSTILE), len(VOCABULARY), size=(n, _TOKENS))
    ids[rng.random((n, _TOKENS)) < 0.02] = rng.integers(0, len(HOSTILE))
    ids[:, _AT] = np.where(rng.random(n) < 0.7, token_k[region], ids[:, _AT])
    base = theta * np.choose(kind, [0.3, 1.1, 0.7]) * (1 + 0.05 * rank)
    distances = np.clip(rng.normal(1, 0.15, size=(n, _TOKENS)), 0.1, 2)
    distances[:, _AT - 1] = base + 0.1
    distances[:, _AT] = base
    flat = pa.array(distances.ravel(), pa.float32(), mask=rng.random(n * _TOKENS) < 0.01)
    lengths = np.full(n, _TOKENS)
    return pa.table(
        {
            "region": pa.array(region, pa.int32()),
            "kind": pa.array(annotation.KINDS).take(pa.array(kind)),
            "rank": pa.array(rank, pa.int32()),
            "distance": base,
            "document": pa.array([f"held-out.jsonl:{i}" for i in range(300)]).take(
                pa.array(rng.integers(0, 300, size=n))
            ),
            "position": pa.array(rng.integers(_AT, 2000, size=n), pa.int32()),
            "at": pa.array(np.full(n, _AT), pa.int32()),
            "token_ids": _lists(lengths, pa.array(ids.ravel(), pa.int32()), "token_ids", schema),
            "tokens": _lists(lengths, pa.array(VOCABULARY).take(pa.array(ids.ravel())), "tokens", schema),
            "distances": _lists(lengths, flat, "distances", schema),
        },
        schema=schema,
    )


def _record(dictionary: StoredDictionary, members_k: np.ndarray, within_k: np.ndarray) -> annotation.AnnotationRecord:
    n = int(members_k.sum())
    share = members_k[members_k > 0] / max(1, n)
    effective = float(np.exp(-(share * np.log(share)).sum()))

    def metrics(scale: float) -> annotation.Metrics:
        return annotation.Metrics(
            k=dictionary.k,
            coverage=0.95 * scale,
            cohesion=0.4 / scale,
            nearest_inter=0.6 * scale,
            separation_ratio=0.6 * scale / dictionary.threshold,
            silhouette=0.3 * scale,
            max_similarity=1 - dictionary.threshold,
            gini=0.7,
            effective=effective * scale,
            utilisation=effective * scale / dictionary.k,
        )

    return annotation.AnnotationRecord(
        dictionary=dictionary.content_id,
        model=dictionary.config.model.fingerprint,
        text=dictionary.config.text.model_copy(update={"source": "held-out.jsonl"}),
        max_tokens=n,
        n_tokens=n,
        n_documents=300,
        n_activations=n,
        skipped=0,
        coverage=float(within_k.sum() / max(1, n)),
        empty=int((members_k == 0).sum()),
        gini=0.7,
        effective=effective,
        quality=annotation.Quality(
            n_activations=n, dictionary=metrics(1.0), random_exemplars=metrics(0.8), gaussian=metrics(0.5)
        ),
        versions=dictionary.config.versions,
    )
