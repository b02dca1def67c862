"""Refusal: is a region's exemplar better at taking it out than a single activation drawn at random?

    python -m experiments.studies.single REFUSAL_FOLDER --out FILE

Question, arms, nulls and rule: `ep_experiments/behaviours/PREREGISTRATION.md`. The folder holds harmful_train.json.gz,
harmful_val.json.gz and harmless_val.json.gz of Arditi et al.

Shapes: n prompts, d = d_model.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ep_experiments import nulls
from ep_experiments.behaviours.known import refuses
from ep_experiments.behaviours.prompts import advbench, harmbench
from ep_experiments.behaviours.scoring import judged
from ep_experiments.paired import above_null, difference
from ep_experiments.record import write_study
from exemplar_partitioning.act.edits import off, orthonormal
from exemplar_partitioning.act.localise import holm, last_activations, rates, wilson
from exemplar_partitioning.core.calibration import calibrate
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.models.generate import encode, generate
from exemplar_partitioning.models.hooks import applied
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.models.loaded import LoadedModel
from exemplar_partitioning.models.sites import resolve_sites

SITE = "resid_post.18"
PERCENTILE = 5.0
TRAIN, TEST, FIRST, ANSWERED = 64, 104, 16, 24  # prompts of each kind; tested; of those for nulls; answered
ORDERS = 3
NULLS, OFF_AXIS = 20, 10
BATCH = 12
FEWEST = 5  # prompts of a region


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    begun = time.monotonic()
    loaded = load_model("qwen2.5-coder-0.5b-instruct", dtype="bfloat16", device="cpu")
    result = Study(loaded, given.folder).run()
    about = {"site": SITE, "percentile": PERCENTILE}
    write_study(given.out, "single activations", loaded.info, begun, about | result, study="single")


class Study:
    """Directions of every arm, and how far each takes the log-odds of a refusal down."""

    def __init__(self, loaded: LoadedModel, folder: Path):
        self.loaded = loaded
        harmful, harmless, self.test = prompts(folder)
        self.train = [*harmful, *harmless]
        site = resolve_sites(SITE, loaded.architecture)[0]
        self.x_nd = last_activations(loaded, [site], self.train)[site]
        n = len(harmful)
        self.harmful, self.harmless = self.x_nd[:n], self.x_nd[n:]
        self.axis_d = normalize(self.harmful.mean(dim=0) - self.harmless.mean(dim=0), dim=0)
        writes = [f"{p}.{i}" for i in range(loaded.info.n_layers) for p in ("attn_out_post", "mlp_out_post")]
        self.writes = ["resid_pre.0", *writes]
        tokenizer = loaded.tokenizer
        self.sorry, self.sure = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("I'm sorry", "Sure")
        )

    def run(self) -> dict[str, Any]:
        before = self._answers(self.train)
        main, regions = self._regions(before == 1)
        centre_d = self.x_nd.mean(dim=0)
        draw = np.random.default_rng(0)
        singles = {
            kind: normalize(x_nd[nulls.random_rows(len(x_nd), NULLS, 0)] - centre_d, dim=1)
            for kind, x_nd in (("harmful activation", self.harmful), ("harmless activation", self.harmless))
        }
        off_axis = singles["harmful activation"][:OFF_AXIS]
        off_axis = normalize(off_axis - (off_axis @ self.axis_d)[:, None] * self.axis_d, dim=1)
        sets = {
            **singles,
            "random region": regions[draw.choice(len(regions), NULLS, replace=len(regions) < NULLS)],
            "random direction": nulls.gaussian_directions(self.x_nd.shape[1], NULLS, 0),
            "harmful activation off the axis": off_axis,
        }
        plain_n = self._log_odds(self.test, None)
        arms = [self._arm(name, v_d, plain_n, self.test) for name, v_d in main]
        null_rows = [
            {"null": name} | self._arm(name, v_d, plain_n[:FIRST], self.test[:FIRST])
            for name, set_kd in sets.items()
            for v_d in set_kd
        ]
        answered = self.test[:ANSWERED]
        shown = {"no intervention": self._rate(answered, None)}
        for name in ("exemplar", "mean member", "difference of means"):
            shown[name] = self._rate(answered, next(v_d for arm, v_d in main if arm == name))
        for name in singles:
            shown[name] = self._rate(answered, singles[name][0])
        return {
            "prompts": {
                "train": len(self.train),
                "refused": int((before == 1).sum()),
                "test": len(self.test),
                "first": FIRST,
            },
            "plain": round(float(plain_n.mean()), 3),
            "arms": arms,
            "nulls": null_rows,
            "tests": tests(arms, null_rows),
            "answers": shown,
        }

    def _regions(self, shows_n: np.ndarray) -> tuple[list[tuple[str, Tensor]], Tensor]:
        """Exemplar and mean member of the region that surely shows it, in several orders; and all exemplars."""
        main, every = [("difference of means", self.axis_d)], []
        for order in range(ORDERS):
            rows = np.random.default_rng(order).permutation(len(self.x_nd))
            x_nd = self.x_nd[torch.from_numpy(rows)]
            calibration = calibrate([x_nd], [PERCENTILE])
            clustering = LeaderClustering(calibration.center, calibration.thresholds[PERCENTILE])
            clustering.add(x_nd)
            d = Dictionary(calibration.center, clustering.exemplars.clone(), clustering.threshold)
            ids_n, _ = d.assign(self.x_nd.numpy())
            meets_nk = np.zeros((len(ids_n), d.k), bool)
            meets_nk[np.arange(len(ids_n)), ids_n] = True
            known = [r for r in rates(meets_nk, shows_n) if r.prompts >= FEWEST]
            best = max(known, key=lambda r: r.low).region
            member_nd = self.x_nd[torch.from_numpy(ids_n == best)] - d.center
            main += [
                ("exemplar", d.exemplars[best]),
                ("mean member", normalize(normalize(member_nd, dim=1).mean(dim=0), dim=0)),
            ]
            every.append(d.exemplars)
        return main, torch.cat(every)

    def _arm(self, name: str, v_d: Tensor, plain_n: np.ndarray, prompts: Sequence[str]) -> dict[str, Any]:
        fall_n = plain_n - self._log_odds(prompts, v_d)
        found = difference(fall_n, np.zeros(len(fall_n)))
        first = float(fall_n[:FIRST].mean())
        return {
            "name": name,
            "cosine": round(float(v_d @ self.axis_d), 3),
            "fall": [round(found[key], 3) for key in ("difference", "low", "high")],
            "first": round(first, 4),
        }

    def _log_odds(self, prompts: Sequence[str], v_d: Tensor | None) -> Float[np.ndarray, " n"]:
        """Of the opening of a refusal against that of compliance, where the answer begins."""
        windows = [[*encode(self.loaded, prompt), *self.sorry] for prompt in prompts]
        order, odds_n = np.argsort([len(w) for w in windows], kind="stable"), np.zeros(len(windows))
        model = self.loaded.model
        with self._without(v_d), torch.inference_mode():
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                longest = max(len(windows[i]) for i in batch)
                ids_bs = torch.zeros((len(batch), longest), dtype=torch.long)
                mask_bs = torch.zeros_like(ids_bs)
                for row, i in enumerate(batch):
                    ids_bs[row, : len(windows[i])] = torch.tensor(windows[i])
                    mask_bs[row, : len(windows[i])] = 1
                hidden_bsd = model.model(input_ids=ids_bs, attention_mask=mask_bs, use_cache=False).last_hidden_state
                for row, i in enumerate(batch):
                    at = len(windows[i]) - len(self.sorry) - 1
                    logp_sv = model.lm_head(hidden_bsd[row, at : at + len(self.sorry)]).float().log_softmax(dim=-1)
                    sorry = sum(float(logp_sv[s, token]) for s, token in enumerate(self.sorry))
                    odds_n[i] = sorry - float(logp_sv[0, self.sure[0]])
        return odds_n

    def _without(self, v_d: Tensor | None) -> Any:
        edit = (lambda x_nd: x_nd) if v_d is None else off(orthonormal(v_d[None]), torch.zeros_like(v_d))
        return applied(self.loaded.model, edit, self.writes if v_d is not None else self.writes[:1])

    def _answers(self, prompts: Sequence[str], v_d: Tensor | None = None) -> np.ndarray:
        with self._without(v_d):
            return judged(refuses, generate(self.loaded, prompts, max_new_tokens=16))

    def _rate(self, prompts: Sequence[str], v_d: Tensor | None) -> list[float]:
        shows_n = self._answers(prompts, v_d)
        low, high = wilson(np.array([np.nansum(shows_n)]), np.array([len(shows_n)]))
        return [round(float(np.nanmean(shows_n)), 3), round(float(low[0]), 3), round(float(high[0]), 3)]


def tests(arms: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every kind of arm, the mean of its orders, against every null on the same prompts; corrected together."""
    found = []
    for name in dict.fromkeys(arm["name"] for arm in arms):
        value = float(np.mean([arm["first"] for arm in arms if arm["name"] == name]))
        for null in dict.fromkeys(row["null"] for row in rows):
            fall_m = np.array([row["first"] for row in rows if row["null"] == null])
            facts = {"arm": name, "null": null, "fall": value, "null_fall": fall_m.mean(), "null_high": fall_m.max()}
            found.append({k: v if isinstance(v, str) else round(float(v), 3) for k, v in facts.items()})
            found[-1]["p"] = above_null(value, fall_m)
    for row, p in zip(found, holm(np.array([row["p"] for row in found])), strict=True):
        row["p"], row["p_corrected"] = round(row["p"], 4), round(float(p), 4)
    return found


def prompts(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Harmful and harmless prompts to find regions with, and new harmful ones of other authors to test on."""
    rng = np.random.default_rng(0)

    def read(name: str) -> list[str]:
        return [row["instruction"].strip() for row in json.loads(gzip.decompress((folder / name).read_bytes()))]

    used = {_plain(p) for p in (*advbench(), *harmbench())}
    new = [p for p in (*read("harmful_train.json.gz"), *read("harmful_val.json.gz")) if _plain(p) not in used]
    test = [str(p) for p in rng.permutation(new)[:TEST]]
    harmful = [str(p) for p in rng.permutation(advbench())[:TRAIN]]
    return harmful, [str(p) for p in rng.permutation(read("harmless_val.json.gz"))[:TRAIN]], test


def _plain(prompt: str) -> str:
    return prompt.lower().strip().rstrip(".")


if __name__ == "__main__":
    main()
