"""A grown dictionary as a folder: configuration, exemplars, and the token each one came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..core.dictionary import Dictionary
from ..errors import EPError
from ..folder.dictionary import save, token_columns, versions
from ..folder.group import beside
from ..folder.invariants import content_ids
from ..folder.listing import percentile_name
from ..folder.schema import REGIONS_SCHEMA, BuildRecord, CalibrationRecord, Config, SiteRecord, TextRecord, UnseenRecord
from ..folder.sole_covers import sole_covers
from ..models.load import bos_id
from ..models.loaded import LoadedModel
from ..models.sites import Site
from ..text.windowing import Windowing
from .growing import Growing


@dataclass(frozen=True)
class Places:
    """What the records of a build's dictionaries say of places and tokens.

    sites: by their names.  tokenizer: whose tokens they are; None where there are none.
    """

    sites: Mapping[str, SiteRecord]
    tokenizer: Any
    bos_id: int | None

    @classmethod
    def of(cls, loaded: LoadedModel, widths: Mapping[Site, int], windowing: Windowing) -> Places:
        """Of a model."""
        records = {str(site): SiteRecord.of(site, width, loaded.architecture) for site, width in widths.items()}
        return cls(records, loaded.tokenizer, bos_id(loaded) if windowing.prepend_bos else None)


def write_dictionary(growing: Growing, places: Places, out: Path) -> Path:
    """Write a dictionary beside `<out>/<site>/p<percentile>`, which is returned, unless an earlier try did.

    Raises:
        EPError: it has no region.
    """
    if not growing.clustering.k:
        raise EPError(
            f"none of the {growing.clustering.position:,} activations at {growing.site} has a direction: all are "
            "not finite or equal; check them, or the model's weights and dtype"
        )
    place = out / growing.site / percentile_name(growing.percentile)
    if not place.exists() and not beside(place).exists():
        clustering = growing.clustering
        dictionary = Dictionary(clustering.center.cpu(), clustering.exemplars.cpu(), clustering.threshold)
        regions = regions_table(growing, places.tokenizer)
        covers = sole_covers(regions["content_id"].to_pylist(), clustering.sole_counts) if not growing.start.k else None
        save(beside(place), _config(growing, places), dictionary, regions, covers)
    return place


def _config(growing: Growing, places: Places) -> Config:
    settings, clustering, given = growing.settings, growing.clustering, growing.settings.given
    assert growing.stopped is not None
    windowing = settings.windowing.model_dump()
    if given is not None:  # by whom they were computed, and how, is not known
        windowing |= {"context_size": given.context_size, "prepend_bos": None, "shuffle_buffer": 0}
    return Config.stating_its_version(
        model=settings.model,
        site=places.sites[growing.site],
        text=TextRecord(source=settings.text, bos_id=places.bos_id, digest=growing.text_digest, **windowing),
        calibration=CalibrationRecord(
            percentile=growing.percentile,
            threshold=clustering.threshold,
            spread=growing.spread,
            batch=min(settings.calibration_batch, growing.sample or settings.calibration_batch),
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
    """A row per exemplar in the columns of the schema."""
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
