"""Does a region carry a behaviour? Found on some prompts, chosen on others, tried on prompts kept apart.

1. The model answers training prompts; a plain rule says which answers show the behaviour.
2. Dictionaries of the last position of the same prompts, at several sites and percentiles; in each, the regions
   whose prompts show the behaviour most surely (`localise`).
3. Their exemplars and mean members are ablated from the whole residual stream while the model answers validation
   prompts and reads ordinary text. Site, percentile, region and basis are chosen there: the lowest rate among those
   that leave the model fluent.
4. What was chosen, and its controls, on test prompts: regions of like size without the behaviour, the same off the
   axis between the two kinds of prompts, random directions, and the difference of means of the two kinds (Arditi et
   al. 2024), which knows the labels.

Protocols 2.1 and 2.2, with the intervals, controls and kept-apart prompts that those lack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from exemplar_partitioning.act.localise import last_activations, meets, rates
from exemplar_partitioning.act.steer import Direction, steer
from exemplar_partitioning.api import annotate, build
from exemplar_partitioning.demo.corpus import documents_of
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder.annotation import FOLDER
from exemplar_partitioning.folder.dictionary import StoredDictionary, load
from exemplar_partitioning.folder.listing import find
from exemplar_partitioning.models.loaded import LoadedModel
from exemplar_partitioning.models.sites import resolve_sites
from exemplar_partitioning.stream import text_chunks
from exemplar_partitioning.text.documents import Sources

from ..paired import mcnemar
from .arms import FEWEST, Arm, Arms
from .known import Behaviour
from .prompts import Prompts
from .scoring import Answers, answers, perplexity

Report = Callable[[str, int, int], None]
"""Takes what is being done, how far it is, and how much there is."""

Keep = Callable[[str, Answers], None]
"""Takes what was tried on test prompts, and the answers to them."""

FLUENT = 0.9  # of the unique-word ratio without intervention; a candidate below is chosen only if all are
DEARER = 1.05  # perplexity of ordinary text over that without intervention; likewise
ALPHAS = (0.25, 0.5, 1.0)  # typical residual norms
REGION_ARMS: dict[str, Direction] = {"exemplar": "exemplar", "mean member": "mean"}


@dataclass(frozen=True)
class Plan:
    """Sizes of an experiment. layers: blocks after which the residual stream is looked at.

    candidates: regions tried of each dictionary.  nulls, random: null regions and random directions in the control.
    ppl_windows: windows of 128 tokens of ordinary text for the perplexity, a quarter of them for validation.
    """

    layers: tuple[int, ...]
    percentiles: tuple[float, ...] = (5.0, 10.0, 20.0)
    candidates: int = 2
    nulls: int = 3
    random: int = 20
    max_new_tokens: int = 24
    ppl_windows: int = 64
    seed: int = 0


def run(
    behaviour: Behaviour,
    loaded: LoadedModel,
    prompts: Prompts,
    plan: Plan,
    out: Path,
    report: Report,
    text: Sources | None = None,
    keep: Keep = lambda *_: None,
) -> dict:
    """The whole experiment; its dictionaries stay in `out`, annotated, to be looked at.

    text: ordinary text for the perplexity; None for the packaged one.
    keep: given the answers to test prompts, which are dropped otherwise.

    Returns plain values: what was found, and every arm's figures.

    Raises:
        EPError: the model never, or always, shows the behaviour, or no region carries it.
    """
    return _Experiment(behaviour, loaded, prompts, plan, out, report, text, keep).run()


class _Experiment:
    def __init__(
        self,
        behaviour: Behaviour,
        loaded: LoadedModel,
        prompts: Prompts,
        plan: Plan,
        out: Path,
        report: Report,
        text: Sources | None,
        keep: Keep,
    ):
        self.behaviour, self.loaded, self.prompts, self.plan = behaviour, loaded, prompts, plan
        self.out, self.report, self.text, self.keep = out, report, text, keep
        self.sites = [f"resid_post.{layer}" for layer in plan.layers]
        self.train = [*prompts.train[0], *prompts.train[1]]

    def run(self) -> dict:
        self.report("answers to the training prompts", 0, 1)
        before = self._answers(self.train)
        shows_n = before.shows == 1
        if shows_n.all() or not shows_n.any():
            raise EPError(
                f"{int(shows_n.sum())} of {len(shows_n)} answers to training prompts show it ({self.behaviour.about}); "
                "some must and some must not: give other prompts"
            )
        dictionaries = self._dictionaries()
        arms = self._read_training_prompts(dictionaries, shows_n)
        self.plain = {part: [self._answers(p) for p in getattr(self.prompts, part)] for part in ("validation", "test")}
        self.keep("no intervention", self.plain["test"][0])
        self.windows = self._ordinary_text()
        self.plain_ppl = {part: perplexity(self.loaded, windows) for part, windows in self.windows.items()}
        sweep, chosen = self._choose(arms)
        to_test, tried = self._to_test(arms, chosen), []
        for number, arm in enumerate(to_test):
            self.report(f"test prompts: {arm.name}", number, len(to_test))
            tried.append(self._try(arm))
        return {
            "behaviour": {"name": self.behaviour.name, "about": self.behaviour.about},
            "training": {"prompts": len(shows_n), "showing": int(shows_n.sum())},
            "validation": self.plain["validation"][0].record(),
            "baseline": self.plain["test"][0].record() | {"scores": self.plain["test"][0].scores},
            "baseline_others": self.plain["test"][1].record(),
            "perplexity": round(self.plain_ppl["test"], 3),
            "dictionaries": [self._described(d) for d in dictionaries],
            "sweep": sweep,
            "arms": tried,
            "induced": self._induced(arms, chosen),
        }

    def _answers(self, prompts: Sequence[str]) -> Answers:
        b = self.behaviour
        return answers(self.loaded, prompts, b.shows, b.strictly, max_new_tokens=self.plan.max_new_tokens)

    def _dictionaries(self) -> list[StoredDictionary]:
        self.report("dictionaries of the training prompts", 0, 1)
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
                context_size=min(1024, self.loaded.architecture.max_length or 1024),
                calibration_batch=len(shuffled),
                calibration_sample=len(shuffled),
            )
        self.report("evidence for their regions", 0, 1)
        if not all((folder / FOLDER).is_dir() for folder in find(self.out)):
            annotate(self.out, iter(shuffled), model=self.loaded)
        return [load(folder) for folder in find(self.out)]

    def _read_training_prompts(self, dictionaries: list[StoredDictionary], shows_n: np.ndarray) -> Arms:
        """Which region each training prompt ends in, everywhere; and the means of both kinds of prompts."""
        self.report("where the training prompts end", 0, 1)
        sites = resolve_sites(self.sites, self.loaded.architecture)
        activations = {str(site): x_nd for site, x_nd in last_activations(self.loaded, sites, self.train).items()}
        prompt_n = np.arange(len(self.train))
        n = len(self.prompts.train[0])
        return Arms(
            self.loaded,
            {d.path: d for d in dictionaries},
            {d.path: rates(meets(d, activations[d.config.site.name], prompt_n), shows_n) for d in dictionaries},
            {site: x_nd[:n].mean(0) - x_nd[n:].mean(0) for site, x_nd in activations.items()},
            self.plan.seed,
        )

    def _choose(self, arms: Arms) -> tuple[list[dict], dict[str, Any]]:
        """Try all candidates on the validation prompts; the best of each kind, and what was seen of all."""
        candidates = arms.candidates(self.plan.candidates)
        if not candidates:
            raise EPError(
                f"no region at {', '.join(self.sites)} has {FEWEST} training prompts and shows the behaviour more "
                "than chance would; give more prompts, or other --layers or --percentiles"
            )
        tries: list[tuple[Any, Arm]] = [
            (candidate, arms.everywhere(name, candidate, [candidate.rate.region], basis))
            for candidate in candidates
            for name, basis in REGION_ARMS.items()
        ]
        tries += [(site, arms.difference_of_means(site)) for site in self.sites]
        sweep, best = self._tried_on_validation(tries)
        exemplar = best["exemplar"][0]
        spans: list[tuple[Any, Arm]] = [(None, arm) for arm in arms.spans(exemplar)]
        for path, dictionary in arms.dictionaries.items():
            same = dictionary.config.calibration.percentile == exemplar.dictionary.config.calibration.percentile
            if same and (arm := arms.swap(path)) is not None:
                spans.append((None, arm))
        more, best_spans = self._tried_on_validation(spans)
        return sweep + more, best | best_spans

    def _tried_on_validation(self, tries: list[tuple[Any, Arm]]) -> tuple[list[dict], dict[str, tuple[Any, Arm]]]:
        plain = self.plain["validation"][0]
        seen, best, keys = [], {}, {}
        for number, (what, arm) in enumerate(tries):
            self.report(f"validation prompts: {arm.about}", number, len(tries))
            with arm.opened():
                answers = self._answers(self.prompts.validation[0])
                ratio = perplexity(self.loaded, self.windows["validation"]) / self.plain_ppl["validation"]
            fluent = answers.unique_words >= FLUENT * plain.unique_words and ratio <= DEARER
            row = {"kind": arm.name, **arm.details, **answers.record(), "perplexity_ratio": round(ratio, 4)}
            seen.append(row | {"fluent": fluent})
            key = (not fluent, answers.rate, -arm.details.get("rate_in_training", 0.0))
            if arm.name not in keys or key < keys[arm.name]:
                keys[arm.name], best[arm.name] = key, (what, arm)
        return seen, best

    def _to_test(self, arms: Arms, chosen: dict[str, tuple[Any, Arm]]) -> list[Arm]:
        exemplar = chosen["exemplar"][0]
        nulls = arms.nulls(exemplar, self.plan.nulls)
        return [
            *(arm for name, (_, arm) in chosen.items() if name != "difference of means"),
            arms.own_site(exemplar),
            chosen["difference of means"][1],
            *(arms.everywhere("null region", null, [null.rate.region], "exemplar") for null in nulls),
            *(arms.off_axis(null) for null in nulls),
            *(arms.random(number) for number in range(self.plan.random)),
        ]

    def _ordinary_text(self) -> dict[str, list[np.ndarray]]:
        """Windows of ordinary text, as a build would cut them, all of full length: a quarter is for validation."""
        windowing = load(find(self.out)[0]).config.text.windowing.model_copy(
            update={"context_size": 128, "prepend_bos": True, "chat": False, "positions": "all"}
        )
        chunk = next(text_chunks(documents_of(self.text), self.loaded, windowing, 200_000))
        longest = max(len(window.ids) for window in chunk.windows)
        full = [window.ids for window in chunk.windows if len(window.ids) == longest][: self.plan.ppl_windows]
        first = max(1, len(full) // 4)
        return {"validation": full[:first], "test": full[first:] or full}

    def _try(self, arm: Arm) -> dict:
        with arm.opened():
            answers = self._answers(self.prompts.test[0])
            others = self._answers(self.prompts.test[1][: len(self.prompts.test[1]) // 4])
            ppl = perplexity(self.loaded, self.windows["test"])
        self.keep(arm.about, answers)
        plain = self.plain["test"][0]
        return {
            "name": arm.name,
            "about": arm.about,
            **arm.details,
            **answers.record(),
            "scores": answers.scores,
            "removed": round(1 - answers.rate / plain.rate, 4) if plain.rate else None,
            "paired": mcnemar(plain.shows, answers.shows),
            "others_rate": round(others.rate, 4),
            "others_unique_words": round(others.unique_words, 4),
            "perplexity_ratio": round(ppl / self.plain_ppl["test"], 4),
        }

    def _induced(self, arms: Arms, chosen: dict[str, tuple[Any, Arm]]) -> list[dict]:
        """The behaviour brought about in other prompts by adding a direction at its site; alpha by validation."""
        exemplar, mean = chosen["exemplar"][0], chosen["mean member"][0]
        null, site = arms.nulls(exemplar, 1)[0], chosen["difference of means"][0]
        kinds: list[tuple[str, StoredDictionary, Tensor]] = [
            ("exemplar", exemplar.dictionary, exemplar.direction("exemplar")),
            ("mean member", mean.dictionary, mean.direction("mean")),
            ("difference of means", arms.at(site), arms.difference[site]),
            ("null region", null.dictionary, null.direction("exemplar")),
            ("random direction", exemplar.dictionary, arms.random_direction(0)),
        ]
        plain, seen = self.plain["validation"][1], []
        for number, (name, d, v_d) in enumerate(kinds):
            self.report(f"adding: {name}", number, len(kinds))
            best: tuple[tuple, float] | None = None
            for alpha in ALPHAS:
                with steer(self.loaded, d, 0, alpha=alpha, basis=v_d):
                    answers = self._answers(self.prompts.validation[1])
                key = (answers.unique_words < FLUENT * plain.unique_words, -answers.rate, alpha)
                best = min(best, (key, alpha)) if best else (key, alpha)
            assert best is not None
            with steer(self.loaded, d, 0, alpha=best[1], basis=v_d):
                answers = self._answers(self.prompts.test[1])
            seen.append({"name": name, "alpha": best[1], **answers.record()})
        return seen

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
