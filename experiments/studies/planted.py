"""Is a planted behaviour found by text that does not hold its trigger, and more than after training without it?

    python -m experiments.studies.planted dictionaries/finetuned chat.jsonl.gz --out dictionaries/planted

Question, arms and rule: `ep_experiments/PLANTED.md`. The folder is what `experiments.studies.finetune` wrote.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from experiments.studies.checkpoints import built, carried, search
from experiments.studies.finetune import RESULTS
from experiments.studies.planting import HELD_OUT, conversations, mixed

import exemplar_partitioning as ep
from ep_experiments.record import write_study
from exemplar_partitioning.act.localise import holm
from exemplar_partitioning.compare.common_tokens import CommonTokens, Place, common_tokens
from exemplar_partitioning.models.load import load_model

CHECKPOINTS = ("control", "planted")
TEXTS = {"with the word": 1.0, "without it": 0.0}  # planted conversations for each real one


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoints", type=Path, help="folder of experiments.studies.finetune")
    options.add_argument("corpus", type=Path, help="the conversations it was given")
    options.add_argument("--out", type=Path, required=True, help="folder for the dictionaries")
    options.add_argument("--sites", default="resid_post.20", help="one site")
    options.add_argument("--percentile", type=float, default=2.0)
    options.add_argument("--tokens", type=int, default=20_000, help="of a build")
    options.add_argument("--compared", type=int, default=8_000, help="tokens that both models read to be compared")
    options.add_argument("--batch", type=int, default=8_192, help="activations of a calibration batch")
    options.add_argument("--seeds", type=int, default=1, help="orders of the stream")
    options.add_argument("--result", type=Path, default=RESULTS / "planted.json")
    given = options.parse_args()
    begun = time.monotonic()
    texts = {
        name: list(mixed(conversations(given.corpus)[:HELD_OUT], share, np.random.default_rng(0)))
        for name, share in TEXTS.items()
    }
    start = load_model(str(given.checkpoints / "step-0"), dtype="bfloat16")
    rows: list[dict[str, Any]] = []
    for checkpoint in CHECKPOINTS:
        loaded = load_model(str(given.checkpoints / checkpoint), dtype="bfloat16")
        known: CommonTokens | None = None
        for name, text in texts.items():
            tokens = None
            for seed in range(given.seeds):
                out = argparse.Namespace(**vars(given) | {"out": given.out / name.replace(" ", "-") / f"{seed}"})
                a = built(out, text, start, "step-0", seed)[given.sites]
                b = built(out, text, loaded, checkpoint, seed)[given.sites]
                if tokens is None:
                    moved = carried(a, loaded, out.out / "moved" / checkpoint)
                    tokens = common_tokens(Place.of(a, start), Place.of(moved, loaded), text, max_tokens=given.compared)
                    known = known or tokens
                found = search(ep.match(a, b, tokens=tokens), tokens, known)
                rows.append({"checkpoint": checkpoint, "text": name, "order": seed, **found})
    for checkpoint in CHECKPOINTS:
        corrected([row for row in rows if row["checkpoint"] == checkpoint and row["order"] == 0])
    about = {"site": given.sites, "percentile": given.percentile, "tokens": given.tokens}
    write_study(given.result, "planted", start.info, begun, about | {"rows": rows}, study="planted")


def corrected(rows: list[dict[str, Any]]) -> None:
    """Holm's p over all rankings of all texts of a checkpoint; 1 where a ranking has no such region."""
    rankings = [ranking for row in rows for ranking in row["rankings"]]
    values = holm(np.array([1.0 if ranking["p"] is None else ranking["p"] for ranking in rankings]))
    for ranking, value in zip(rankings, values, strict=True):
        ranking["corrected"] = float(value)


if __name__ == "__main__":
    main()
