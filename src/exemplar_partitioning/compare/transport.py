"""A dictionary carried to another model, layer or checkpoint: the same tokens in the same texts, another space.

An exemplar is the activation of a token in a text, and its window is stored. Embedded again anywhere else it
gives the exemplar of the same region there. Where the other tokenizer differs, the window's text is tokenised
anew; the text still ends with the exemplar's token, so the last token of the new window takes its place. It may
begin at another character (`split`), and a token that is but a part of a character stands for the text before
it (`cut`); both are counted and named.

The centre and threshold of the other space are found as a build finds them, at the same percentile, from the
activations of the very windows: they are text that the dictionary was built from, if with odd tokens rather more
frequent than there. In the space the dictionary came from they are its own.

Shapes: k regions, d = d_model of the other space, w windows, n activations.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int64

from ..core.calibration import BATCH, calibrate
from ..core.dictionary import Dictionary
from ..core.geometry import directions
from ..errors import DataError, EPError
from ..folder.dictionary import StoredDictionary, load, save, token_columns, versions
from ..folder.invariants import content_ids
from ..folder.listing import new_place
from ..folder.model import model_of
from ..folder.origin import origin
from ..folder.schema import REGIONS_SCHEMA, CalibrationRecord, Config, ModelRecord, SiteRecord
from ..models.capture import Extractor, extract_rows
from ..models.identity import same_model
from ..models.load import bos_id, load_model
from ..models.loaded import LoadedModel
from ..models.sites import resolve_sites
from .common_tokens import Place, tokenised

_CALIBRATE = 4 * BATCH  # activations at most
_AGAIN = 5e-3  # cosine distance of one activation in two batches, float32
_NO_TEXT = "\ufffd"  # in the place of a window that is but a part of one character


@dataclass(frozen=True, eq=False)
class Embedded:
    """Exemplars' tokens in another place.

    Attributes:
        x_kd: their activations.
        windows: token ids there, up to and including them.
        split, cut: regions whose last token begins at another character than the exemplar's; whose token was only a
            part of a character.
        sample_nd: activations of tokens in these windows, each once, to calibrate on.
    """

    x_kd: Float32[np.ndarray, "k d"]
    windows: list[np.ndarray]
    split: Int64[np.ndarray, " s"]
    cut: Int64[np.ndarray, " c"]
    sample_nd: Float32[np.ndarray, "n d"]


def transport(
    a: StoredDictionary,
    model: str | LoadedModel,
    out: str | Path,
    *,
    site: str | None = None,
    source_model: Any = None,
    keep_center: bool = False,
    dtype: str = "auto",
    device: str = "auto",
) -> StoredDictionary:
    """Write the dictionary of the same regions in another space, to `<out>/<site>/p<percentile>`.

    Args:
        a: the dictionary.
        model: to embed its exemplars with: a packaged name, path, hub id, or a loaded model.
        out: folder to write.
        site: in that model; by default of the same name.
        source_model: where a's own model is; only asked where the tokenizers differ.
        keep_center: keep a's centre and threshold, for checkpoints of one model.
        dtype: of the forward pass.
        device: it runs on.

    Returns:
        The new dictionary, with the region ids of the old one.

    Raises:
        EPError: the folder is there already, no such site, windows too long for the model, or another width than
            the kept centre's.
    """
    loaded = model if isinstance(model, LoadedModel) else load_model(model, dtype=dtype, device=device)
    chosen = resolve_sites(site or a.config.site.name, loaded.architecture)
    if len(chosen) != 1:
        raise EPError(f"{site!r} names {len(chosen)} sites; a dictionary is carried to one at a time")
    text, cut = a.config.text, a.config.text.windowing
    place = Place(loaded, chosen[0], cut.context_size, cut.prepend_bos, cut.positions)
    folder = new_place(out, str(place.site), a.config.calibration.percentile)
    width = Extractor(loaded.model, [place.site]).widths[place.site]
    if keep_center and width != a.d_model:
        raise EPError(f"a's centre has width {a.d_model}, {loaded.info.id} {width} there; leave out --keep-center")
    tokenizer = None
    if loaded.info.tokenizer_hash != a.config.model.tokenizer_hash:
        tokenizer = model_of(a, source_model, device=device).tokenizer
    embedded = embed(a, place, tokenizer)
    same_space = same_model(a.config.model, loaded.info) and str(place.site) == a.config.site.name
    if same_space or keep_center:
        center, calibration, how = a.center, a.config.calibration, "the source's own"
    else:
        center, calibration = _calibrated(embedded.sample_nd, a.config.calibration)
        how = f"calibrated on {len(embedded.sample_nd):,} activations of the exemplars' windows"
    e_kd = directions(torch.from_numpy(embedded.x_kd), center, strict=True).exact.float()
    config = Config.stating_its_version(
        model=ModelRecord(**asdict(loaded.info)),
        site=SiteRecord.of(place.site, width, loaded.architecture),
        text=text.model_copy(update={"bos_id": bos_id(loaded) if text.prepend_bos else None}),
        calibration=calibration,
        build=a.config.build.model_copy(update={"device": loaded.model.device.type}),
        versions=versions(),
    )
    dictionary = Dictionary(center, e_kd, calibration.threshold)
    came = origin(
        "transport",
        [a],
        tokenizer="same" if tokenizer is None else "another",
        centre_and_threshold=how,
        split=embedded.split.tolist(),
        cut=embedded.cut.tolist(),
    )
    save(folder, config, dictionary, _regions(a, embedded, e_kd.numpy(), loaded.tokenizer), came)
    return load(folder)


def embed(a: StoredDictionary, place: Place, source_tokenizer: Any = None) -> Embedded:
    """Activations of a dictionary's exemplars at another place, by their text where tokenizers differ."""
    if source_tokenizer is None:
        windows, split, cut = _windows(a), np.zeros(0, np.int64), np.zeros(0, np.int64)
    else:
        windows, split, cut = _retokenised(_windows(a), source_tokenizer, place)
    kept, of_k = longest(windows)
    sampled = _sampled(kept, place)
    wanted = [np.zeros(0, np.int64) for _ in kept]
    for region, window in enumerate(of_k):
        wanted[window] = np.append(wanted[window], len(windows[region]) - 1)
    both = [np.union1d(rows, sampled.get(i, rows[:0])) for i, rows in enumerate(wanted)]
    x_nd = extract_rows(place.loaded.model, [place.site], kept, both)[place.site]
    starts = np.cumsum([0] + [len(rows) for rows in both])
    last = [starts[w] + np.searchsorted(both[w], len(windows[region]) - 1) for region, w in enumerate(of_k)]
    sample = [starts[w] + np.searchsorted(both[w], rows) for w, rows in sampled.items()]
    return Embedded(x_kd=x_nd[last], windows=windows, split=split, cut=cut, sample_nd=x_nd[np.concatenate(sample)])


