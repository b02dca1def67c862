"""What the pages show, as JSON values: one function per question (docs/explorer-api.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float32

from ...errors import EPError
from ...folder.annotation import BIN_WIDTH, Metrics
from ...folder.labels import MADE, Label
from ...models.identity import same_model
from ..report import by_rank
from .library import Entry, Library, View

PAGE = 500  # rows listed at once, at most
NEIGHBOURS = 12
CHILDREN = 40
_POINTS = 400  # of a curve

SEARCHES = ("any", "token", "label", "members", "lens")


def entry(entry: Entry) -> dict[str, Any]:
    """A line about a dictionary, from config.json alone."""
    answer: dict[str, Any] = {"key": entry.key, "build": entry.build, "error": entry.error}
    if entry.config is None:
        return answer
    config = entry.config
    return answer | {
        "model": config.model.id,
        "site": config.site.name,
        "percentile": config.calibration.percentile,
        "threshold": config.calibration.threshold,
        "k": config.build.k,
        "d_model": config.width,
        "n_activations": config.build.n_activations,
        "stopped": config.build.stopped,
        "unseen": config.build.unseen.model_dump(),
        "annotated": entry.annotated,
    }


def overview(view: View) -> dict[str, Any]:
    """A dictionary as a whole: how it was made, how it grew, how large its regions are, how good it is."""
    config = view.dictionary.config.model_dump(mode="json")
    growth = config["build"].pop("growth")
    labels, labels_error = view.labels()
    return entry(view.entry) | {
        "path": str(view.entry.folder),
        "content_id": view.dictionary.content_id,
        "size_is": size_is(view),
        "sizes": by_rank(np.sort(view.sizes_k)[::-1], _POINTS),
        "empty": int((view.sizes_k == 0).sum()),
        "growth": [growth[i] for i in _spread(len(growth))],
        "config": config,
        "labelled": sum(label.source not in MADE for label in labels),
        "detection": _detection(view, labels),
        "labels_error": labels_error,
        "largest": brief(view, np.argsort(-view.sizes_k, kind="stable")[:10]),
        "not_annotated": view.not_annotated,
        "annotation": None if view.annotation is None else _annotation(view),
    }


def _detection(view: View, labels: Sequence[Label]) -> dict[str, Any] | None:
    """How well labels tell members from others, on average, and how well those of other regions would."""
    scores = [label.score for label in labels if label.score is not None]
    if view.annotation is None or not scores:
        return None
    concepts = view.annotation.concepts
    return {"mean": float(np.mean(scores)), "chance": concepts.chance, "bound": concepts.bound, "labels": len(scores)}


def _annotation(view: View) -> dict[str, Any]:
    assert view.annotation is not None
    record = view.annotation.record.model_dump(mode="json", exclude={"files"})
    named = {name: field.description for name, field in Metrics.model_fields.items()}
    return record | {"metrics": named}


def size_is(view: View) -> str:
    """What sizes count: `members` of annotated dictionaries, else `arrivals`."""
    return "members" if view.annotation else "arrivals"


def _spread(count: int) -> list[int]:
    """Indices of at most _POINTS of so many things, first and last included."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int)).tolist()


