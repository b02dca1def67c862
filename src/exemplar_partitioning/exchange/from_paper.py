"""The dictionaries published with the paper: pickles, read as data and written as folders of ours.

What such a pickle holds (and all that is used of it): the centre, the threshold, and for each region its exemplar, how
many activations arrived at it, the stream indices of these, and prompts with the distance and position at which it was
met. It names neither model nor site nor percentile; these come from `metadata.json` beside it or from the caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from .. import __version__
from ..core.dictionary import Dictionary
from ..errors import DataError, EPError
from ..files import foreign, read_json, sha256
from ..folder import dictionary as store
from ..folder import schema as records
from .pickles import Array, Record, read_pickle

if TYPE_CHECKING:
    from ..models.load import LoadedModel

UNKNOWN = "unknown"
_BATCH = 16_384  # activations of a calibration batch there: 128 prompts of 128 positions
_OWN = 1e-5  # cosine distance below which a prompt is the exemplar's own


def import_published(
    file: str | Path,
    out: str | Path,
    *,
    model: LoadedModel | None = None,
    site: str | None = None,
    percentile: float | None = None,
) -> Path:
    """Convert a published pickle to a dictionary folder, `<out>/<site>/p<percentile>`; returns that.

    Args:
        file: the pickle; nothing in it is run, whatever it holds.
        model: the model it was built from: then the folder says which weights it belongs to, tokens get names, and
            the lengths of activations, which the pickle lacks, are found again (steering needs them).
        site: canonical name, e.g. "resid_post.12"; default: from metadata.json beside the pickle.
        percentile: default: from metadata.json.

    Raises:
        DataError: the pickle is damaged, holds no dictionary, or holds anything but data.
        EPError: site or percentile is not known, the folder exists, or the model is of another width.
    """
    file = Path(file)
    described = _metadata(file)
    percentile = float(percentile if percentile is not None else _needed(described, "percentile", "--percentile"))
    if not 0 < percentile < 100:
        raise EPError(f"a percentile lies between 0 and 100; got {percentile:g}, give another with --percentile")
    if site is None:
        site = f"resid_post.{int(_needed(described, 'layer', '--site'))}"
    if not re.fullmatch(r"[a-z_]+\.\d+", site):
        raise EPError(f"site is {site!r}; expected a canonical name such as resid_post.12")
    folder = Path(out) / site / store.percentile_name(percentile)
    if folder.exists():
        raise EPError(f"{folder} exists already; name another folder")
    with foreign(file, "a published dictionary"):
        center, threshold, regions = _parts(file, read_pickle(file))
        exemplars = np.stack([_vector(file, region, "exemplar_direction") for region in regions])
        dictionary = Dictionary(torch.from_numpy(center), torch.from_numpy(exemplars), threshold)
        if model is not None and model.info.d_model != dictionary.d_model:
            raise EPError(
                f"the dictionary has width {dictionary.d_model}, the model {model.info.d_model}: it is another's"
            )
        table = _regions(regions, exemplars, site, model)
        store.save(folder, _config(file, described, dictionary, table, site, percentile, model), dictionary, table)
    return folder


def _metadata(file: Path) -> dict[str, Any]:
    """What metadata.json beside the pickle says of how it was built; empty without one."""
    candidates = [file.with_name("metadata.json"), file.with_name(f"{file.stem}_metadata.json")]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return {}
    with foreign(path, "the metadata of a published dictionary"):
        found = read_json(path)
        return {**found.get("config", {}), **found.get("discovery_config", {}), **found.get("discovery", {})}


def _needed(described: dict[str, Any], name: str, option: str) -> Any:
    value = described.get(name)
    if isinstance(value, int | float) and abs(value) < 1e6:
        return value
    raise EPError(f"the pickle does not hold the {name}, and no metadata.json beside it says; give it with {option}")


def _parts(file: Path, root: Any) -> tuple[np.ndarray, float, list[Record]]:
    """Centre [d], threshold and regions of the one record that has them."""
    fields = root.fields if isinstance(root, Record) else {}
    lists = [value for value in fields.values() if isinstance(value, list) and value]
    regions = [value for value in lists if isinstance(value[0], Record) and "exemplar_direction" in value[0].fields]
    threshold = fields.get("threshold")
    if len(regions) != 1 or not isinstance(threshold, float | np.floating) or "center" not in fields:
        raise DataError(
            f"{file} holds no dictionary: expected a record with a center, a threshold and one list of regions, found "
            f"{', '.join(sorted(map(str, fields))) or type(root).__name__}"
        )
    if not all(isinstance(region, Record) for region in regions[0]):
        raise DataError(f"{file} is damaged: not all of its regions are records")
    return _vector(file, root, "center"), float(threshold), regions[0]


def _vector(file: Path, record: Record, name: str) -> np.ndarray:
    value = record.fields.get(name)
    value = value.value if isinstance(value, Array) else value
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind != "f":
        raise DataError(f"{file} is damaged: a {name} is no vector of floats")
    return value.astype(np.float32)


def _regions(
    regions: list[Record], exemplars_kd: Float[np.ndarray, "k d"], site: str, model: LoadedModel | None
) -> pa.Table:
    own = [_own_prompt(region) for region in regions]
    places = [_place(prompt, position, model) for prompt, position in own]
    indices = [region.fields.get("constituent_sample_indices") or [] for region in regions]
    firsts = [int(seen[0]) if seen and isinstance(seen[0], int | np.integer) else -1 for seen in indices]
    arrivals = [int(region.fields.get("member_count", 0)) for region in regions]
    return pa.table(
        {
            "region": pa.array(range(len(regions)), pa.int32()),
            "content_id": store.content_ids(exemplars_kd),
            "document": [UNKNOWN] * len(regions),
            "position": pa.array([max(0, position - 1) for _, position in own], pa.int32()),  # BOS counted there
            "token_id": pa.array([token_id for token_id, *_ in places], pa.int32()),
            "token": [token for _, token, *_ in places],
            "context": [context for _, _, context, _ in places],
            "raw_norm": pa.array(_lengths([window for *_, window in places], site, model), pa.float32()),
            "arrival_index": pa.array(firsts, pa.int64()),
            "arrivals": pa.array(arrivals, pa.int64()),
            "window_tokens": [window for *_, window in places],
        },
        schema=records.REGIONS_SCHEMA,
    )


def _own_prompt(region: Record) -> tuple[str, int]:
    """Text and position of the exemplar itself: of all prompts kept, the one at distance 0."""
    found = [prompt for value in region.fields.values() if isinstance(value, list) for prompt in _prompts(value)]
    distance, text, position = min(found, default=(np.inf, "", 0))
    return (text, position) if distance <= _OWN else ("", 0)


def _prompts(kept: list[Any]) -> Iterator[tuple[float, str, int]]:
    """(distance, text, position) of a heap's entries, whose order of fields and sign differ from heap to heap."""
    for entry in kept:
        if isinstance(entry, tuple):
            texts = [part for part in entry if isinstance(part, str)]
            distances = [abs(float(part)) for part in entry if isinstance(part, float | np.floating)]
            positions = [int(part) for part in entry if isinstance(part, int | np.integer)]
            if texts and distances and positions:
                yield distances[0], texts[0], positions[-1]


