"""What a build will cost on this machine: parts run on the first tokens of its text, and are drawn out to all."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.calibration import calibrate, check_percentiles
from ..core.geometry import directions
from ..core.leader import LeaderClustering
from ..core.nearest import ROWS
from ..errors import EPError
from ..models.capture import Extractor
from ..models.load import search_device
from ..models.loaded import LoadedModel
from ..models.sites import Site
from ..stream import extract, text_chunks
from ..text.readers import Document
from .options import BuildRequest

MEASURED_SECONDS = 40.0  # for the model; the rest takes about as long at most
_CALIBRATED = 4096  # activations that a calibration is timed on
_REGION = 9000  # bytes of a region on the disk, beside its directions: window, examples, tokens
_CODE = 2  # bytes of a pair of activations while a batch calibrates


@dataclass(frozen=True)
class Estimate:
    """What all of a build takes, unless its dictionaries saturate before.

    Attributes:
        tokens: of text, in the whole build; measured: those that the model read for this.
        tokens_per_second: of the model, at all sites.
        extraction, calibration, clustering: seconds.
        regions: of all dictionaries together.
        disk, disk_meanwhile: bytes that stay, and that a build needs besides while it runs.
        weights: bytes of the model.
        memory: bytes of this process's own, the model's included where it lies in main memory.
    """

    tokens: int
    measured: int
    tokens_per_second: float
    extraction: float
    calibration: float
    clustering: float
    regions: int
    disk: int
    disk_meanwhile: int
    weights: int
    memory: int

    @property
    def seconds(self) -> float:
        """Of the whole build."""
        return self.extraction + self.calibration + self.clustering

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"seconds": self.seconds}


def estimate(
    loaded: LoadedModel,
    documents: Iterable[Document],
    sites: Sequence[Site],
    asked: BuildRequest,
    seconds: float | None = None,
) -> Estimate:
    """Measure on the first tokens what a build asks for, and reckon the whole.

    Regions are taken to grow on by the power that their last doubling shows. Where text ends before the budget, what it
    would take to read so much is told all the same.

    Args:
        loaded: the model.
        documents: text.
        sites: of the model.
        asked: what is to be built.
        seconds: to run the model for, about; 40 by default.

    Raises:
        EPError: the text gives too few activations to measure anything.
    """
    x, read, took = _measured(loaded, documents, sites, asked, seconds or MEASURED_SECONDS)
    n, d = next(iter(x.values())).shape
    if n < 2:
        raise EPError(f"the text gives {n} activations; to estimate a build takes two at least, better thousands")
    tokens, per_token = asked.max_tokens, n / read
    rows = int(tokens * per_token)
    sample = min(rows, asked.calibration_sample)
    batch = min(asked.calibration_batch, sample)
    calibrating = clustering = 0.0
    regions = 0
    for x_nd in x.values():
        part, begun = x_nd[:_CALIBRATED], time.monotonic()
        made = calibrate([part], check_percentiles(asked.percentiles))
        calibrating += (time.monotonic() - begun) * (batch / len(part)) ** 2 * (sample // batch)
        for threshold in made.thresholds.values():
            k, cost = _clustered(x_nd, made.center, threshold, search_device(loaded.model.device), rows)
            regions, clustering = regions + k, clustering + cost
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    here = weights if loaded.model.device.type == "cpu" else 0
    chunk = 2 * 16_384 * d * 4 * len(sites)
    batches = batch * d * 4 * 3 + _CODE * batch * batch // 2
    return Estimate(
        tokens=tokens,
        measured=read,
        tokens_per_second=read / took,
        extraction=tokens * took / read,
        calibration=calibrating,
        clustering=clustering,
        regions=regions,
        disk=regions * (8 * d + _REGION) + (rows * d * 4 * len(sites) if asked.keep_activations == "all" else 0),
        disk_meanwhile=sample * d * 4 * len(sites),
        weights=weights,
        memory=here + chunk + batches + 3 * 4 * d * regions + (600 << 20),
    )


def _measured(
    loaded: LoadedModel, documents: Iterable[Document], sites: Sequence[Site], asked: BuildRequest, seconds: float
) -> tuple[dict[Site, Tensor], int, float]:
    """Activations of the first windows, as many as there is time for; tokens read, and the time it took."""
    extractor = Extractor(loaded.model, list(sites), batch_size=asked.batch_size)
    windowing = asked.windowing.model_copy(update={"shuffle_buffer": 0})
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    read, took = 0, 0.0
    for chunk in text_chunks(documents, loaded, windowing, asked.max_tokens):
        windows = iter(chunk.windows)
        while some := list(itertools.islice(windows, asked.batch_size)):
            begun = time.monotonic()
            made = extract(extractor, replace(chunk, windows=some), lambda _: None)
            if parts[sites[0]] or took:  # the first batch warms up
                took += time.monotonic() - begun
                read += sum(len(window.ids) - window.prefix for window in some)
                for site, x_nd in made.items():
                    parts[site].append(x_nd.clone())
            took = took or 1e-9
            if took > seconds:
                break
        if took > seconds:
            break
    if not read:
        raise EPError("the text fits one batch, which is too little to measure; give more text, or just build")
    return {site: torch.cat(each) for site, each in parts.items()}, read, took


def _clustered(x_nd: Tensor, center_d: Tensor, threshold: float, device: str, rows: int) -> tuple[int, float]:
    """Regions after so many rows, and the seconds it takes to find them."""
    clustering = LeaderClustering(center_d, threshold, device=device)
    half, begun = max(1, len(x_nd) // 2), time.monotonic()
    grown_to = []
    for part in (x_nd[:half], x_nd[half:]):
        for rows_nd in part.split(ROWS):
            clustering.add_block(directions(rows_nd.to(device), clustering.center, strict=False), len(rows_nd))
        grown_to.append(max(1, clustering.k))
    took, (before, k) = time.monotonic() - begun, grown_to
    power = min(1.0, math.log2(k / before))
    grown = int(k * (rows / len(x_nd)) ** power)
    return grown, took * (rows / len(x_nd)) * max(1.0, grown / k / (1 + power))
