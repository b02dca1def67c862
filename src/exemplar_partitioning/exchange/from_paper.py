"""The dictionaries published with the paper: pickles, read as data and written as folders of ours.

What such a pickle holds (and all that is used of it): the centre, the threshold, and for each region its exemplar, how
many activations arrived at it, the stream indices of these, and prompts with the distance and position at which it was
met. It names neither model nor site nor percentile; these come from `metadata.json` beside it or from the caller.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int64

from .. import __version__
from ..core.dictionary import Dictionary
from ..errors import DataError, EPError
from ..files import foreign, read_json, sha256
from ..folder import dictionary as store
from ..folder import schema as records
from ..folder.invariants import content_ids
from ..folder.listing import new_place
from .pickles import Array, Record, read_pickle

if TYPE_CHECKING:
    from ..models.loaded import LoadedModel

UNKNOWN = "unknown"
DTYPE = "bfloat16"  # of the forward passes that all published dictionaries come from
_CONTEXT, _PROMPTS = 128, 128  # positions of a prompt, and prompts of a calibration batch, where nothing says
_OWN = 1e-5  # cosine distance below which a prompt is the exemplar's own
_LONGEST = 1 << 14  # tokens of a window
_FIELDS = 16  # of a prompt that is kept
_TEXT = 1 << 20  # characters of contexts, beside as many as the file has bytes


def import_published(
    file: str | Path,
    out: str | Path,
    *,
    model: LoadedModel | None = None,
    site: str | None = None,
    percentile: float | None = None,
    dtype: str = DTYPE,
) -> Path:
    """Convert a published pickle to a dictionary folder, `<out>/<site>/p<percentile>`; returns that.

    Args:
        file: the pickle; nothing in it is run, whatever it holds.
        out: folder to write.
        model: the model it was built from: then the folder says which weights it belongs to, tokens get names, and
            the lengths of activations, which the pickle lacks, are found again (steering needs them).
        site: canonical name, e.g. "resid_post.12"; default: from metadata.json beside the pickle.
        percentile: default: from metadata.json.
        dtype: of the forward passes it was built from, where no model says.

    Returns:
        The folder of the dictionary.

    Raises:
        DataError: the pickle is damaged, holds no dictionary, or holds anything but data or more than its size.
        EPError: site or percentile is not known, the folder exists, or the model is of another width.
    """
    file = Path(file)
    described = _metadata(file)
    percentile = float(percentile if percentile is not None else _needed(described, "percentile", "--percentile"))
    if not 0 < percentile < 100:
        raise EPError(f"a percentile lies between 0 and 100; got {percentile:g}, give another with --percentile")
    if site is None:
        site = f"resid_post.{int(_needed(described, 'layer', '--site'))}"
    if not re.fullmatch(r"[a-z_]+\.\d+", site):  # residual streams alone were published
        raise EPError(f"site is {site!r}; expected a canonical name such as resid_post.12")
    folder = new_place(out, site, percentile)
    with foreign(file, "a published dictionary"):
        root = read_pickle(file)
        center, threshold, regions = _parts(file, root)
        described = {n: v for n, v in root.fields.items() if isinstance(v, str | int | float)} | described
        exemplars = _exemplars(file, regions, len(center))
        dictionary = Dictionary(torch.from_numpy(center), torch.from_numpy(exemplars), threshold)
        if model is not None and model.info.d_model != dictionary.d_model:
            raise EPError(
                f"the dictionary has width {dictionary.d_model}, the model {model.info.d_model}: it is another's"
            )
        table = _regions(file, regions, exemplars, site, model)
        config = _config(
            described,
            dictionary,
            percentile,
            arrivals=table["arrivals"].to_numpy(),
            model=_model(described, dictionary, dtype) if model is None else records.ModelRecord(**asdict(model.info)),
            site=_site(site, model),
            imported=f"pickle {sha256(file)}",
        )
        store.save(folder, config, dictionary, table)
    return folder


def _metadata(file: Path) -> dict[str, Any]:
    """What metadata.json beside the pickle says of how it was built; empty without one."""
    candidates = [file.with_name("metadata.json"), file.with_name(f"{file.stem}_metadata.json")]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return {}
    with foreign(path, "the metadata of a published dictionary"):
        metadata = read_json(path)
        return {**metadata.get("config", {}), **metadata.get("discovery_config", {}), **metadata.get("discovery", {})}


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
    if not all(isinstance(region, Record) for region in regions[0]) or len(set(map(id, regions[0]))) < len(regions[0]):
        raise DataError(f"{file} is damaged: not all of its regions are records of their own")
    return _vector(file, root, "center").astype(np.float32), float(threshold), regions[0]


def _exemplars(file: Path, regions: list[Record], d: int) -> Float[np.ndarray, "k d"]:
    """All exemplars, of which the file must hold every one: a reference to another's is a few bytes."""
    vectors = [_vector(file, region, "exemplar_direction") for region in regions]
    if sum(vector.nbytes for vector in vectors) > file.stat().st_size or any(len(vector) != d for vector in vectors):
        raise DataError(f"{file} is damaged: its regions do not have an exemplar of {d} numbers each")
    return np.stack(vectors).astype(np.float32)


