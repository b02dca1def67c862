"""Does a region carry a behaviour? Found on some prompts, chosen on others, tried on prompts kept apart.

1. The model answers training prompts; a plain rule says which answers show the behaviour.
2. Dictionaries of the last position of the same prompts, at several sites and percentiles; in each, the regions
   whose prompts show the behaviour most surely (`localise`).
3. Their exemplars and mean members are ablated from the whole residual stream while the model answers validation
   prompts. Site, percentile, region and basis are chosen there.
4. What was chosen, and its controls, on test prompts: a region of like size without the behaviour, random
   directions, and the difference of means of the two kinds of prompts (Arditi et al. 2024), which knows the labels.

Protocols 2.1 and 2.2, with the intervals, controls and kept-apart prompts that those lack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..annotation import annotate
from ..builder import build
from ..errors import EPError
from ..interventions import ablate, ablate_everywhere, steer, swap
from ..interventions.acting import Direction, directions_of
from ..localisation import RegionRate, last_activations, meets, rates
from ..models.load import LoadedModel
from ..models.sites import resolve_sites
from ..store import StoredDictionary, find, load
from ..stream import text_chunks
from ..text.documents import Sources, read_documents
from .behaviours import Behaviour
from .prompts import Prompts
from .scoring import Answers, answers, paired, perplexity

Tell = Callable[[str, int, int], None]
"""Takes what is being done, how far it is, and how much there is."""

Keep = Callable[[str, Answers], None]
"""Takes what was tried on test prompts, and the answers to them."""

FLUENT = 0.9  # of the unique-word ratio without intervention; below, a candidate is not chosen
FEWEST = 5  # prompts a region must have met to be a candidate
ALPHAS = (0.25, 0.5, 1.0)  # typical residual norms
SPANS = (2, 3, 5)  # regions whose exemplars are ablated together


@dataclass(frozen=True)
class Plan:
    """Sizes of an experiment. layers: blocks after which the residual stream is looked at.

    candidates: regions tried of each dictionary.  random: random directions in the control.
    ppl_windows: windows of 128 tokens of ordinary text for the perplexity.
    """

    layers: tuple[int, ...]
    percentiles: tuple[float, ...] = (5.0, 10.0, 20.0)
    candidates: int = 2
    random: int = 20
    max_new_tokens: int = 24
    ppl_windows: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Arm:
    """One intervention: what it is, and how to open it."""

    name: str
    about: str
    opened: Callable[[], AbstractContextManager[None]] = nullcontext
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A region that may carry the behaviour."""

    dictionary: StoredDictionary
    rate: RegionRate

    @property
    def details(self) -> dict[str, Any]:
        return {
            "site": self.dictionary.config.site.name,
            "percentile": self.dictionary.config.calibration.percentile,
            "k": self.dictionary.k,
            "region": self.rate.region,
            "prompts": self.rate.prompts,
            "rate_in_training": round(self.rate.rate, 4),
        }


def run(
    behaviour: Behaviour,
    loaded: LoadedModel,
    prompts: Prompts,
    plan: Plan,
    out: Path,
    tell: Tell,
    text: Sources = None,
    keep: Keep = lambda *_: None,
) -> dict:
    """The whole experiment; its dictionaries stay in `out`, annotated, to be looked at.

    text: ordinary text for the perplexity; None for the packaged one.
    keep: given the answers to test prompts, which are dropped otherwise.

    Returns plain values: what was found, and every arm's figures.

    Raises:
        EPError: the model never, or always, shows the behaviour, or no region carries it.
    """
    return _Experiment(behaviour, loaded, prompts, plan, out, tell, text, keep).run()


