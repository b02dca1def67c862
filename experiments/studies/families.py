"""Probes again, with tasks of one kind as one witness: nothing is computed anew but intervals and differences.

    python -m experiments.studies.families [--results docs/results/probes] [--out docs/results/families/smollm2.json]

Rule and families: `ep_experiments/probes/PREREGISTRATION.md`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ep_experiments.paired import clustered, difference, ratio, spread
from exemplar_partitioning.act.localise import holm
from exemplar_partitioning.files import to_json

DRAWS = 4000
ARMS = ("raw", "raw mean", "one-hot", "exemplar", "share", "cosine", "random", "random direction", "token", "words")
PAIRS = (
    ("one-hot", "random"),
    ("one-hot", "token"),
    ("exemplar", "random direction"),
    ("share", "words"),
)
# Tables of which several columns, or values of one column, are tasks.
_FAMILY = re.compile(
    r"(hist_fig|headline|wikidata|cm|glue_mnli|nyc_borough|us_state|us_timezone|world_country|art_type|temp_cat|context_type|"
    r"news_class|cancer_cat|disease_class|twt_emotion|it_tick|athlete_sport|code|agnews|hate)"
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--results", type=Path, default=Path("docs/results/probes"))
    options.add_argument("--out", type=Path, default=Path("docs/results/families/smollm2.json"))
    given = options.parse_args()
    collection = json.loads((given.results / "smollm2.json").read_bytes())["tasks"]
    others = json.loads((given.results / "labelled.json").read_bytes())["tasks"]
    families = Counter(family(task["task"]) for task in collection)
    result = {
        "command": "python -m experiments.studies.families",
        "collection": summary(collection),
        "others": summary(others),
        "families": {name: count for name, count in sorted(families.items()) if count > 1},
    }
    given.out.write_bytes(to_json(result))


def family(task: str) -> str:
    """The table that a task is of, or its own name."""
    name = re.sub(r"^\d+_", "", task)
    found = _FAMILY.match(name)
    if found is None or (found[1] == "glue" and not name.startswith("glue_mnli")):  # other tasks of GLUE are unlike
        return name
    return found[1]


def summary(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Retention and differences to nulls at percentile 1, families drawn anew."""
    by = [{arm["arm"]: arm for arm in task["arms"] if arm["detail"] in ("", "p 1", "percentile 1")} for task in tasks]
    known = [arm for arm in ARMS if arm in by[0]]
    accuracy = {arm: np.array([row[arm]["accuracy"][0] for row in by]) for arm in known}
    family_t = np.array([family(task["task"]) for task in tasks])
    weight_bt = np.concatenate([np.ones((1, len(by)), np.int64), clustered(family_t, DRAWS, 0)])
    rows = []
    for arm in known[2:]:
        raw_t = accuracy[by[0][arm]["against"]]
        rows.append({"arm": arm, "retention": spread(ratio(accuracy[arm], raw_t, weight_bt))})
    pairs = [
        {"arm": arm, "null": null} | difference(accuracy[arm], accuracy[null], family_t)
        for arm, null in PAIRS
        if {arm, null} <= set(known)
    ]
    for pair, p in zip(pairs, holm(np.array([pair["p"] for pair in pairs])), strict=True):
        pair["p"] = float(p)
    return {
        "tasks": len(tasks),
        "families": len(set(family_t)),
        "arms": rows,
        "pairs": [{k: v if isinstance(v, str) else round(v, 4) for k, v in pair.items()} for pair in pairs],
    }


if __name__ == "__main__":
    main()