def _vector(file: Path, record: Record, name: str) -> np.ndarray:
    value = record.fields.get(name)
    value = value.value if isinstance(value, Array) else value
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind != "f":
        raise DataError(f"{file} is damaged: a {name} is no vector of floats")
    return value


def _regions(
    file: Path, regions: list[Record], exemplars_kd: Float[np.ndarray, "k d"], site: str, model: LoadedModel | None
) -> pa.Table:
    prompts = _prompts(regions)
    if sum(len(prompt) for prompt, _ in prompts) > _TEXT + file.stat().st_size:
        raise DataError(f"{file} is damaged: its regions have more text than the file holds")
    places = [_place(prompt, position, model) for prompt, position in prompts]
    indices = [region.fields.get("constituent_sample_indices") or [] for region in regions]
    firsts = [int(seen[0]) if seen and isinstance(seen[0], int | np.integer) else -1 for seen in indices]
    arrivals = [int(region.fields.get("member_count", 0)) for region in regions]
    return pa.table(
        {
            "region": pa.array(range(len(regions)), pa.int32()),
            "content_id": content_ids(exemplars_kd),
            "document": [UNKNOWN] * len(regions),
            "position": pa.array([max(0, position - 1) for _, position in prompts], pa.int32()),  # BOS counted there
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


def _prompts(regions: list[Record]) -> list[tuple[str, int]]:
    """Text and position of each exemplar itself: of all prompts kept, the one at distance 0."""
    nearest: dict[int, tuple[float, str, int]] = {}  # of the prompts in a list, by its id, as several may hold it
    prompts = []
    for region in regions:
        lists = [value for value in region.fields.values() if isinstance(value, list)]
        nearest |= {id(kept): _nearest_prompt(kept) for kept in lists if id(kept) not in nearest}
        distance, text, position = min((nearest[id(kept)] for kept in lists), default=(np.inf, "", 0))
        prompts.append((text, position) if distance <= _OWN else ("", 0))
    return prompts


def _nearest_prompt(kept: list[Any]) -> tuple[float, str, int]:
    """(distance, text, position) of a heap's nearest; entries' order of fields and sign differ from heap to heap."""
    best = (np.inf, "", 0)
    for entry in kept:
        if isinstance(entry, tuple) and len(entry) <= _FIELDS:
            texts = [part for part in entry if isinstance(part, str)]
            distances = [abs(float(part)) for part in entry if isinstance(part, float | np.floating)]
            positions = [part for part in entry if isinstance(part, int | np.integer)]
            if texts and distances and positions and distances[0] < best[0]:
                best = distances[0], texts[0], int(positions[-1])
    return best


def _place(prompt: str, position: int, model: LoadedModel | None) -> tuple[int, str, str, list[int]]:
    """Token id, token, context and window of an exemplar; the text alone without a model, or if it does not fit."""
    if model is None or not prompt or not 0 < position < _LONGEST:
        return -1, "", prompt, []
    from ..models.load import bos_id

    ids = model.tokenizer(prompt, add_special_tokens=False)["input_ids"][:position]
    if len(ids) < position or not ids:
        return -1, "", prompt, []
    context, token = model.tokenizer.decode(ids[:-1][-store.CONTEXT_TOKENS :]), model.tokenizer.decode(ids[-1:])
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
    described: dict[str, Any],
    dictionary: Dictionary,
    percentile: float,
    *,
    arrivals: Int64[np.ndarray, " k"],
    model: records.ModelRecord,
    site: records.SiteRecord,
    imported: str,
) -> records.Config:
    n = int(arrivals.sum())
    lengths = (described[name] for name in ("context_length", "ctx", "context_size") if name in described)
    context = int(next(lengths, _CONTEXT))
    batch = context * int(described.get("model_batch_size", _PROMPTS))
    return records.Config(
        model=model,
        site=site,
        text=records.TextRecord(
            source=str(described.get("dataset", UNKNOWN)),
            context_size=context,
            prepend_bos=True,
            bos_id=None,
            shuffle_buffer=0,
            seed=int(described.get("seed", 0)),
            digest=UNKNOWN,
            chat=False,
            template_date=None,
            positions="all",
        ),
        calibration=records.CalibrationRecord(
            percentile=percentile,
            threshold=dictionary.threshold,
            spread=0.0,
            batch=batch,
            n_activations=int(described.get("calibration_tokens", 0)),
            center_norm=float(np.linalg.norm(dictionary.center.double().numpy())),
        ),
        build=records.BuildRecord(
            k=dictionary.k,
            n_activations=n,
            skipped=0,
            stopped="saturated" if described.get("saturated") else "budget",
            saturation_window=batch,
            until_unseen=None,
            # Nothing is known of it but that it is a share.
            unseen=records.UnseenRecord(estimate=float((arrivals == 1).sum() / max(1, n)), low=0.0, high=1.0),
            growth=[(n, dictionary.k)],
            device=UNKNOWN,
        ),
        versions={"exemplar-partitioning": __version__, "imported": imported},
    )


def _model(described: dict[str, Any], dictionary: Dictionary, dtype: str) -> records.ModelRecord:
    return records.ModelRecord(
        id=str(described.get("model", UNKNOWN)),
        revision=None,
        architecture=UNKNOWN,
        d_model=dictionary.d_model,
        n_layers=0,
        vocab_size=0,
        dtype=dtype,
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
