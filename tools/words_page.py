"""Words, and what knows nothing, beside regions in concept detection, from result files."""

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
RESULT, ANEW = (RESULTS / name / "smollm2.json" for name in ("words", "concepts"))


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers."""
    made = {"words": _table(json.loads(RESULT.read_bytes()), "regions, all, are above it by")}
    if ANEW.is_file():
        r = json.loads(ANEW.read_bytes())
        choice = ", ".join(f"{row['rule']} {row['auroc'][0]:.3f}" for row in r["choice"])
        lead = (
            f"`{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, {r['minutes']:.0f} min; {r['k']:,} regions."
        )
        chosen = f"Rules on regions in three folds of training texts, the mean AUROC over concepts: {choice}."
        made["concepts"] = "\n\n".join([lead, _table(r, "regions, trained alike, are above it by"), chosen])
    return made


def _table(r: dict, versus: str) -> str:
    above = {row["above"]: row for row in r["pairs"]}
    genres = list(r["table"][0]["genres"])
    lines = [
        f"| what, trained on | AUROC | {versus} | hard negatives | and by | " + " | ".join(genres) + " |",
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
    percentile = r.get("percentile", 1)
    return "\n".join([*lines, "", f"{r['site']}, percentile {percentile:g}, {len(r['concepts'])} concepts."])


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
