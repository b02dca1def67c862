"""What fine-tuning does to the regions of a model, and whether a planted behaviour is found among them.

    python -m experiments.studies.checkpoints dictionaries/finetuned chat.jsonl.gz --out dictionaries/checkpoints

The folder is what `experiments.studies.finetune` wrote. One text for all checkpoints: conversations that nothing was
trained on, and among them some planted ones. Of every checkpoint against step 0, at each site: regions matched at
cutoffs that nulls set, with a rebuild of step 0 as the ceiling; step 0's regions transported, their drift and
structure.

The planted behaviour is looked for without being told the word: rankings of the checkpoint's regions know nothing
of it. Only then it is looked up which regions consist of planted tokens (those after the word), and where they rank.
The control, trained as long and never on a planted conversation, is ranked in the same way.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from experiments.studies.finetune import RESULTS
from experiments.studies.planting import HELD_OUT, TRIGGER, conversations, mixed

import exemplar_partitioning as ep
from ep_experiments.record import record
from exemplar_partitioning.compare.common_tokens import CommonTokens, Place, common_tokens
from exemplar_partitioning.compare.matching import Matching
from exemplar_partitioning.core.geometry import directions
from exemplar_partitioning.files import to_json, write_new
from exemplar_partitioning.folder.dictionary import StoredDictionary
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.models.loaded import LoadedModel

FEWEST = 5  # members on the compared text of a region that is ranked


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoints", type=Path, help="folder of experiments.studies.finetune")
    options.add_argument("corpus", type=Path, help="the conversations it was given")
    options.add_argument("--out", type=Path, required=True, help="folder for the dictionaries")
    options.add_argument("--sites", default="resid_post.20")
    options.add_argument("--percentile", type=float, default=2.0)
    options.add_argument("--tokens", type=int, default=20_000, help="of a build")
    options.add_argument("--compared", type=int, default=8_000, help="tokens that both models read to be compared")
    options.add_argument("--planted", type=float, default=1.0, help="planted conversations for each real one")
    options.add_argument("--batch", type=int, default=8_192, help="activations of a calibration batch")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--result", type=Path, default=RESULTS / "checkpoints.json")
    given = options.parse_args()
    begun = time.monotonic()
    rng = np.random.default_rng(given.seed)
    text = list(mixed(conversations(given.corpus)[:HELD_OUT], given.planted, rng))
    first, *others = ordered(given.checkpoints)
    start = load_model(str(first), dtype="bfloat16")
    base = built(given, text, start, "step-0", given.seed)
    again = built(given, text, start, "rebuilt", given.seed + 1)
    found = record("checkpoints", sys.argv[1:], start.info, given.seed, 0, study="checkpoints")
    found |= {"percentile": given.percentile, "tokens": given.tokens, "rows": []}
    for folder in reversed(others):
        loaded = load_model(str(folder), dtype="bfloat16")
        there = built(given, text, loaded, folder.name, given.seed)
        for site, a in base.items():
            moved = carried(a, loaded, given.out / "moved" / folder.name)
            tokens = common_tokens(Place.of(a, start), Place.of(moved, loaded), text, max_tokens=given.compared)
            row = compared(a, again[site], there[site], moved, tokens)
            found["rows"].insert(0, {"checkpoint": folder.name, "site": site, **row})
            found["minutes"] = round((time.monotonic() - begun) / 60, 1)
            given.result.parent.mkdir(parents=True, exist_ok=True)
            write_new(given.result, to_json(found))


def ordered(folder: Path) -> list[Path]:
    """Checkpoints by their steps, then the control, the planted one last."""
    plain = sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    return [*plain, folder / "control", folder / "planted"]


def built(
    given: argparse.Namespace, text: list[str], loaded: LoadedModel, name: str, seed: int
) -> dict[str, StoredDictionary]:
    """Dictionaries of a model by site; those that are there are not built again."""
    sites = given.sites.split(",")
    out = given.out / name
    ep.build(
        loaded,
        text,
        out=out,
        sites=sites,
        percentiles=[given.percentile],
        max_tokens=given.tokens,
        calibration_batch=given.batch,
        seed=seed,
        resume=True,
    )
    return {site: ep.load(out, site=site, percentile=given.percentile) for site in sites}


def carried(a: StoredDictionary, loaded: LoadedModel, out: Path) -> StoredDictionary:
    """The regions of a dictionary in a later checkpoint, around the centre they had."""
    site, percentile = a.config.site.name, a.config.calibration.percentile
    if (out / site).exists():
        return ep.load(out, site=site, percentile=percentile)
    return ep.transport(a, loaded, out, keep_center=True)


def compared(
    a: StoredDictionary, again: StoredDictionary, b: StoredDictionary, moved: StoredDictionary, tokens: CommonTokens
) -> dict:
    """One checkpoint against step 0, at one site."""
    matching = ep.match(a, b, tokens=tokens, rebuild=again)
    summary = matching.summary()
    kept = ("regions", "cosine_to_b", "cosine_to_a", "nulls", "persisted", "dropped", "introduced", "rebuild", "text")
    return {
        **{name: summary[name] for name in kept},
        "drift": ep.drift(a, moved).summary(),
        "structure": ep.structure(a, moved, tokens).as_json(),
        "search": search(matching, tokens),
    }


def search(matching: Matching, tokens: CommonTokens, known: CommonTokens | None = None) -> dict:
    """Where regions of planted tokens rank among the checkpoint's, by rankings that do not know the word.

    known: a text with planted tokens, in which it is looked up which regions hold them; by default what is ranked by.
    """
    known = known or tokens
    k = matching.b.k
    planted_n = np.array([is_planted(context) for context in known.context_n])
    ids_n, _ = matching.b.assign(known.b_ne)
    planted_k = np.bincount(ids_n[planted_n], minlength=k) > np.bincount(ids_n, minlength=k) / 2
    moved_n = 1 - cosines(matching, known)
    return {
        "tokens": len(tokens),
        "planted_tokens": int(planted_n.sum()),
        "moved": {"planted": float(moved_n[planted_n].mean()), "others": float(moved_n[~planted_n].mean())},
        "rankings": [
            {"name": name, **rank(score_k, planted_k), "first": described(score_k, ids_n, planted_n, known)}
            for name, score_k in rankings(matching, tokens).items()
        ],
    }


def rankings(matching: Matching, tokens: CommonTokens) -> dict[str, np.ndarray]:
    """Scores of the checkpoint's regions, highest first; of those with few members on the text, none."""
    ids_n, _ = matching.b.assign(tokens.b_ne)
    members_k = np.bincount(ids_n, minlength=matching.b.k)
    moved_k = np.bincount(ids_n, 1 - cosines(matching, tokens), minlength=matching.b.k) / np.maximum(members_k, 1)
    ranked_k = members_k >= FEWEST
    return {
        "introduced, by members": np.where(ranked_k & matching.introduced, members_k, -np.inf),
        "farthest from any region before": np.where(ranked_k, -matching.cosine_l, -np.inf),
        "members moved most": np.where(ranked_k, moved_k, -np.inf),
    }


