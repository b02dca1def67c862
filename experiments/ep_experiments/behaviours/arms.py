"""What is tried in an experiment on a behaviour: regions taken out, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from exemplar_partitioning.act.bake import ablate_everywhere
from exemplar_partitioning.act.localise import RegionRate
from exemplar_partitioning.act.steer import Direction, ablate, directions_of, swap
from exemplar_partitioning.folder.dictionary import StoredDictionary
from exemplar_partitioning.models.loaded import LoadedModel

from ..nulls import gaussian_directions

FEWEST = 5  # prompts a region must have met to be a candidate, or a control
SPANS = (2, 3, 5)  # regions whose exemplars are ablated together


@dataclass(frozen=True)
class Arm:
    """One intervention: what it is, and how to open it."""

    name: str
    about: str
    opened: Callable[[], AbstractContextManager[None]]
    details: dict[str, Any]


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

    def direction(self, basis: Direction) -> Float[Tensor, " d"]:
        """Its exemplar, or the mean of its members."""
        return directions_of(self.dictionary, self.rate.region, basis)[0]


@dataclass(frozen=True, eq=False)
class Arms:
    """Makes arms.

    rates: of the regions of every dictionary, by its path, on training prompts.
    difference: of the means of the two kinds of prompts at every site, in the model's units.
    """

    loaded: LoadedModel
    dictionaries: dict[Path, StoredDictionary]
    rates: dict[Path, list[RegionRate]]
    difference: dict[str, Float[Tensor, " d"]]
    seed: int

    def candidates(self, of_each: int) -> list[Candidate]:
        """The regions of each dictionary that show the behaviour most surely."""
        candidates = []
        for path, every in self.rates.items():
            enough = [r for r in every if r.prompts >= FEWEST and r.p < 0.05]
            best = sorted(enough, key=lambda r: -r.low)[:of_each]
            candidates += [Candidate(self.dictionaries[path], rate) for rate in best]
        return candidates

    def everywhere(self, name: str, candidate: Candidate, regions: Sequence[int], basis: Direction) -> Arm:
        """Directions of regions taken out of the whole residual stream."""
        d = candidate.dictionary
        place = f"{d.config.site.name}, p {d.config.calibration.percentile:g}, region {', '.join(map(str, regions))}"
        return Arm(
            name,
            f"{name}: {place}",
            lambda: ablate_everywhere(self.loaded, d, list(regions), basis=basis),
            candidate.details | {"regions": list(regions)},
        )

    def spans(self, candidate: Candidate) -> list[Arm]:
        """Directions of the best few regions of a candidate's dictionary, taken out together."""
        ranked = [r.region for r in sorted(self.rates[candidate.dictionary.path], key=lambda r: -r.low)]
        return [
            self.everywhere(f"span of {basis}s", candidate, ranked[:size], basis)
            for size in SPANS
            for basis in ("exemplar", "mean")
        ]

    def own_site(self, candidate: Candidate) -> Arm:
        """An exemplar ablated around the centre at its site alone."""
        return Arm(
            "exemplar, its own site only",
            "the same exemplar ablated around the centre at its site",
            lambda: ablate(self.loaded, candidate.dictionary, candidate.rate.region),
            candidate.details,
        )

    def difference_of_means(self, site: str) -> Arm:
        """The supervised reference (Arditi et al. 2024)."""
        arm = self._direction("difference of means", self.difference[site], {"site": site})
        return Arm(arm.name, f"difference of means: {site}", arm.opened, arm.details)

    def swap(self, path: Path) -> Arm | None:
        """Off the span of regions that show it, towards those that never do, at the dictionary's own site."""
        d, every = self.dictionaries[path], [r for r in self.rates[path] if r.prompts >= FEWEST]
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

    def nulls(self, candidate: Candidate, count: int) -> list[Candidate]:
        """Regions without the behaviour, most like a candidate in members and coherence first."""
        d, mine = candidate.dictionary, candidate.rate.region
        table = d.annotation.regions
        members, coherence = (table.column(name).to_numpy() for name in ("members", "coherence"))
        free = [r for r in self.rates[d.path] if r.prompts >= FEWEST and r.rate <= 0.05]
        if not free:
            free = sorted(self.rates[d.path], key=lambda r: r.rate)[:count]

        def unlike(r: RegionRate) -> float:
            sizes = np.log10(max(members[r.region], 1)) - np.log10(max(members[mine], 1))
            return float(sizes**2 + (coherence[r.region] - coherence[mine]) ** 2)

        return [Candidate(d, rate) for rate in sorted(free, key=unlike)[:count]]

    def off_axis(self, null: Candidate) -> Arm:
        """A null region's exemplar without its part along the difference of means at its site.

        Regions on either side of the centre between two kinds of prompts lie along one axis, so that a null region
        may well carry it, the other way round.
        """
        axis_d = normalize(self.difference[null.dictionary.config.site.name].float(), dim=0)
        v_d = null.direction("exemplar")
        v_d = normalize(v_d - (v_d @ axis_d) * axis_d, dim=0)
        return self._direction("null region off the axis", v_d, null.details)

    def random(self, number: int) -> Arm:
        """A random direction taken out."""
        return self._direction("random direction", self.random_direction(number), {"number": number})

    def random_direction(self, number: int) -> Float[Tensor, " d"]:
        """One of those that the seed gives."""
        return gaussian_directions(self.loaded.info.d_model, 1, self.seed * 1000 + number)[0]

    def at(self, site: str) -> StoredDictionary:
        """A dictionary of a site, for what is done there with a given direction."""
        return next(d for d in self.dictionaries.values() if d.config.site.name == site)

    def _direction(self, name: str, v_d: Float[Tensor, " d"], details: dict[str, Any]) -> Arm:
        d = next(iter(self.dictionaries.values()))  # which does not matter: the direction is given
        return Arm(name, name, lambda: ablate_everywhere(self.loaded, d, 0, basis=v_d), details)
