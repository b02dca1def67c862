"""Dictionaries that grow on: a finished build continued on new text (law L10).

Centre, threshold and exemplars stay as they are; activations of the new text that no exemplar covers are appended.
The result is what one stream of the old text, as far as it was followed, and the new text would have given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..core.leader import LeaderClustering
from ..core.statistics import UnseenMass, unseen_mass
from ..demo.corpus import documents_of
from ..errors import EPError, Interrupted
from ..folder.dictionary import StoredDictionary, find, load
from ..models.capture import Extractor
from ..models.load import LoadedModel, bos_id
from ..models.sites import resolve_sites
from ..reading import check_model, model_of
from ..stream import extract, text_chunks
from .growing import Growing, Provenance, Stopped, feed
from .settings import BuildSettings
from .workspace import State
from .write import write_dictionary

_BATCH_SIZE = 16  # windows in one forward pass


@dataclass
class Extending(Growing):
    """A dictionary growing on: what saturates it, and its unseen mass, are counted from where it goes on."""

    start: int = 0  # activations before
    with_direction: int = 0  # of them
    first_new: int = 0  # regions before

    @property
    def _last_birth(self) -> int:
        return max(super()._last_birth, self.start - 1)

    @property
    def unseen(self) -> UnseenMass:
        """Share of further activations of the new text that would found a region."""
        new = self.clustering.position - self.clustering.skipped - self.with_direction
        return unseen_mass(self.clustering.soles[self.first_new :], new)


def extend(
    path: str | Path,
    text: Any,
    *,
    out: str | Path,
    model: str | LoadedModel | None = None,
    max_tokens: int = 1_000_000,
    field: str = "text",
    device: str = "auto",
    on_tokens: Callable[[int], None] = lambda tokens: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[tuple[StoredDictionary, StoredDictionary]]:
    """Continue all dictionaries of a folder on new text, into another folder.

    Args:
        path: folder of a build, or of one dictionary.
        text: what is new, as `build` takes it.
        out: folder to write; it must not hold a dictionary.
        model: where the model is, or the model; None for the one the dictionaries name.
        max_tokens: of the new text to read.
        on_tokens: told how many were read.
        stop: asked between batches; True raises Interrupted, with nothing written.

    Returns:
        For each dictionary, the one there was and the one there is now: its first regions are those of the other.

    Raises:
        EPError: another model, dictionaries of different windows, or text without activations.
    """
    olds = [load(folder) for folder in find(Path(path))] or [load(path)]
    out = Path(out)
    if found := find(out):
        raise EPError(
            f"{out} holds a dictionary already ({found[0].relative_to(out)}); choose another folder with --out"
        )
    first = olds[0].config
    for other in (old.config for old in olds[1:]):
        if other.model != first.model or other.text.windowing != first.text.windowing:
            raise EPError(f"{path} holds dictionaries of different models or windows of text; extend them one by one")
    centers = {old.config.site.name: old.center for old in olds}
    if apart := [old.path for old in olds if not torch.equal(old.center, centers[old.config.site.name])]:
        raise EPError(f"{apart[0]} has another centre than others at its site; extend it alone")
    loaded = model if isinstance(model, LoadedModel) else model_of(olds[0], model, device=device)
    check_model(olds[0], loaded)
    source = documents_of(text, field=field)
    settings = [_settings(old, source.name, max_tokens, loaded) for old in olds]
    growing = [_restored(old, own) for old, own in zip(olds, settings, strict=True)]
    sites = resolve_sites(list(dict.fromkeys(old.config.site.name for old in olds)), loaded.architecture)
    extractor = Extractor(loaded.model, sites, batch_size=_BATCH_SIZE)

    def on_batch(_: int) -> None:
        if stop():
            raise Interrupted("stopped; nothing was written")

    chunk = None
    for chunk in text_chunks(source, loaded, settings[0], max_tokens):
        for site, x_nd in extract(extractor, chunk, on_batch).items():
            feed([g for g in growing if g.site == str(site)], x_nd, chunk)
        on_tokens(chunk.tokens_read)
        if all(one.stopped for one in growing):
            break
    if chunk is None:
        raise EPError(f"{source.name} gave no text to read")
    bos = bos_id(loaded) if first.text.prepend_bos else None
    results = []
    for old, one, own in zip(olds, growing, settings, strict=True):
        one.end(cast(Stopped, chunk.last), chunk.digest)
        one.digest = hashlib.sha256(f"{old.config.text.digest}{one.digest}".encode()).hexdigest()
        calibration = old.config.calibration
        spread = {one.site: {str(one.percentile): calibration.spread}}
        write_dictionary(one, State(sample=calibration.n_activations, spread=spread), loaded, sites, own, out, bos)
        results.append((old, load(out, site=one.site, percentile=one.percentile)))
    return results


def _settings(old: StoredDictionary, new_text: str, max_tokens: int, loaded: LoadedModel) -> BuildSettings:
    """Those of the old build, as far as its dictionary remembers them, on both texts."""
    config = old.config
    text, build = config.text, config.build
    return BuildSettings(
        model=config.model,
        text=f"{text.source}, then {new_text}",
        sites=(config.site.name,),
        percentiles=(config.calibration.percentile,),
        max_tokens=max_tokens,
        saturation_window=build.saturation_window,
        until_unseen=build.until_unseen,
        calibration_batch=config.calibration.batch,
        calibration_sample=config.calibration.n_activations,
        context_size=text.context_size,
        prepend_bos=text.prepend_bos,
        chat=text.chat,
        positions=text.positions,
        shuffle_buffer=text.shuffle_buffer,
        seed=text.seed,
        batch_size=_BATCH_SIZE,
        strict=False,
        device=loaded.model.device.type,
        threads=torch.get_num_threads(),
    )


def _restored(old: StoredDictionary, settings: BuildSettings) -> Extending:
    config, table = old.config, old.regions
    clustering = LeaderClustering(old.center, old.threshold)
    clustering.restore(
        old.exemplars,
        table["arrivals"].to_numpy(),
        np.full(old.k, 2, np.int64),  # how many rows each covered alone is not kept, and no longer asked
        table["arrival_index"].to_numpy(),
        position=config.build.n_activations,
        skipped=config.build.skipped,
    )
    rows = table.select(["document", "position", "window_tokens", "raw_norm"]).to_pylist()
    provenance = [
        Provenance(row["document"], row["position"], np.array(row["window_tokens"], np.int32), row["raw_norm"])
        for row in rows
    ]
    return Extending(
        config.site.name,
        config.calibration.percentile,
        clustering,
        settings,
        provenance,
        list(config.build.growth),
        start=config.build.n_activations,
        with_direction=config.build.n_activations - config.build.skipped,
        first_new=old.k,
    )
