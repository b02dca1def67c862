"""Refusal and Chinese: is a region better at taking them out than a single activation drawn at random?

    python -m experiments.studies.single BEHAVIOUR DATA --out FILE

Question, arms, nulls and rule: `ep_experiments/behaviours/PREREGISTRATION.md`. BEHAVIOUR is refusal or chinese; DATA is
a folder with refusal, labelled and corpora. What each direction did is kept beside FILE, so that a run goes on.

Shapes: n prompts, m directions, k regions, s tokens, v vocabulary, d = d_model.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ep_experiments import nulls
from ep_experiments.axbench.baselines import mean_members, partitions
from ep_experiments.behaviours.known import BEHAVIOURS, has_chinese
from ep_experiments.behaviours.prompts import advbench, harmbench
from ep_experiments.behaviours.scoring import judged
from ep_experiments.paired import difference
from ep_experiments.record import write_study
from exemplar_partitioning.act.edits import off, orthonormal
from exemplar_partitioning.act.localise import holm, last_activations, meets, rates
from exemplar_partitioning.files import to_json
from exemplar_partitioning.models.generate import encode, generate
from exemplar_partitioning.models.hooks import applied
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.models.loaded import LoadedModel
from exemplar_partitioning.models.sites import resolve_sites

SITE = "resid_post.18"
PERCENTILE = {"refusal": 5.0, "chinese": 20.0}
TRAIN, TEST, FIRST = 64, 104, 12  # prompts of each kind; tested; of those for nulls and other orders
ORDERS = 5
NULLS, OFF_AXIS = 20, 5
TOKENS = 12  # of an answer to a training prompt
BATCH = 12
FEWEST = 5  # prompts of a region
LONGEST = 48  # characters of a Chinese sentence to test on
ARMS = ("exemplar", "mean member", "difference of means")


@dataclass(frozen=True)
class Asked:
    """A behaviour with its prompts. opening: tokens after the prompt that are read, too; odds: from logits there."""

    showing: list[str]
    others: list[str]
    test: list[str]
    opening: list[int]
    odds: Callable[[Float[Tensor, "s v"]], float]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("behaviour", choices=sorted(PERCENTILE))
    options.add_argument("data", type=Path)
    options.add_argument("--seconds", type=float, default=math.inf, help="after which no more directions are tried")
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    begun = time.monotonic()
    loaded = load_model("qwen2.5-coder-0.5b-instruct", dtype="bfloat16", device="cpu")
    asked = (refusal if given.behaviour == "refusal" else chinese)(loaded, given.data)
    study = Study(loaded, given.behaviour, asked, given.out.with_suffix(".kept"), begun + given.seconds)
    about = {"behaviour": given.behaviour, "site": SITE, "percentile": PERCENTILE[given.behaviour]}
    for off_axis in (False, True):
        result = study.run(off_axis)
        write_study(given.out, "single activations", loaded.info, begun, about | result, study="single")


@dataclass
class Study:
    """Directions of every arm, and how far each takes the log-odds of a behaviour down."""

    loaded: LoadedModel
    name: str
    asked: Asked
    kept: Path
    until: float
    done: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kept.is_file():
            self.done = json.loads(self.kept.read_bytes())
        site = resolve_sites(SITE, self.loaded.architecture)[0]
        self.train = [*self.asked.showing, *self.asked.others]
        self.x_nd = last_activations(self.loaded, [site], self.train)[site]
        self.of_nd = dict(zip(("showing", "other"), self.x_nd.split(len(self.asked.showing)), strict=True))
        self.axis_d = normalize(self.of_nd["showing"].mean(dim=0) - self.of_nd["other"].mean(dim=0), dim=0)
        writes = [f"{p}.{i}" for i in range(self.loaded.info.n_layers) for p in ("attn_out_post", "mlp_out_post")]
        self.writes = ["resid_pre.0", *writes]

    def run(self, off_axis: bool) -> dict[str, Any]:
        """Every direction; those off the axis as well, or not yet."""
        shows_n = self._shows()
        main, regions_kd = self._regions(shows_n == 1)
        arms: dict[str, list[Tensor]] = {}
        for name, v_d in main:
            arms.setdefault(name, []).append(v_d)
        sets = {name: torch.stack(of) for name, of in arms.items()} | self._nulls(regions_kd)
        if off_axis:
            apart = (name for name in sets if name not in ("difference of means", "random direction"))
            sets |= {f"{name} off the axis": self._off_axis(sets[name][:OFF_AXIS]) for name in list(apart)}
        plain_n = self._odds("plain", self.asked.test, None)
        rows: list[dict[str, Any]] = []
        fall: dict[str, list[np.ndarray]] = {}
        every = [(name, i, v_d) for name, v_md in sets.items() for i, v_d in enumerate(v_md)]
        for name, i, v_d in sorted(every, key=lambda each: (each[0] not in ARMS, each[1])):  # of all nulls alike
            prompts, key = self.asked.test[: TEST if name in ARMS and i == 0 else FIRST], f"{name} {i}"
            if f"odds {key}" not in self.done and time.monotonic() > self.until:
                continue
            fall_n = plain_n[: len(prompts)] - self._odds(key, prompts, v_d)
            fall.setdefault(name, []).append(fall_n[:FIRST])
            found = difference(fall_n, np.zeros(len(fall_n)))
            facts = {"cosine": round(float(v_d @ self.axis_d), 3), "prompts": len(prompts)}
            rows.append({"name": name} | facts | {"fall": [round(found[k], 3) for k in ("difference", "low", "high")]})
        counts = {"train": len(self.train), "shown": int((shows_n == 1).sum()), "test": len(plain_n), "first": FIRST}
        return {
            "prompts": counts | {"regions": len(regions_kd) / ORDERS},
            "plain": round(float(plain_n.mean()), 3),
            "directions": rows,
            "tests": tests(fall),
        }

    def _regions(self, shows_n: np.ndarray) -> tuple[list[tuple[str, Tensor]], Tensor]:
        """Exemplar and mean member of the region that surely shows it, in several orders; and all exemplars."""
        main, every = [("difference of means", self.axis_d)], []
        for order in range(ORDERS):
            rows = np.random.default_rng(order).permutation(len(self.x_nd))
            percentile = PERCENTILE[self.name]
            d = partitions(self.x_nd[torch.from_numpy(rows)], [percentile])[percentile]
            known = rates(meets(d, self.x_nd, np.arange(len(self.x_nd))), shows_n)
            best = max((r for r in known if r.prompts >= FEWEST), key=lambda r: r.low).region
            mean_d = torch.from_numpy(mean_members(d, self.x_nd)[best])
            main += [("exemplar", d.exemplars[best]), ("mean member", normalize(mean_d, dim=0))]
            every.append(d.exemplars)
        return main, torch.cat(every)

    def _nulls(self, regions_kd: Tensor) -> dict[str, Tensor]:
        """Sets of directions that are no region chosen for the behaviour."""
        centre_d = self.x_nd.mean(dim=0)
        made = {
            f"single activation, {kind}": normalize(x_nd[nulls.random_rows(len(x_nd), NULLS, 0)] - centre_d, dim=1)
            for kind, x_nd in self.of_nd.items()
        }
        made["random region"] = regions_kd[nulls.random_rows(len(regions_kd), NULLS, 0)]
        return made | {"random direction": nulls.gaussian_directions(self.x_nd.shape[1], NULLS, 0)}

    def _off_axis(self, v_d: Tensor) -> Tensor:
        return normalize(v_d - (v_d @ self.axis_d)[..., None] * self.axis_d, dim=-1)

    def _shows(self) -> np.ndarray:
        """Which answers to training prompts show it."""

        def shows() -> list[float]:
            written = generate(self.loaded, self.train, max_new_tokens=TOKENS)
            return judged(BEHAVIOURS[self.name].shows, written).tolist()

        return self._once("shows train", None, shows)

    def _odds(self, key: str, prompts: Sequence[str], v_d: Tensor | None) -> np.ndarray:
        return self._once(f"odds {key}", v_d, lambda: self._read(prompts))

    def _once(self, key: str, v_d: Tensor | None, make: Callable[[], list[float]]) -> np.ndarray:
        """What was made before, or is made without a direction and kept."""
        if key not in self.done:
            with self._without(v_d), torch.inference_mode():
                self.done[key] = make()
            self.kept.write_bytes(to_json(self.done))
        return np.array(self.done[key])

    def _read(self, prompts: Sequence[str]) -> list[float]:
        """Log-odds of the behaviour where each answer begins. What all prompts begin with is read once."""
        opening, model = self.asked.opening, self.loaded.model
        windows = [[*encode(self.loaded, prompt), *opening] for prompt in prompts]
        alike = (len(set(column)) == 1 for column in zip(*windows, strict=False))
        shared = windows[0][: next(i for i, same in enumerate([*alike, False]) if not same)]
        before = model.model(input_ids=torch.tensor([shared]), use_cache=True).past_key_values
        rest = [window[len(shared) :] for window in windows]
        order, odds_n = np.argsort([len(w) for w in rest], kind="stable"), np.zeros(len(rest))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            longest = max(len(rest[i]) for i in batch)
            ids_bs = torch.tensor([rest[i] + [0] * (longest - len(rest[i])) for i in batch])
            mask_bs = torch.tensor([[1] * len(windows[i]) + [0] * (longest - len(rest[i])) for i in batch])
            cache = copy.deepcopy(before)
            cache.batch_repeat_interleave(len(batch))
            read = model.model(input_ids=ids_bs, attention_mask=mask_bs, past_key_values=cache, use_cache=True)
            for row, i in enumerate(batch):
                at = len(rest[i]) - len(opening) - 1
                logits_sv = model.lm_head(read.last_hidden_state[row, at : at + len(opening) + 1])
                odds_n[i] = self.asked.odds(logits_sv.float().log_softmax(dim=-1))
        return odds_n.tolist()

    def _without(self, v_d: Tensor | None) -> AbstractContextManager[Any]:
        if v_d is None:
            return nullcontext()
        return applied(self.loaded.model, off(orthonormal(v_d[None]), torch.zeros_like(v_d)), self.writes)


def tests(fall: dict[str, list[np.ndarray]]) -> list[dict[str, Any]]:
    """Every arm, the mean of its orders, beside every null's mean on the same prompts, and among its members."""
    found = []
    for name, of in fall.items():
        kind, apart, _ = name.partition(" off the axis")
        if kind not in ARMS[:2]:
            continue
        mean_n = np.mean(of, axis=0)
        for null, members in fall.items():
            if null.removesuffix(apart) in ARMS or null.endswith(" off the axis") != bool(apart):
                continue
            member_m = np.array([member.mean() for member in members])
            found.append({
                "arm": name,
                "null": null,
                "fall": mean_n.mean(),
                "null_fall": member_m.mean(),
                "null_low": member_m.min(),
                "null_high": member_m.max(),
                "reached": int((member_m >= mean_n.mean()).sum()),
                "members": len(member_m),
            } | difference(mean_n, np.mean(members, axis=0)))  # fmt: skip
    for row, p in zip(found, holm(np.array([row["p"] for row in found])), strict=True):
        row["p"] = p
    return [{k: v if isinstance(v, str | int) else round(float(v), 4) for k, v in row.items()} for row in found]