def _place(prompt: str, position: int, model: LoadedModel | None) -> tuple[int, str, str, list[int]]:
    """Token id, token, context and window of an exemplar; the text alone without a model, or if it does not fit."""
    if model is None or not prompt:
        return -1, "", prompt, []
    from ..building.write import CONTEXT_TOKENS
    from ..models.load import bos_id

    ids = model.tokenizer(prompt, add_special_tokens=False)["input_ids"][:position]
    if len(ids) < position or not ids:
        return -1, "", prompt, []
    context, token = model.tokenizer.decode(ids[:-1][-CONTEXT_TOKENS:]), model.tokenizer.decode(ids[-1:])
    return ids[-1], token, context, [bos_id(model), *ids]


def _lengths(windows: list[list[int]], site: str, model: LoadedModel | None) -> Float[np.ndarray, " k"]:
    """Of the exemplars' activations, by running the model again; NaN where their text is not known."""
    length_k = np.full(len(windows), np.nan)
    known = [i for i, window in enumerate(windows) if window]
    if model is None or not known:
        return length_k
    from ..models.capture import extract_rows
    from ..models.sites import Site

    point, _, layer = site.rpartition(".")
    given = [np.array(windows[i]) for i in known]
    sites = [Site(int(layer), point)]  # pyright: ignore[reportArgumentType]
    (x_nd,) = extract_rows(model.model, sites, given, [np.array([len(window) - 1]) for window in given]).values()
    length_k[known] = np.linalg.norm(x_nd, axis=1)
    return length_k


