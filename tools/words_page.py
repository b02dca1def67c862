"""Words beside regions in concept detection, from docs/results/words/smollm2.json."""

import json
from pathlib import Path

RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "words" / "smollm2.json"


def parts() -> dict[str, str]:
    """The generated part by the name in its markers."""
    r = json.loads(RESULT.read_bytes())
    above = {row["above"]: row for row in r["pairs"]}
    genres = list(r["table"][0]["genres"])
    lines = [
        "| what, trained on | AUROC | regions, all, are above it by | hard negatives | regions, all, above | "
        + " | ".join(genres)
        + " |",
        "|---|--:|--:|--:|--:|" + "--:|" * len(genres),
    ]
    for row in sorted(r["table"], key=lambda row: -row["auroc"][0]):
        pair = above.get(row["what"])
        cells = [
            interval(row["auroc"]),
            interval(pair["auroc"], "+.3f") if pair else "",
            interval(row["hard"]),
            interval(pair["hard"], "+.3f") if pair else "",
            *(f"{row['genres'][genre][0]:.3f}" for genre in genres),
        ]
        lines.append(f"| {row['what'].replace('exemplar, ', 'regions, ')} | " + " | ".join(cells) + " |")
    lines += ["", f"{r['model']}, {r['site']}, percentile 1, {len(r['concepts'])} concepts."]
    return {"words": "\n".join(lines)}


def figure_files() -> dict[Path, str]:
    """None."""
    return {}


def draw() -> None:
    """Nothing."""


def words_all() -> tuple[dict, dict]:
    """The row of words trained against other concepts, and how far regions are above it."""
    r = json.loads(RESULT.read_bytes())
    name = "words, all"
    return (next(x for x in r["table"] if x["what"] == name), next(x for x in r["pairs"] if x["above"] == name))


def interval(values: list[float], form: str = ".3f") -> str:
    """An estimate with its interval."""
    return f"{values[0]:{form}} ({values[1]:{form}} to {values[2]:{form}})"