def embedded_again(
    dictionary: StoredDictionary, model: str | LoadedModel, *, count: int = 64, device: str = "auto"
) -> tuple[float, int]:
    """Embed a sample of a dictionary's exemplars from their windows, by the model it was built from.

    Args:
        dictionary: any but those imported without windows.
        model: where it is, or the model.
        count: exemplars of the sample, at most.
        device: of the forward pass.

    Returns:
        The largest cosine distance of an exemplar to its activation, and how many were embedded.

    Raises:
        DataError: an exemplar lies farther than rounding explains from what its window gives.
        EPError: the model is another one.
    """
    loaded = model_of(dictionary, model, device=device)
    place, windows = Place.of(dictionary, loaded), _windows(dictionary)
    known = [region for region, window in enumerate(windows) if len(window)]
    regions = sorted(np.random.default_rng(0).permutation(known)[:count].tolist())
    given = [windows[region] for region in regions]
    if not regions:
        return 0.0, 0
    x_nd = extract_rows(loaded.model, [place.site], given, [np.array([len(ids) - 1]) for ids in given])[place.site]
    u_nd = directions(torch.from_numpy(x_nd), dictionary.center, strict=True).exact
    distance = 1 - (u_nd * dictionary.exemplars[regions].double()).sum(dim=1)
    far = int(distance.argmax())
    if float(distance[far]) > (_AGAIN if dictionary.config.model.dtype == "float32" else 10 * _AGAIN):
        raise DataError(
            f"the exemplar of region {regions[far]} of {dictionary.path} lies {float(distance[far]):.3g} from what its "
            "window gives: the dictionary is damaged, or another model made it"
        )
    return float(distance[far]), len(regions)


