"""How the dictionaries of a build stand: what a table of them says of each. Light to import."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.missing_mass import MissingMass, recent_births, uneven_births
from .schema import Config


@dataclass(frozen=True)
class DictionarySummary:
    """One dictionary of a build: where it stands, or how it ended.

    recent, uneven: see `core.missing_mass.recent_births` and `uneven_births`.
    """

    site: str
    percentile: float
    threshold: float
    k: int
    n_activations: int
    unseen: MissingMass
    recent: float
    uneven: tuple[int, int] | None
    stopped: str | None

    @classmethod
    def of(cls, config: Config) -> DictionarySummary:
        """A written dictionary."""
        build = config.build
        return cls(
            site=config.site.name,
            percentile=config.calibration.percentile,
            threshold=config.calibration.threshold,
            k=build.k,
            n_activations=build.n_activations,
            unseen=MissingMass(**build.unseen.model_dump()),
            recent=recent_births(build.growth, build.saturation_window),
            uneven=uneven_births(build.growth, build.saturation_window),
            stopped=build.stopped,
        )
