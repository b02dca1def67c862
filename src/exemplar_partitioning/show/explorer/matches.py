"""Regions of two dictionaries matched, as the page shows them: in short, and pair by pair.

Shapes: k and l regions of a and b, r rows: one for every region of a, one for every introduced region of b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from ...compare.matching import FALSE_ALARMS, Matching
from ...compare.progress import Tell
from ...errors import EPError
from . import computed, views
from .library import View
from .overlaps import Overlaps

VERDICTS = ("persisted", "dropped", "introduced")
SORTS = ("cosine", "distance", "jaccard", "f1", "a", "b", "label_a", "label_b")
_BIN = 0.02  # width of a histogram's bins
_SAME = 1 - 1e-6  # cosine of an exemplar with itself, in float32


@dataclass(frozen=True, eq=False)
class Matched:
    """A matching as rows.

    Attributes:
        row_a, row_b: regions of each row: of a with its nearest of b, then introduced ones of b with their nearest of
            a.
        verdict_r: indices of VERDICTS.
        partner_r: region of b that a's is paired with one to one, -1 if none.
        jaccard_r, f1_r: members shared, NaN where they are not known.
        cutoffs: cosines that decide, to b and to a.
    """

    matching: Matching
    overlaps: Overlaps | None
    cutoffs: tuple[float, float]
    row_a: Int64[np.ndarray, " r"]
    row_b: Int64[np.ndarray, " r"]
    cosine_r: Float64[np.ndarray, " r"]
    verdict_r: Int64[np.ndarray, " r"]
    partner_r: Int64[np.ndarray, " r"]
    jaccard_r: Float64[np.ndarray, " r"]
    f1_r: Float64[np.ndarray, " r"]

    def counts(self) -> dict[str, int]:
        """Rows of each verdict."""
        return dict(zip(VERDICTS, np.bincount(self.verdict_r, minlength=len(VERDICTS)).tolist(), strict=True))

    def verdict(self, region_a: int) -> str:
        """Whether a region of a persisted or was dropped."""
        return VERDICTS[self.verdict_r[region_a]]


def matched(a: View, b: View, overlaps: Overlaps | None, tell: Tell) -> Matched:
    """Match exemplars of two dictionaries by the library's `match`, in the light of shared members if there are any.

    Raises EPError as `match` does, for another width first of all.
    """
    false_alarms = overlaps.false_alarms if overlaps else FALSE_ALARMS
    matching = computed.matching(a.dictionary, b.dictionary, false_alarms, tell)
    cutoffs = overlaps.cutoffs[overlaps.decided_by] if overlaps else matching.null.cutoffs(matching.false_alarms)
    introduced = np.flatnonzero(~(matching.cosine_l > cutoffs[1]))
    row_a = np.concatenate([matching.regions_a, matching.nearest_l[introduced]])
    row_b = np.concatenate([matching.nearest_k, introduced])
    partner_k = np.full(a.dictionary.k, -1)
    partner_k[matching.pairs.row_p] = matching.pairs.column_p
    verdict_k = np.where(matching.cosine_k > cutoffs[0], 0, 1)
    jaccard_r, f1_r = overlaps.of(row_a, row_b) if overlaps else np.full((2, len(row_a)), np.nan)
    return Matched(
        matching=matching,
        overlaps=overlaps,
        cutoffs=cutoffs,
        row_a=row_a,
        row_b=row_b,
        cosine_r=np.concatenate([matching.cosine_k, matching.cosine_l[introduced]]),
        verdict_r=np.concatenate([verdict_k, np.full(len(introduced), 2)]),
        partner_r=partner_k[row_a],
        jaccard_r=jaccard_r,
        f1_r=f1_r,
    )


def summary(a: View, b: View, m: Matched) -> dict[str, Any]:
    """What holds for two dictionaries as a whole: the matching's summary, verdicts, histograms beside the null."""
    matching, cosine_k = m.matching, m.matching.cosine_k
    answer = matching.summary() | {"a": a.key, "b": b.key} | m.counts()
    return answer | {
        "decided_by": m.overlaps.decided_by if m.overlaps else matching.null.name,
        "cutoff_to_b": m.cutoffs[0],
        "cutoff_to_a": m.cutoffs[1],
        "text": m.overlaps and m.overlaps.text,
        "within": float((1 - cosine_k <= b.dictionary.threshold).mean()),
        "same": float((cosine_k > _SAME).mean()),
        "used": len(np.unique(matching.nearest_k)),
        "histograms": {
            "to_b": _histogram(cosine_k, matching.null.to_b),
            "to_a": _histogram(matching.cosine_l, matching.null.to_a),
        },
    }


