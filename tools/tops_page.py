"""The tables at the top of pages on behaviours, regions and what comes back, from result files."""

import json
from pathlib import Path

from nulls_page import table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
STABILITY = ROOT / "experiments" / "results" / "stability.json"
CONDITIONS = {"order": "orders", "half": "halves", "bfloat16": "bfloat16"}


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers."""
    return {
        "behaviours-top": _behaviours(),
        "regions-top": _regions(),
        "comes-back-top": _comes_back(),
        "stability": _stability(),
    }


def _behaviours() -> str:
    names = {"refusal": "refusal", "chinese": "Chinese", "lists": "lists"}
    arms = {
        "exemplar of the region taken out": "exemplar",
        "mean of its members taken out": "mean member",
        "null regions (of like size, without the behaviour)": "null region",
        "random directions": "random direction",
        "difference of means of labelled prompts": "difference of means",
    }
    results = [json.loads((RESULTS / "behaviours" / f"{name}.json").read_bytes()) for name in names]
    rows = [["no intervention", *(f"{r['baseline']['rate']:.2f}" for r in results)]]
    rows += [[shown, *(rate(r, arm) for r in results)] for shown, arm in arms.items()]
    return table(" | ".join(["share of test prompts that show it", *names.values()]), rows)


def rate(result: dict, arm: str) -> str:
    """Mean rate of the arms of a name, and of those that are a kind of it."""
    kinds: dict[str, list[float]] = {}
    for row in result["arms"]:
        if row["name"] == arm or (row["name"].startswith(f"{arm}, ") and "site only" not in row["name"]):
            kinds.setdefault(row["name"], []).append(row["rate"])
    return ", ".join(f"{sum(rates) / len(rates):.2f}" for rates in kinds.values())


def _regions() -> str:
    rows = json.loads((RESULTS / "readable" / "smollm2.json").read_bytes())["rows"]
    arms = ("regions", "null regions", "k-means")
    by = {(row["percentile"], row["arm"]): row["score"][0] for row in rows}
    percentiles = sorted({percentile for percentile, _ in by})
    body = [[f"percentile {p:g}", *(f"{by[p, arm]:.3f}" for arm in arms)] for p in percentiles]
    return table(" | ".join(["AUC of held-out members by the region's label", *arms]), body)


def stability() -> list[dict]:
    """Results at every percentile."""
    return json.loads(STABILITY.read_bytes())["results"]


def _comes_back() -> str:
    columns = [(of, arm) for of in ("order", "half") for arm in ("as built", "random exemplars")]
    head = "percentile | two orders of a text: come back | null | two halves of a text: come back | null"
    rows = [[f"{r['percentile']:g}", *(f"{r[of][arm]['same']:.0%}" for of, arm in columns)] for r in stability()]
    return table(head, rows)


def _stability() -> str:
    results = stability()
    head = ["anchors", *(f"percentile {r['percentile']:g}, {name}" for r in results for name in CONDITIONS.values())]
    rows = []
    for arm in results[0]["order"]:
        cells = []
        for found in (r[condition].get(arm) for r in results for condition in CONDITIONS):
            figures = ("same", ".0%"), ("same_members", ".0%"), ("rand", ".2f")
            cells.append(", ".join(f"{found[key]:{form}}" for key, form in figures) if found else "")
        rows.append([arm, *cells])
    return table(" | ".join(head), rows)


def figure_files() -> dict[Path, str]:
    """None."""
    return {}


def draw() -> None:
    """Nothing."""