def _config(
    file: Path,
    described: dict[str, Any],
    dictionary: Dictionary,
    table: pa.Table,
    site: str,
    percentile: float,
    model: LoadedModel | None,
) -> records.Config:
    arrivals_k = table["arrivals"].to_numpy()
    n = int(arrivals_k.sum())
    return records.Config(
        model=_model(described, dictionary, model),
        site=_site(site, model),
        text=records.TextRecord(
            source=str(described.get("dataset", UNKNOWN)),
            context_size=int(described.get("ctx", described.get("context_size", 128))),
            prepend_bos=True,
            bos_id=None,
            shuffle_buffer=0,
            seed=int(described.get("seed", 0)),
            digest=UNKNOWN,
            chat=False,
            positions="all",
        ),
        calibration=records.CalibrationRecord(
            percentile=percentile,
            threshold=dictionary.threshold,
            spread=0.0,
            batch=_BATCH,
            n_activations=int(described.get("calibration_tokens", 0)),
            center_norm=float(dictionary.center.norm()),
        ),
        build=records.BuildRecord(
            k=dictionary.k,
            n_activations=n,
            skipped=0,
            stopped="saturated" if described.get("saturated") else "budget",
            saturation_window=_BATCH,
            until_unseen=None,
            # Nothing is known of it but that it is a share.
            unseen=records.UnseenRecord(estimate=float((arrivals_k == 1).sum() / max(1, n)), low=0.0, high=1.0),
            growth=[(n, dictionary.k)],
            device=UNKNOWN,
        ),
        versions={"exemplar-partitioning": __version__, "imported": f"pickle {sha256(file)}"},
    )


def _model(described: dict[str, Any], dictionary: Dictionary, model: LoadedModel | None) -> records.ModelRecord:
    if model is not None:
        return records.ModelRecord(**asdict(model.info))
    return records.ModelRecord(
        id=str(described.get("model", UNKNOWN)),
        revision=None,
        architecture=UNKNOWN,
        d_model=dictionary.d_model,
        n_layers=0,
        vocab_size=0,
        dtype="bfloat16",  # as all published ones
        fingerprint=UNKNOWN,
        tokenizer_hash=UNKNOWN,
        license=None,
    )


def _site(name: str, model: LoadedModel | None) -> records.SiteRecord:
    from ..models.sites import POINTS, Site, resolve_sites

    point, _, layer = name.rpartition(".")
    if model is not None:
        (site,) = resolve_sites(name, model.architecture)
        path = site.module_path(model.architecture)
    elif point in POINTS:
        site, path = Site(int(layer), point), UNKNOWN
    else:
        raise EPError(
            f"site is {name!r}; expected one of {', '.join(POINTS)} with the block's number, as resid_post.12"
        )
    return records.SiteRecord(name=str(site), transformer_lens=site.transformer_lens, module_path=path)