class _Experiment:
    def __init__(
        self,
        behaviour: Behaviour,
        loaded: LoadedModel,
        prompts: Prompts,
        plan: Plan,
        out: Path,
        tell: Tell,
        text: Sources,
        keep: Keep,
    ):
        self.behaviour, self.loaded, self.prompts, self.plan = behaviour, loaded, prompts, plan
        self.out, self.tell, self.text, self.keep = out, tell, text, keep
        self.sites = [f"resid_post.{layer}" for layer in plan.layers]
        self.train = [*prompts.train[0], *prompts.train[1]]

    def run(self) -> dict:
        self.tell("answers to the training prompts", 0, 1)
        before = self._answers(self.train)
        shows_n = before.shows == 1
        if shows_n.all() or not shows_n.any():
            raise EPError(
                f"{int(shows_n.sum())} of {len(shows_n)} answers to training prompts show it ({self.behaviour.about}); "
                "some must and some must not: give other prompts"
            )
        dictionaries = self._dictionaries()
        self._read_training_prompts(dictionaries, shows_n)
        self.plain = {part: [self._answers(p) for p in getattr(self.prompts, part)] for part in ("validation", "test")}
        self.keep("no intervention", self.plain["test"][0])
        sweep, chosen = self._choose()
        arms = self._arms(chosen)
        windows = self._ordinary_text()
        plain_ppl = perplexity(self.loaded, windows)
        tried = []
        for number, arm in enumerate(arms):
            self.tell(f"test prompts: {arm.name}", number, len(arms))
            tried.append(self._try(arm, windows, plain_ppl))
        return {
            "behaviour": {"name": self.behaviour.name, "about": self.behaviour.about},
            "training": {"prompts": len(shows_n), "showing": int(shows_n.sum())},
            "validation": self.plain["validation"][0].record(),
            "baseline": self.plain["test"][0].record() | {"scores": self.plain["test"][0].scores},
            "baseline_others": self.plain["test"][1].record(),
            "perplexity": round(plain_ppl, 3),
            "dictionaries": [self._described(d) for d in dictionaries],
            "sweep": sweep,
            "arms": tried,
            "induced": self._induced(chosen),
        }

    def _answers(self, prompts: Sequence[str]) -> Answers:
        b = self.behaviour
        return answers(self.loaded, prompts, b.shows, b.strictly, max_new_tokens=self.plan.max_new_tokens)

    def _dictionaries(self) -> list[StoredDictionary]:
        self.tell("dictionaries of the training prompts", 0, 1)
        order = np.random.default_rng(self.plan.seed).permutation(len(self.train))
        shuffled = [self.train[i] for i in order]
        if not find(self.out):
            build(
                self.loaded,
                iter(shuffled),
                out=self.out,
                sites=self.sites,
                percentiles=self.plan.percentiles,
                chat=True,
                positions="last",
                context_size=1024,
                calibration_batch=len(shuffled),
                calibration_sample=len(shuffled),
            )
        self.tell("evidence for their regions", 0, 1)
        if not all((folder / "annotation").is_dir() for folder in find(self.out)):
            annotate(self.out, iter(shuffled), model=self.loaded)
        return [load(folder) for folder in find(self.out)]

    def _read_training_prompts(self, dictionaries: list[StoredDictionary], shows_n: np.ndarray) -> None:
        """Which region each training prompt ends in, everywhere; and the means of both kinds of prompts."""
        self.tell("where the training prompts end", 0, 1)
        sites = resolve_sites(self.sites, self.loaded.architecture)
        found = {str(site): x_nd for site, x_nd in last_activations(self.loaded, sites, self.train).items()}
        prompt_n = np.arange(len(self.train))
        self.rates = {d.path: rates(meets(d, found[d.config.site.name], prompt_n), shows_n) for d in dictionaries}
        self.by_path = {d.path: d for d in dictionaries}
        n = len(self.prompts.train[0])
        self.difference = {site: x_nd[:n].mean(0) - x_nd[n:].mean(0) for site, x_nd in found.items()}

    def _candidates(self) -> list[Candidate]:
        found = []
        for path, every in self.rates.items():
            enough = [r for r in every if r.prompts >= FEWEST and r.p < 0.05]
            best = sorted(enough, key=lambda r: -r.low)[: self.plan.candidates]
            found += [Candidate(self.by_path[path], rate) for rate in best]
        if not found:
            raise EPError(
                f"no region at {', '.join(self.sites)} has {FEWEST} training prompts and shows the behaviour more "
                "than chance would; give more prompts, or other --layers or --percentiles"
            )
        return found

    def _choose(self) -> tuple[list[dict], dict[str, Any]]:
        """Try all candidates on the validation prompts; the best of each kind, and what was seen of all."""
        candidates = self._candidates()
        tries: list[tuple[str, Any, Arm]] = []
        for candidate in candidates:
            for basis in ("exemplar", "mean"):
                tries.append((basis, candidate, self._everywhere(basis, candidate, [candidate.rate.region], basis)))
        for site in self.sites:
            tries.append(("difference of means", site, self._difference(site)))
        sweep, best = self._tried_on_validation(tries)
        exemplar = best["exemplar"][1]
        ranked = [r.region for r in sorted(self.rates[exemplar.dictionary.path], key=lambda r: -r.low)]
        spans = []
        for size in SPANS:
            for basis in ("exemplar", "mean"):
                arm = self._everywhere(f"span of {basis}s", exemplar, ranked[:size], basis)
                spans.append((f"span of {basis}s", (exemplar, ranked[:size]), arm))
        for path, dictionary in self.by_path.items():
            same = dictionary.config.calibration.percentile == exemplar.dictionary.config.calibration.percentile
            if same and (arm := self._swap(path)) is not None:
                spans.append(("swap", path, arm))
        more, best_spans = self._tried_on_validation(spans)
        return sweep + more, {kind: what for kind, (_, what) in (best | best_spans).items()}

    def _tried_on_validation(self, tries: list[tuple[str, Any, Arm]]) -> tuple[list[dict], dict[str, tuple]]:
        plain = self.plain["validation"][0]
        seen, best = [], {}
        for number, (kind, what, arm) in enumerate(tries):
            self.tell(f"validation prompts: {arm.about}", number, len(tries))
            with arm.opened():
                found = self._answers(self.prompts.validation[0])
            fluent = found.unique_words >= FLUENT * plain.unique_words
            seen.append({"kind": kind, **arm.details, **found.record(), "fluent": fluent})
            key = (not fluent, found.rate, -arm.details.get("rate_in_training", 0.0))
            if kind not in best or key < best[kind][0]:
                best[kind] = (key, what)
        return seen, best

    def _everywhere(self, name: str, candidate: Candidate, regions: list[int], basis: Direction) -> Arm:
        d = candidate.dictionary
        place = f"{d.config.site.name}, p {d.config.calibration.percentile:g}, region {', '.join(map(str, regions))}"
        return Arm(
            name,
            f"{name}: {place}",
            lambda: ablate_everywhere(self.loaded, d, regions, basis=basis),
            candidate.details | {"regions": regions},
        )

    def _difference(self, site: str) -> Arm:
        d = next(d for d in self.by_path.values() if d.config.site.name == site)
        v_d = self.difference[site]
        return Arm(
            "difference of means",
            f"difference of means: {site}",
            lambda: ablate_everywhere(self.loaded, d, 0, basis=v_d),
            {"site": site},
        )

    def _swap(self, path: Path) -> Arm | None:
        """Off the span of regions that show it, towards those that never do, at the dictionary's own site."""
        d, every = self.by_path[path], [r for r in self.rates[path] if r.prompts >= FEWEST]
        off = [r.region for r in sorted(every, key=lambda r: -r.low) if r.p < 0.05][: max(SPANS)]
        towards = [r.region for r in every if r.rate <= 0.05]
        if not off or not towards:
            return None
        return Arm(
            "swap",
            f"swap: {d.config.site.name}, p {d.config.calibration.percentile:g}, {len(off)} to {len(towards)} regions",
            lambda: swap(self.loaded, d, off, towards, basis="mean"),
            {"site": d.config.site.name, "percentile": d.config.calibration.percentile, "regions": off},
        )

    def _null(self, candidate: Candidate) -> Candidate:
        """A region without the behaviour, most like the candidate in members and coherence (protocol 2.1)."""
        d, mine = candidate.dictionary, candidate.rate.region
        table = d.annotation.regions
        members, coherence = (table.column(name).to_numpy() for name in ("members", "coherence"))
        free = [r for r in self.rates[d.path] if r.prompts >= FEWEST and r.rate <= 0.05]
        if not free:
            free = sorted(self.rates[d.path], key=lambda r: r.rate)[:3]

        def unlike(r: RegionRate) -> float:
            sizes = np.log10(max(members[r.region], 1)) - np.log10(max(members[mine], 1))
            return float(sizes**2 + (coherence[r.region] - coherence[mine]) ** 2)

        return Candidate(d, min(free, key=unlike))

    def _arms(self, chosen: dict[str, Any]) -> list[Arm]:
        exemplar, mean = chosen["exemplar"], chosen["mean"]
        null, d = self._null(exemplar), exemplar.dictionary
        arms = [
            self._everywhere("exemplar", exemplar, [exemplar.rate.region], "exemplar"),
            self._everywhere("mean member", mean, [mean.rate.region], "mean"),
        ]
        for basis in ("exemplar", "mean"):
            candidate, regions = chosen[f"span of {basis}s"]
            arms.append(self._everywhere(f"span of {basis}s", candidate, regions, basis))
        if "swap" in chosen and (arm := self._swap(chosen["swap"])) is not None:
            arms.append(arm)
        arms.append(
            Arm(
                "exemplar, its own site only",
                "the same exemplar ablated around the centre at its site",
                lambda: ablate(self.loaded, d, exemplar.rate.region),
                exemplar.details,
            )
        )
        arms.append(self._difference(chosen["difference of means"]))
        arms.append(self._everywhere("null region, exemplar", null, [null.rate.region], "exemplar"))
        arms.append(self._everywhere("null region, mean member", null, [null.rate.region], "mean"))
        for number in range(self.plan.random):
            v_d = self._random(number)
            arms.append(
                Arm(
                    "random direction",
                    f"random direction {number}",
                    lambda v_d=v_d: ablate_everywhere(self.loaded, d, 0, basis=v_d),
                    {"number": number},
                )
            )
        return arms

    def _random(self, number: int) -> Float[Tensor, " d"]:
        generator = torch.Generator().manual_seed(self.plan.seed * 1000 + number)
        return torch.nn.functional.normalize(torch.randn(self.loaded.info.d_model, generator=generator), dim=0)

    def _ordinary_text(self) -> list[np.ndarray]:
        """Windows of ordinary text, as a build would cut them."""
        windowing = next(iter(self.by_path.values())).config.text.model_copy(
            update={"context_size": 128, "prepend_bos": True, "chat": False, "positions": "all"}
        )
        chunk = next(text_chunks(read_documents(self.text), self.loaded, windowing, 200_000))
        long = [window.ids for window in chunk.windows if len(window.ids) > 64]
        return long[: self.plan.ppl_windows]

    def _try(self, arm: Arm, windows: list[np.ndarray], plain_ppl: float) -> dict:
        with arm.opened():
            found = self._answers(self.prompts.test[0])
            others = self._answers(self.prompts.test[1][: len(self.prompts.test[1]) // 4])
            ppl = perplexity(self.loaded, windows)
        self.keep(arm.about, found)
        plain = self.plain["test"][0]
        return {
            "name": arm.name,
            "about": arm.about,
            **arm.details,
            **found.record(),
            "scores": found.scores,
            "removed": round(1 - found.rate / plain.rate, 4) if plain.rate else None,
            "paired": paired(plain, found),
            "others_rate": round(others.rate, 4),
            "others_unique_words": round(others.unique_words, 4),
            "perplexity_ratio": round(ppl / plain_ppl, 4),
        }

    def _induced(self, chosen: dict[str, Any]) -> list[dict]:
        """The behaviour brought about in other prompts by adding a direction at its site; alpha by validation."""
        exemplar, mean = chosen["exemplar"], chosen["mean"]
        null, site = self._null(exemplar), chosen["difference of means"]
        at_site = next(d for d in self.by_path.values() if d.config.site.name == site)
        kinds: list[tuple[str, StoredDictionary, Tensor]] = [
            ("exemplar", exemplar.dictionary, self._direction(exemplar, "exemplar")),
            ("mean member", mean.dictionary, self._direction(mean, "mean")),
            ("difference of means", at_site, self.difference[site]),
            ("null region, exemplar", null.dictionary, self._direction(null, "exemplar")),
            ("random direction", exemplar.dictionary, self._random(0)),
        ]
        plain, seen = self.plain["validation"][1], []
        for number, (name, d, v_d) in enumerate(kinds):
            self.tell(f"adding: {name}", number, len(kinds))
            best: tuple[tuple, float] | None = None
            for alpha in ALPHAS:
                with steer(self.loaded, d, 0, alpha=alpha, basis=v_d):
                    found = self._answers(self.prompts.validation[1])
                key = (found.unique_words < FLUENT * plain.unique_words, -found.rate, alpha)
                best = min(best, (key, alpha)) if best else (key, alpha)
            assert best is not None
            with steer(self.loaded, d, 0, alpha=best[1], basis=v_d):
                found = self._answers(self.prompts.test[1])
            seen.append({"name": name, "alpha": best[1], **found.record()})
        return seen

    def _direction(self, candidate: Candidate, basis: Direction) -> Float[Tensor, " d"]:
        return directions_of(candidate.dictionary, candidate.rate.region, basis)[0]

    @staticmethod
    def _described(d: StoredDictionary) -> dict[str, Any]:
        c = d.config
        return {
            "site": c.site.name,
            "percentile": c.calibration.percentile,
            "threshold": round(d.threshold, 4),
            "k": d.k,
            "content_id": d.content_id,
        }
