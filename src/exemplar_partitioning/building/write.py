"""A grown dictionary as a folder: configuration, exemplars, and the token each one came from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..core.dictionary import Dictionary
from ..errors import EPError
from ..folder.dictionary import content_ids, percentile_name, save, token_columns, versions
from ..folder.group import beside
from ..folder.schema import REGIONS_SCHEMA, BuildRecord, CalibrationRecord, Config, SiteRecord, TextRecord, UnseenRecord
from ..models.load import LoadedModel, bos_id
from ..models.sites import resolve_sites
from .growing import Growing


def write_dictionary(growing: Growing, loaded: LoadedModel, out: Path) -> Path:
    """Write a dictionary beside `<out>/<site>/p<percentile>`, which is returned, unless an earlier try did.

    Raises:
        EPError: it has no region.
    """
    if not growing.clustering.k:
        raise EPError(
            f"none of the {growing.clustering.position:,} activations at {growing.site} has a direction: all are "
            "not finite or equal; check the model's weights and dtype"
        )
    place = out / growing.site / percentile_name(growing.percentile)
    if not place.exists() and not beside(place).exists():
        clustering = growing.clustering
        dictionary = Dictionary(clustering.center.cpu(), clustering.exemplars.cpu(), clustering.threshold)
        save(beside(place), _config(growing, loaded), dictionary, regions_table(growing, loaded.tokenizer))
    return place


def _config(growing: Growing, loaded: LoadedModel) -> Config:
    settings, clustering = growing.settings, growing.clustering
    assert growing.stopped is not None
    (site,) = resolve_sites(growing.site, loaded.architecture)
    return Config(
        model=settings.model,
        site=SiteRecord.of(site, loaded.architecture),
        text=TextRecord(
            source=settings.text,
            bos_id=bos_id(loaded) if settings.prepend_bos else None,
            digest=growing.text_digest,
            **settings.windowing.model_dump(),
        ),
        calibration=CalibrationRecord(
            percentile=growing.percentile,
            threshold=clustering.threshold,
            spread=growing.spread,
            batch=settings.calibration_batch,
            n_activations=growing.sample,
            center_norm=float(np.linalg.norm(clustering.center.double().numpy(force=True))),
        ),
        build=BuildRecord(
            k=clustering.k,
            n_activations=clustering.position,
            skipped=clustering.skipped,
            stopped=growing.stopped,
            saturation_window=settings.saturation_window,
            until_unseen=settings.until_unseen,
            unseen=UnseenRecord(**asdict(growing.unseen)),
            growth=growing.growth,
            device=settings.device,
        ),
        versions=versions(),
    )


def regions_table(growing: Growing, tokenizer: Any) -> pa.Table:
    """A row per exemplar in the columns of schema 1.0."""
    provenance, clustering = growing.provenance, growing.clustering
    tokens = [p.window_tokens for p in provenance]
    columns = {
        "region": range(clustering.k),
        "content_id": content_ids(clustering.exemplars.numpy(force=True)),
        "document": [p.document for p in provenance],
        "position": [p.position for p in provenance],
        **token_columns(tokens, tokenizer),
        "raw_norm": [p.raw_norm for p in provenance],
        "arrival_index": clustering.births,
        "arrivals": clustering.online_counts,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in REGIONS_SCHEMA], schema=REGIONS_SCHEMA)
