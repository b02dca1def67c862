"""A fitted partition that can be saved as a folder. Needs scikit-learn, as the estimator does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core import estimator
from ..core.missing_mass import missing_mass
from ..errors import EPError
from .saveable import write


class ExemplarPartition(estimator.ExemplarPartition):
    """The core's `ExemplarPartition`, an estimator of scikit-learn, that can be saved once it is fitted."""

    def save(self, out: str | Path, *, site: str = "activations") -> Path:
        """Write what was fitted to a new folder `<out>/<site>/p<percentile>`.

        `ep.load` gives it as a dictionary, and `ep` reads it as the folder of a build.

        Args:
            out: folder of the site's.
            site: where in a model the rows are from.

        Returns:
            The folder.

        Raises:
            EPError: the folder exists, or nothing was fitted.
        """
        if not self.__sklearn_is_fitted__():
            raise EPError("nothing was fitted yet; call fit first")
        learnt = self._stream.learnt
        clustering = learnt.clustering
        n, skipped = clustering.position, clustering.skipped
        build: dict[str, Any] = {
            "n_activations": n,
            "skipped": skipped,
            "growth": [(n, clustering.k)],
            "unseen": missing_mass(clustering.sole_counts, n - skipped),
            "saturation_window": max(1, n),
        }
        counts = clustering.births, clustering.online_counts
        return write(learnt.dictionary, out, site, self.percentile, build=build, counts=counts)
