"""Dictionaries that were made in memory, and can be saved as folders; of what is not known, null."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..core import dictionary as core
from .schema import (
    REGIONS_SCHEMA,
    BuildRecord,
    CalibrationRecord,
    Config,
    ModelRecord,
    SiteRecord,
    TextRecord,
    UnseenRecord,
)


class Dictionary(core.Dictionary):
    """The core's `Dictionary`, frozen exemplars with their centre and threshold, that can be saved."""

    def save(self, out: str | Path, *, percentile: float, site: str = "activations") -> Path:
        """Write it to a new folder `<out>/<site>/p<percentile>`.

        Args:
            out: folder of the site's.
            percentile: the resolution that gave its threshold, from 0 to 100.
            site: where in a model its activations are from.

        Returns:
            The folder.

        Raises:
            EPError: the folder exists.
        """
        births_k, unknown_k = np.full(self.k, -1), np.zeros(self.k, np.int64)
        build: dict[str, Any] = {"n_activations": 0, "skipped": 0, "growth": [(0, self.k)], "saturation_window": 1}
        return write(self, out, site, percentile, build=build, counts=(births_k, unknown_k), made="dictionary")


def write(
    dictionary: core.Dictionary,
    out: str | Path,
    site: str,
    percentile: float,
    *,
    build: dict[str, Any],
    counts: tuple[np.ndarray, np.ndarray],
    made: str | None = None,
) -> Path:
    """Write a dictionary of which only what is given here is known."""
    from .dictionary import save, token_columns, versions
    from .invariants import content_ids
    from .listing import new_place

    d = dictionary.d_model
    where = SiteRecord.named(site, d)
    place = new_place(out, where.name, percentile)
    births_k, arrivals_k = counts
    unseen = build.pop("unseen", None)
    known = {"estimate": 0.0, "low": 0.0, "high": 1.0} if unseen is None else vars(unseen)
    config = Config.stating_its_version(
        model=ModelRecord.unknown(d, "float32"),
        site=where,
        text=TextRecord(
            source="array",
            context_size=None,
            prepend_bos=None,
            bos_id=None,
            shuffle_buffer=0,
            seed=0,
            digest="unknown",
            chat=False,
            template_date=None,
            positions="all",
            roles=(),
        ),
        calibration=CalibrationRecord(
            percentile=percentile,
            threshold=dictionary.threshold,
            spread=0.0,
            batch=max(1, build["n_activations"]),
            n_activations=build["n_activations"],
            center_norm=float(np.linalg.norm(dictionary.center.double().numpy())),
        ),
        build=BuildRecord(
            k=dictionary.k,
            stopped="text",
            until_unseen=None,
            unseen=UnseenRecord(**known),
            device="cpu",
            **build,
        ),
        versions=versions() | ({} if made is None else {"imported": made}),
    )
    none = [np.zeros(0, np.int32)] * dictionary.k
    columns = {
        "region": range(dictionary.k),
        "content_id": content_ids(dictionary.exemplars.numpy(force=True)),
        "document": [f"array:{row}" if row >= 0 else "unknown" for row in births_k.tolist()],
        "position": np.zeros(dictionary.k, np.int32),
        **token_columns(none, None),
        "raw_norm": np.full(dictionary.k, np.nan, np.float32),
        "arrival_index": births_k,
        "arrivals": arrivals_k,
    }
    table = pa.table([pa.array(columns[field.name], field.type) for field in REGIONS_SCHEMA], schema=REGIONS_SCHEMA)
    save(place, config, dictionary, table)
    return place