def _histogram(cosine_n: np.ndarray, null_m: np.ndarray) -> dict[str, Any]:
    """Cosines in bins of equal width; the null's counts are scaled to as many."""
    edges = np.linspace(-1, 1, round(2 / _BIN) + 1)
    counts, null = (np.histogram(np.clip(x, -1, 1), bins=edges)[0] for x in (cosine_n, null_m))
    first = int(np.flatnonzero(counts + null)[0])
    return {
        "start": float(edges[first]),
        "width": _BIN,
        "counts": counts[first:].tolist(),
        "null": np.round(null[first:] * len(cosine_n) / len(null_m), 2).tolist(),
    }


def pairs(
    a: View,
    b: View,
    m: Matched,
    *,
    show: str = "all",
    query: str = "",
    within: str = "any",
    sort: str = "cosine",
    descending: bool = True,
    offset: int = 0,
    limit: int = 100,
) -> dict[str, Any]:
    """A page of the pairs in some order, those without a value last; a text is looked for in both regions.

    Raises EPError for an unknown verdict, sort or search.
    """
    views.check_order(sort, SORTS, within)
    if show not in ("all", *VERDICTS):
        raise EPError(f"show must be all, {', '.join(VERDICTS)}; got {show[:40]!r}")
    rows = np.arange(len(m.row_a)) if show == "all" else np.flatnonzero(m.verdict_r == VERDICTS.index(show))
    if query:
        either = np.isin(m.row_a[rows], views.containing(a, query, within))
        rows = rows[either | np.isin(m.row_b[rows], views.containing(b, query, within))]
    page = views.shown(_ordered((a, b), m, rows, sort, descending=descending), offset, limit)
    sides = [_regions(view, regions[page]) for view, regions in ((a, m.row_a), (b, m.row_b))]
    return {
        "total": len(m.row_a),
        "matching": len(rows),
        "offset": offset,
        "pairs": [_pair((a, b), m, row, sides=each) for row, *each in zip(page.tolist(), *sides, strict=True)],
    }


def _pair(pair: tuple[View, View], m: Matched, row: int, *, sides: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (a, b), (side_a, side_b) = pair, sides
    distance = 1 - float(m.cosine_r[row])
    jaccard, f1 = (None if np.isnan(x_r[row]) else float(x_r[row]) for x_r in (m.jaccard_r, m.f1_r))
    return {
        "a": side_a,
        "b": side_b,
        "verdict": VERDICTS[m.verdict_r[row]],
        "cosine": float(m.cosine_r[row]),
        "distance_in_theta_a": distance / a.dictionary.threshold,
        "distance_in_theta_b": distance / b.dictionary.threshold,
        "one_to_one_b": None if m.partner_r[row] < 0 else int(m.partner_r[row]),
        "jaccard": jaccard,
        "f1": f1,
    }


def _regions(view: View, regions: np.ndarray) -> list[dict[str, Any]]:
    contexts = view.dictionary.regions["context"].take(regions).to_pylist()
    return [row | {"context": text} for row, text in zip(views.brief(view, regions), contexts, strict=True)]


def _ordered(pair: tuple[View, View], m: Matched, rows: np.ndarray, sort: str, *, descending: bool) -> np.ndarray:
    a, b = pair
    if sort.startswith("label"):
        view, regions = (a, m.row_a) if sort == "label_a" else (b, m.row_b)
        labels, _ = view.labels()
        return views.by_text(rows, [labels[region].text for region in regions], descending)
    columns = {"cosine": m.cosine_r, "jaccard": m.jaccard_r, "f1": m.f1_r, "a": m.row_a, "b": m.row_b}
    columns["distance"] = -m.cosine_r  # in units of either theta
    return views.by_number(rows, columns[sort], descending)


def partners(view: View, index: int, others: Sequence[View]) -> list[dict[str, Any]]:
    """The region's nearest in other dictionaries of its width, and whether each would find it in return."""
    index, partners = view.check_region(index), []
    for other in others:
        (partner,), (distance,) = other.dictionary.assign_directions(view.exemplars_kd[[index]])
        (back,), _ = view.dictionary.assign_directions(other.exemplars_kd[[partner]])
        config = other.dictionary.config
        partners.append(
            {
                "key": other.key,
                "build": other.entry.build,
                "site": config.site.name,
                "percentile": config.calibration.percentile,
                "region": views.brief(other, [partner])[0],
                "cosine": 1 - float(distance),
                "mutual": int(back) == index,
                "caveat": views.caveat(view, other),
            }
        )
    return partners