def brief(view: View, regions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """Regions in a few words each."""
    labels, _ = view.labels()
    return [
        {
            "region": int(i),
            "token": view.tokens[i],
            "label": labels[i].text,
            "source": labels[i].source,
            "score": labels[i].score,
            "size": int(view.sizes_k[i]),
        }
        for i in regions
    ]


def named(view: View, regions: Iterable[int | None]) -> dict[str, Any]:
    """Some regions in a few words each, by number."""
    chosen = sorted({region for region in regions if region is not None})
    return {str(row["region"]): row for row in brief(view, chosen)}


def check_order(sort: str, sorts: Sequence[str], within: str) -> None:
    """EPError, naming those there are, for an unknown sort or search."""
    if sort not in sorts or within not in SEARCHES:
        raise EPError(f"sort must be one of {', '.join(sorts)} and in one of {', '.join(SEARCHES)}")


def shown(order: np.ndarray, offset: int, limit: int) -> np.ndarray:
    """A page of rows."""
    return order[offset:][: min(max(1, limit), PAGE)]


def containing(view: View, query: str, within: str) -> np.ndarray:
    """Numbers of the regions that a text occurs in, in any case; a number also finds that region."""
    wanted = query.casefold()
    if not wanted:
        return np.arange(view.dictionary.k)
    places: dict[str, Sequence[str]] = {
        "token": view.tokens,
        "members": view.top_tokens,
        "lens": view.lens,
        "label": [label.text for label in view.labels()[0]] if within in ("any", "label") else (),
    }
    texts = places.values() if within == "any" else [places[within]]
    hits = {i for place in texts for i, text in enumerate(place) if wanted in text.casefold()}
    if within == "any" and wanted.isdecimal() and int(wanted) < view.dictionary.k:
        hits.add(int(wanted))
    return np.array(sorted(hits), dtype=np.int64)


def by_text(rows: np.ndarray, texts: Sequence[str], descending: bool) -> np.ndarray:
    """Some rows by the text of each, in any case."""
    keys = [text.lstrip().casefold() for text in texts]
    return np.array(sorted(rows.tolist(), key=keys.__getitem__, reverse=descending), dtype=np.int64)


def by_number(rows: np.ndarray, values: np.ndarray, descending: bool) -> np.ndarray:
    """Some rows by the value of each; those without one come last."""
    chosen = values[rows].astype(float)
    return rows[np.argsort(-chosen if descending else chosen, kind="stable")]  # NaN goes last


def numbers(view: View, name: str) -> np.ndarray:
    """A column of numbers, float64 [k]; NaN where there is none."""
    if name == "region":
        return np.arange(view.dictionary.k, dtype=float)
    if name == "size":
        return view.sizes_k.astype(float)
    if name == "score":
        return np.array([label.score for label in view.labels()[0]], float)
    if view.annotation is None:
        return np.full(view.dictionary.k, np.nan)
    if name in ("interest", "identity", "documents", "contrast"):
        return getattr(view.annotation.interest, "score" if name == "interest" else name).astype(float)
    column = view.annotation.regions["mean_distance" if name == "distance" else name]
    return pc.fill_null(column, np.nan).to_numpy()


def region(view: View, index: int) -> dict[str, Any]:
    """All that is known about a region, but for its relatives at other percentiles."""
    d, index = view.dictionary, view.check_region(index)
    exemplar = d.regions.slice(index, 1).to_pylist()[0]
    del exemplar["window_tokens"]
    labels, labels_error = view.labels()
    answer = {
        "key": view.key,
        "region": index,
        "k": d.k,
        "threshold": d.threshold,
        "label": {name: getattr(labels[index], name) for name in ("text", "source", "score")},
        "labels_error": labels_error,
        "exemplar": exemplar,
        "neighbours": _neighbours(view, index),
        "size_is": size_is(view),
        "size": int(view.sizes_k[index]),
        "size_rank": int((view.sizes_k > view.sizes_k[index]).sum()) + 1,
        "not_annotated": view.not_annotated,
        "members": None,
    }
    if view.annotation is None:
        return answer
    row = view.annotation.region(index)
    return answer | {
        "members": row,
        "member_share": row["members"] / max(1, view.annotation.record.n_activations),
        "examples": view.annotation.examples(index),
        "histogram": {"width": BIN_WIDTH, "counts": view.annotation.histogram[index].tolist()},
        "mean_cosine": _mean_cosine(view, index),
        "interest": view.annotation.interest.row(index),
        "beyond": view.annotation.interest.beyond(index),
    }


def _mean_cosine(view: View, index: int) -> float | None:
    """Cosine of a region's mean direction and its exemplar; None without members."""
    assert view.annotation is not None
    mean_d = view.annotation.mean_directions[index]
    return float(mean_d @ view.exemplars_kd[index]) if mean_d.any() else None


def _neighbours(view: View, index: int) -> list[dict[str, Any]]:
    cosine_k = view.exemplars_kd @ view.exemplars_kd[index]
    cosine_k[index] = -np.inf
    count = min(NEIGHBOURS, view.dictionary.k - 1)
    near = np.argpartition(-cosine_k, count - 1)[:count] if count else np.zeros(0, dtype=np.int64)
    near = near[np.argsort(-cosine_k[near], kind="stable")]
    return [row | {"cosine": float(cosine_k[row["region"]])} for row in brief(view, near)]


def relatives(library: Library, view: View, index: int) -> list[dict[str, Any]]:
    """The region at other percentiles of its site: its ancestor in coarser dictionaries, its descendants in finer."""
    view.check_region(index)
    levels, tree = library.tree(view)
    level, relatives = levels.index(view), []
    for other in sorted(levels, key=lambda other: other.dictionary.threshold):
        if tree is None or other is view:
            continue
        at = levels.index(other)
        regions = np.array(tree.relatives(level, index, at), np.int64)
        cosines = other.exemplars_kd[regions] @ view.exemplars_kd[index]
        order = np.argsort(-cosines, kind="stable")
        shown = brief(other, regions[order[:CHILDREN]])
        relatives.append(
            {
                "key": other.key,
                "percentile": other.dictionary.config.calibration.percentile,
                "relation": "parent" if at < level else "children",
                "count": len(regions),
                "regions": [row | {"cosine": float(c)} for row, c in zip(shown, cosines[order], strict=False)],
            }
        )
    return relatives


def chart(view: View, xy_k2: Float32[np.ndarray, "k 2"]) -> dict[str, Any]:
    """Every region's place on the map, with what its point shows."""
    labels, _ = view.labels()
    return {
        "size_is": size_is(view),
        "x": np.round(xy_k2[:, 0].astype(float), 4).tolist(),
        "y": np.round(xy_k2[:, 1].astype(float), 4).tolist(),
        "size": view.sizes_k.tolist(),
        "token": view.tokens,
        "label": [label.text for label in labels],
        **{name: _rounded(numbers(view, name)) for name in ("coherence", "stability", "distance")},
    }


def _rounded(values: np.ndarray) -> list[float | None]:
    return [None if value != value else round(value, 4) for value in values.tolist()]


def comparison(a: View, b: View) -> dict[str, Any]:
    """Key numbers of two dictionaries; why they cannot be matched, or what a cosine between them does not mean."""
    first, other = a.dictionary, b.dictionary
    why_not = None
    if first.d_model != other.d_model:
        why_not = (
            f"Their exemplars live in spaces of different width ({first.d_model} and {other.d_model}), so there is no "
            "cosine between them. `ep transport` carries regions into the other model; `ep roundtrip` compares across "
            "models."
        )
    return {
        "a": _figures(a),
        "b": _figures(b),
        "why_not": why_not,
        "caveat": None if why_not else caveat(a, b),
    }


def caveat(a: View, b: View) -> str | None:
    """What cosines between two dictionaries of one width do not mean; None if there is nothing to say."""
    first, other = a.dictionary.config, b.dictionary.config
    if not same_model(first.model, other.model):
        return "They come from different models: directions of the same width, but no common basis."
    if first.site.name != other.site.name:
        return "They come from different sites of the model; cosines are taken all the same."
    if not bool((a.dictionary.center == b.dictionary.center).all()):
        return "Their centres differ, so a direction in one is not exactly the same direction in the other."
    return None


def _figures(view: View) -> dict[str, Any]:
    config, record = view.dictionary.config, view.annotation.record if view.annotation else None
    return entry(view.entry) | {
        "text": config.text.source,
        "spread": config.calibration.spread,
        "largest": int(view.sizes_k.max(initial=0)),
        "size_is": size_is(view),
        "not_annotated": view.not_annotated,
        "coverage": record and record.coverage,
        "empty": record and record.empty,
        "gini": record and record.gini,
        "effective": record and record.effective,
        "quality": record and record.quality.dictionary.model_dump(),
    }