def longest(windows: list[np.ndarray]) -> tuple[list[np.ndarray], Int64[np.ndarray, " k"]]:
    """Windows that are not the beginning of another, and which of them each window is the beginning of."""
    order = sorted(range(len(windows)), key=lambda i: windows[i].tolist())
    kept: list[np.ndarray] = []
    of_k = np.zeros(len(windows), np.int64)
    for i in reversed(order):
        window = windows[i]
        if not kept or not np.array_equal(kept[-1][: len(window)], window):
            kept.append(window)
        of_k[i] = len(kept) - 1
    return kept, of_k


def _windows(a: StoredDictionary) -> list[np.ndarray]:
    return [np.array(ids, np.int64) for ids in a.regions["window_tokens"].to_pylist()]


def _retokenised(
    windows: list[np.ndarray], tokenizer: Any, place: Place
) -> tuple[list[np.ndarray], Int64[np.ndarray, " s"], Int64[np.ndarray, " c"]]:
    """Windows in the tokens of another model, and the regions whose last token is split or cut."""
    retokenised, split, cut = [], [], []
    whole = _texts(tokenizer, windows)
    before = _texts(tokenizer, [ids[:-1] for ids in windows])
    for region, text in enumerate(whole):
        complete = text.rstrip("\ufffd")
        ids, spans = tokenised(place.loaded.tokenizer, complete or _NO_TEXT)
        if not len(ids):
            raise EPError(f"the window of region {region} has no token in {place.loaded.info.id}: {text[-40:]!r}")
        if complete != text:
            cut.append(region)
        elif spans[-1, 0] != len(before[region]):
            split.append(region)
        retokenised.append(place.window(ids))
    return retokenised, np.array(split, np.int64), np.array(cut, np.int64)


def _texts(tokenizer: Any, windows: list[np.ndarray]) -> list[str]:
    ids = [window.tolist() for window in windows]
    return tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _sampled(windows: list[np.ndarray], place: Place) -> dict[int, np.ndarray]:
    """Tokens to calibrate on, by window: those that count, of windows drawn until there are enough."""
    special, chosen, n = np.array(sorted(place.special)), {}, 0
    for i in np.random.default_rng(0).permutation(len(windows)):
        if n >= _CALIBRATE:
            break
        rows = np.flatnonzero(~np.isin(windows[i], special))
        chosen[int(i)] = rows[-1:] if place.positions == "last" else rows
        n += len(chosen[int(i)])
    return chosen


def _calibrated(sample_nd: np.ndarray, source: CalibrationRecord) -> tuple[torch.Tensor, CalibrationRecord]:
    """Centre and threshold as a build finds them; whole batches, or one smaller batch where there is not more."""
    x_nd = torch.from_numpy(sample_nd)
    size = min(source.batch, len(x_nd))
    batches = list(x_nd[: len(x_nd) // size * size].split(size))
    calibration = calibrate(batches, [source.percentile])
    return calibration.center, CalibrationRecord(
        percentile=source.percentile,
        threshold=calibration.thresholds[source.percentile],
        spread=calibration.spread[source.percentile],
        batch=size,
        n_activations=calibration.n_activations,
        center_norm=float(np.linalg.norm(calibration.center.double().numpy())),
    )


def _regions(a: StoredDictionary, embedded: Embedded, e_kd: np.ndarray, tokenizer: Any) -> pa.Table:
    """The source's rows, with exemplars, lengths and tokens as they are in the other space."""
    regions = a.regions
    columns: dict[str, Any] = {
        "content_id": content_ids(e_kd),
        **token_columns(embedded.windows, tokenizer),
        "raw_norm": np.linalg.norm(embedded.x_kd.astype(np.float64), axis=1),
    }
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else regions[field.name].combine_chunks()
        for field in REGIONS_SCHEMA
    ]
    return pa.table(arrays, schema=REGIONS_SCHEMA)
