"""Dictionaries that grow on: a finished build continued on new text (law L10).

Centre, threshold and exemplars stay as they are; activations of the new text that no exemplar covers are appended.
The result is what one stream of the old text, as far as it was followed, and the new text would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.leader import LeaderClustering
from ..demo.corpus import documents_of
from ..errors import EPError
from ..folder.dictionary import StoredDictionary, load
from ..folder.group import beside
from ..folder.labels import Label, Labels
from ..folder.listing import find, percentile_name
from ..folder.model import check_model, model_of
from ..folder.schema import ModelRecord
from ..folder.sole_covers import read_sole_covers
from ..models.answers import answered
from ..models.load import search_device
from ..models.loaded import LoadedModel
from ..models.sites import resolve_sites
from ..stream import text_chunks
from .growing import Growing, Provenance, Start
from .run import BuildJob, BuildRun, this_process
from .settings import BuildEvent, BuildSettings, ExtendSettings
from .workspace import Workspace
from .write import Places

_BATCH_SIZE = 16  # windows in one forward pass


def extend(
    path: str | Path,
    text: Any,
    *,
    out: str | Path,
    model: str | LoadedModel | None = None,
    max_tokens: int = 1_000_000,
    field: str = "text",
    device: str = "auto",
    checkpoint_seconds: float = 60.0,
    resume: bool = False,
    on_event: Callable[[BuildEvent], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[tuple[StoredDictionary, StoredDictionary]]:
    """Continue all dictionaries of a folder on new text, into another folder, where they appear together.

    Labels by hand come along. An annotation does not: it knows nothing of the new text and regions. The missing mass
    of the result is that of both texts, if the dictionary knows how its exemplars covered the first (sole_covers.json,
    docs/format.md); else that of the new text alone.

    Args:
        path: folder of a build, or of one dictionary.
        text: what is new, as `build` takes it.
        out: folder to write; it must not hold a dictionary.
        model: where the model is, or the model; None for the one the dictionaries name.
        max_tokens: of the new text to read.
        field: column or key that holds the text.
        device: of the model, if it is to be loaded.
        checkpoint_seconds: at least so long between two checkpoints.
        resume: go on with what the same call began.
        on_event: told how it goes.
        stop: asked between batches; True saves a checkpoint and raises Interrupted.

    Returns:
        For each dictionary, the one there was and the one there is now: its first regions are those of the other.

    Raises:
        EPError: another model, dictionaries of different windows, or text without activations.
    """
    olds, out = _sources(Path(path)), Path(out)
    labels = [Labels.read(old).by_hand() for old in olds]
    if not resume and (present := find(out)):
        raise EPError(
            f"{out} holds a dictionary already ({present[0].relative_to(out)}); choose another folder with --out"
        )
    loaded = model if isinstance(model, LoadedModel) else model_of(olds[0], model, device=device)
    check_model(olds[0], loaded)
    first = olds[0].config.text.windowing
    source = documents_of(text, field=field, mask=first.mask)
    asked = ExtendSettings(
        model=ModelRecord(**asdict(loaded.info)),
        text=source.name,
        sources=tuple(old.content_id for old in olds),
        max_tokens=max_tokens,
        device=loaded.model.device.type,
        threads=torch.get_num_threads(),
    )
    settings = [_settings(old, asked) for old in olds]
    sites = {old.config.site.name: old.d_model for old in olds}
    every = settings[0].model_copy(update={"sites": tuple(sites)})
    widths = {resolve_sites(site, loaded.architecture)[0]: width for site, width in sites.items()}
    with Workspace(out, asked, resume=resume) as workspace:
        if workspace.finished:
            return _grown(olds, out)
        if first.generate:
            source = answered(
                source, loaded, first.generate, date=first.template_date, file=workspace.answers, keep=True
            )
        core_device = search_device(loaded.model.device)
        state = workspace.load(core_device)
        if not state.growing:
            state.growing = [_growing(old, each, core_device) for old, each in zip(olds, settings, strict=True)]
        job = BuildJob(
            chunks=lambda: text_chunks(source, loaded, every, max_tokens),
            source=source.name,
            places=Places.of(loaded, widths, every),
            settings=every,
            workspace=workspace,
            device=core_device,
        )
        run = BuildRun(job, state, stop, on_event, checkpoint_seconds)
        run.through(this_process(loaded, every, run.progress), partial(_hand_on, labels))
    return _grown(olds, out)


def _hand_on(labels: Sequence[list[Label]], places: Sequence[Path]) -> None:
    """Put labels by hand into dictionaries that are about to take their places."""
    for place, by_hand in zip(places, labels, strict=True):
        if by_hand and beside(place).is_dir():
            Labels.read(load(beside(place))).add(by_hand)


def _sources(path: Path) -> list[StoredDictionary]:
    """The dictionaries of a folder, which can read text together and share a centre at each site."""
    olds = [load(folder) for folder in find(path)] or [load(path)]
    first = olds[0].config
    for other in (old.config for old in olds[1:]):
        if other.model != first.model or other.text.windowing != first.text.windowing:
            raise EPError(f"{path} holds dictionaries of different models or windows of text; extend them one by one")
    centers = {old.config.site.name: old.center for old in olds}
    if apart := [old.path for old in olds if not torch.equal(old.center, centers[old.config.site.name])]:
        raise EPError(f"{apart[0]} has another centre than others at its site; extend it alone")
    return olds


def _grown(olds: Sequence[StoredDictionary], out: Path) -> list[tuple[StoredDictionary, StoredDictionary]]:
    """Each dictionary with what came of it."""
    places = (out / old.config.site.name / percentile_name(old.config.calibration.percentile) for old in olds)
    return [(old, load(place)) for old, place in zip(olds, places, strict=True)]


def _settings(old: StoredDictionary, asked: ExtendSettings) -> BuildSettings:
    """Those of the old build, as far as its dictionary remembers them, on both texts."""
    config = old.config
    return BuildSettings(
        model=config.model,
        text=f"{config.text.source}, then {asked.text}",
        sites=(config.site.name,),
        percentiles=(config.calibration.percentile,),
        max_tokens=asked.max_tokens,
        saturation_window=config.build.saturation_window,
        until_unseen=config.build.until_unseen,
        calibration_batch=config.calibration.batch,
        calibration_sample=config.calibration.n_activations,
        batch_size=_BATCH_SIZE,
        device=asked.device,
        threads=asked.threads,
        **config.text.windowing.model_dump(),
    )


def _growing(old: StoredDictionary, settings: BuildSettings, device: str) -> Growing:
    """A dictionary where its build ended."""
    build, table = old.config.build, old.regions
    covers = read_sole_covers(old.path, table["content_id"].to_pylist())
    counted = (0, 0) if covers is not None else (build.n_activations - build.skipped, old.k)
    clustering = LeaderClustering(old.center, old.threshold, device=device)
    clustering.restore(
        old.exemplars,
        table["arrivals"].to_numpy(),
        np.full(old.k, 2, np.int64) if covers is None else covers,  # 2: not asked any longer
        table["arrival_index"].to_numpy(),
        position=build.n_activations,
        skipped=build.skipped,
    )
    rows = table.select(["document", "position", "window_tokens", "raw_norm"]).to_pylist()
    return Growing(
        site=old.config.site.name,
        percentile=old.config.calibration.percentile,
        clustering=clustering,
        settings=settings,
        sample=old.config.calibration.n_activations,
        spread=old.config.calibration.spread,
        start=Start(build.n_activations, *counted, old.config.text.digest),
        provenance=[Provenance(**row | {"window_tokens": np.array(row["window_tokens"], np.int32)}) for row in rows],
        growth=list(build.growth),
    )
