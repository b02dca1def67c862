"""One file about one annotated dictionary that opens in any browser, offline. Needs the extra `explorer`.

Everything is inside: text, style, plotly, data. The page may not load anything (its own Content-Security-Policy),
and runs only the two scripts put here; text from the corpus is escaped wherever it goes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ...errors import require_extra
from ...folder.annotation import Metrics
from ...folder.dictionary import StoredDictionary
from ...folder.labels import Label, Labels
from ...text.visible import visible
from .. import map as atlas

_HERE = Path(__file__).parent
_KINDS = ("nearest", "random", "farthest")  # in the order shown
_EXAMPLES = 4  # of each kind
_TOKEN = 40  # characters of a token in a list
_RANKS = 300  # of the curve of sizes
_HEATS = 9  # shades of distance, beside none
_NOTHING = "\u2205"  # a token that ends a character begun by the one before
_METRICS = {
    "coverage": "coverage",
    "cohesion": "cohesion",
    "nearest_inter": "nearest other exemplar",
    "separation_ratio": "separation ratio",
    "silhouette": "silhouette",
    "max_similarity": "largest similarity",
    "gini": "Gini of sizes, in this sample",
    "effective": "regions that this sample uses",
    "utilisation": "share of all that it uses",
}


def render(dictionary: StoredDictionary, regions: Sequence[int]) -> str:
    """The report as HTML: overview, sizes, growth, map, and some regions, which have members.

    The same dictionary, annotation and labels give the same text. Raises EPError if the dictionary is not
    annotated, or plotly is not installed.
    """
    annotation = dictionary.annotation
    require_extra("explorer", "plotly", of="a report")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    labels = Labels.read(dictionary).every()
    scripts = [get_plotlyjs(), (_HERE / "page.js").read_text(encoding="utf-8")]
    environment = Environment(
        loader=FileSystemLoader(_HERE, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "token": _token}
    return environment.get_template("page.html.jinja").render(
        config=dictionary.config,
        content_id=dictionary.content_id,
        record=annotation.record,
        metrics=[(name, shown_as, Metrics.model_fields[name].description) for name, shown_as in _METRICS.items()],
        regions=[_region(dictionary, region, labels[region]) for region in regions],
        kinds=_KINDS,
        detection=float(np.mean([label.score for label in labels if label.score is not None] or [0.5])),
        chance=annotation.concepts.chance,
        data=_data(dictionary, [visible(label.text) for label in labels], list(regions)),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
    )


def _region(dictionary: StoredDictionary, region: int, label: Label) -> dict[str, Any]:
    """What is shown of a region that has members."""
    row = dictionary.annotation.region(region)
    examples: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for example in dictionary.annotation.examples(region):
        if len(examples[example["kind"]]) < _EXAMPLES:
            examples[example["kind"]].append(example | {"tokens": _in_context(example, dictionary.threshold)})
    for name in ("top_tokens", "before_tokens"):
        row[name] = [token | {"said": _percent(token["count"] / row["members"])} for token in row[name]]
    row["beyond"] = dictionary.annotation.interest.beyond(region)
    row["interest"] = dictionary.annotation.interest.row(region)
    for name in ("lens_top", "mean_lens_top"):
        row[name] = [
            token | {"said": f"{_percent(token['probability'])} \u00d7{_lift(token['lift'])}"} for token in row[name]
        ]
    return row | {"label": label, "exemplar": dictionary.region(region), "examples": examples}


def _in_context(example: dict[str, Any], threshold: float) -> list[dict[str, Any]]:
    """Tokens of an example that have text, and the example itself, with the classes they are styled by."""
    tokens = []
    for index, (text, distance) in enumerate(zip(example["tokens"], example["distances"], strict=True)):
        marks = {"at": index == example["at"], "within": distance is not None and distance <= threshold}
        classes = " ".join([f"h{heat(distance, threshold)}", *(name for name, holds in marks.items() if holds)])
        if text or marks["at"]:
            tokens.append({"text": visible(text) or _NOTHING, "distance": distance, "classes": classes})
    return tokens


def heat(distance: float | None, threshold: float) -> int:
    """Shade of a distance: 9 at 0, 3 at theta, 0 from distance 1 on, or where there is none."""
    if distance is None:
        return 0
    edge = min(threshold, 0.99)
    if distance <= edge:
        return round(_HEATS * (1 - 2 / 3 * distance / edge))
    return round(_HEATS / 3 * max(0.0, 1 - (distance - edge) / (1 - edge)))


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _lift(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def _token(text: str) -> str:
    """A token in a list: spaces around it shown, nothing as a sign for nothing, long ones cut."""
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if inner else len(text)
    shown = "\u2423" * before + visible(inner) + "\u2423" * (len(text) - before - len(inner))
    return (shown if len(shown) <= _TOKEN else shown[: _TOKEN - 1] + "\u2026") or _NOTHING


def _data(dictionary: StoredDictionary, labels: list[str], shown: list[int]) -> dict[str, Any]:
    """What the page draws from: numbers rounded to what can be seen."""
    regions = dictionary.annotation.regions
    sorted_k = np.sort(regions["members"].to_numpy())[::-1]
    x, y = atlas.layout(dictionary).T
    return {
        "x": np.round(x.astype(float), 4).tolist(),
        "y": np.round(y.astype(float), 4).tolist(),
        "members": regions["members"].to_pylist(),
        "coherence": [None if value is None else round(value, 3) for value in regions["coherence"].to_pylist()],
        "labels": labels,
        "shown": shown,
        "sizes": by_rank(sorted_k[sorted_k > 0], _RANKS),
        "growth": dictionary.config.build.growth,
    }


def by_rank(sorted_k: Int64[np.ndarray, " k"], points: int) -> list[tuple[int, int]]:
    """(rank, size) of sizes from the largest on, at so many ranks at most, evenly on a logarithmic axis."""
    ranks = np.unique(np.geomspace(1, max(1, len(sorted_k)), points).round().astype(int))[: len(sorted_k)]
    return [(int(rank), int(sorted_k[rank - 1])) for rank in ranks]