def refusal(loaded: LoadedModel, data: Path) -> Asked:
    """Harmful and harmless prompts to find regions with, and new harmful ones of other authors to test on."""
    rng = np.random.default_rng(0)

    def read(name: str) -> list[str]:
        file = data / "refusal" / f"{name}.json.gz"
        return [row["instruction"].strip() for row in json.loads(gzip.decompress(file.read_bytes()))]

    used = {_plain(p) for p in (*advbench(), *harmbench())}
    new = [p for p in (*read("harmful_train"), *read("harmful_val")) if _plain(p) not in used]
    test = [str(p) for p in rng.permutation(new)[:TEST]]
    harmful = [str(p) for p in rng.permutation(advbench())[:TRAIN]]
    harmless = [str(p) for p in rng.permutation(read("harmless_val"))[:TRAIN]]
    sorry, sure = (loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("I'm sorry", "Sure"))

    def odds(logp_sv: Tensor) -> float:
        return float(sum(logp_sv[s, token] for s, token in enumerate(sorry)) - logp_sv[0, sure[0]])

    return Asked(harmful, harmless, test, sorry[:-1], odds)


def chinese(loaded: LoadedModel, data: Path) -> Asked:
    """Sentences in Chinese and English to find regions with, and first sentences of Chinese paragraphs to test on."""
    rng = np.random.default_rng(0)

    def read(file: Path, key: str, value: str) -> list[str]:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return [row["text"].strip() for row in map(json.loads, lines) if row[key] == value]

    sentences = data / "labelled" / "pud_18_languages.jsonl.gz"
    zh, en = (rng.permutation(read(sentences, "lang", name))[:TRAIN] for name in ("Chinese", "English"))
    paragraphs = read(data / "corpora" / "multilingual.jsonl.gz", "source", "xquad_zh")
    firsts = dict.fromkeys(p.split("。")[0] + "。" for p in paragraphs)
    test = rng.permutation([sentence for sentence in firsts if len(sentence) <= LONGEST])[:TEST]
    texts = loaded.tokenizer.batch_decode([[i] for i in range(len(loaded.tokenizer))])
    of_v = torch.tensor([i for i, text in enumerate(texts) if has_chinese(text)])

    def odds(logp_sv: Tensor) -> float:
        in_chinese = logp_sv[0, of_v].double().logsumexp(dim=0)
        return float(in_chinese - torch.log(-torch.expm1(in_chinese.clamp(max=-1e-9))))

    return Asked([str(p) for p in zh], [str(p) for p in en], [str(p) for p in test], [], odds)


def _plain(prompt: str) -> str:
    return prompt.lower().strip().rstrip(".")


if __name__ == "__main__":
    main()