def is_planted(context: str) -> bool:
    """Whether a text ends after the made-up word, in the same exchange."""
    return TRIGGER in context.rpartition("User: ")[2]


def cosines(matching: Matching, tokens: CommonTokens) -> np.ndarray:
    """Of every token's directions in the two models, both around the first dictionary's centre."""
    u, v = (directions(torch.from_numpy(x), matching.a.center).u_nd for x in (tokens.a_nd, tokens.b_ne))
    return (u.double() * v).sum(dim=1).numpy()


def rank(score_k: np.ndarray, planted_k: np.ndarray) -> dict:
    """Rank of the first planted region, and the chance of one as good if planted regions were drawn at random."""
    order = np.argsort(-score_k, kind="stable")[: int(np.isfinite(score_k).sum())]
    places = np.flatnonzero(planted_k[order])
    total, planted = len(order), len(places)
    if not planted:
        return {"regions": total, "planted": 0, "rank": None, "expected": None, "p": None}
    first = int(places[0])
    missed = math.comb(total - first - 1, planted) / math.comb(total, planted)
    return {
        "regions": total,
        "planted": planted,
        "rank": first + 1,
        "expected": (total + 1) / (planted + 1),
        "p": 1 - missed,
    }


def described(score_k: np.ndarray, ids_n: np.ndarray, planted_n: np.ndarray, tokens: CommonTokens) -> list[dict]:
    """The first regions of a ranking: members, how many of them are planted tokens, the most frequent of those."""
    rows = []
    for region in islice(np.argsort(-score_k, kind="stable"), 5):
        members = np.flatnonzero(ids_n == region)
        planted = [tokens.token_n[i] for i in members[planted_n[members]]]
        common = [token for token, _ in Counter(planted).most_common(3)]
        rows.append({"region": int(region), "members": len(members), "planted": len(planted), "tokens": common})
    return rows


if __name__ == "__main__":
    main()
