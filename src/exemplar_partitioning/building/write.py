"""A grown dictionary as a folder: configuration, exemplars, and the token each one came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..core.dictionary import Dictionary
from ..errors import EPError
from ..folder.dictionary import content_ids, find, percentile_name, save, token_columns, versions
from ..folder.schema import REGIONS_SCHEMA, BuildRecord, CalibrationRecord, Config, SiteRecord, TextRecord, UnseenRecord
from ..models.load import LoadedModel
from ..models.sites import Site
from .growing import Growing
from .settings import BuildSettings
from .workspace import State


def write_dictionary(
    growing: Growing,
    state: State,
    loaded: LoadedModel,
    sites: tuple[Site, ...],
    settings: BuildSettings,
    out: Path,
    bos: int | None,
) -> None:
    """Write `<out>/<site>/p<percentile>`; one that is there already is what an earlier try wrote."""
    if not growing.clustering.k:
        raise EPError(
            f"none of the {growing.clustering.position:,} activations at {growing.site} has a direction: all are "
            "not finite or equal; check the model's weights and dtype"
        )
    path = out / growing.site / percentile_name(growing.percentile)
    if path in find(out):
        return
    site = next(site for site in sites if str(site) == growing.site)
    clustering = growing.clustering
    dictionary = Dictionary(clustering.center.cpu(), clustering.exemplars.cpu(), clustering.threshold)
    unseen = growing.unseen
    assert growing.stopped is not None
    config = Config(
        model=settings.model,
        site=SiteRecord.of(site, loaded.architecture),
        text=TextRecord(
            source=settings.text,
            context_size=settings.context_size,
            prepend_bos=settings.prepend_bos,
            bos_id=bos,
            shuffle_buffer=settings.shuffle_buffer,
            seed=settings.seed,
            digest=growing.digest,
            chat=settings.chat,
            positions=settings.positions,
        ),
        calibration=CalibrationRecord(
            percentile=growing.percentile,
            threshold=clustering.threshold,
            spread=state.spread[growing.site][str(growing.percentile)],
            batch=settings.calibration_batch,
            n_activations=state.sample,
            center_norm=float(np.linalg.norm(dictionary.center.double().numpy())),
        ),
        build=BuildRecord(
            k=clustering.k,
            n_activations=clustering.position,
            skipped=clustering.skipped,
            stopped=growing.stopped,
            saturation_window=settings.saturation_window,
            until_unseen=settings.until_unseen,
            unseen=UnseenRecord(estimate=unseen.estimate, low=unseen.low, high=unseen.high),
            growth=growing.growth,
            device=settings.device,
        ),
        versions=versions(),
    )
    save(path, config, dictionary, regions_table(growing, loaded.tokenizer))


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
        "arrivals": clustering.arrivals,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in REGIONS_SCHEMA], schema=REGIONS_SCHEMA)
