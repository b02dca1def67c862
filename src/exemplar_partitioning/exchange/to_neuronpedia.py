"""Neuronpedia: the files of its bulk import, filled from the evidence in an annotated dictionary.

    <model>/<source>/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl
    <model>/<source>/features/batch-<n>.jsonl.gz, activations/batch-<n>.jsonl.gz

What Neuronpedia calls a feature's activation is here the cosine between a token's activation and the exemplar, around
the centre, cut at 0; the logits it lists are log-lifts of the lens (docs/format.md).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from ..compare.neighbours import nearest_others
from ..files import read_json
from ..folder.annotation import BIN_WIDTH, BINS, KINDS
from ..folder.dictionary import StoredDictionary

HOW = "# {path} holds <model>/<source>, as Neuronpedia's import takes it; set creatorId and creatorName to your own"

CREATOR = "clkht01d40000jv08hvalcvly"  # Neuronpedia's own account, the default of SAEDashboard's exports
_BATCH = 128  # features of a file
_NEIGHBOURS = 10
_COSINES = 1 - (np.arange(BINS) + 0.5) * BIN_WIDTH  # of the histogram's bins, falling


def write(dictionary: StoredDictionary, folder: Path) -> None:
    """All files, dated as the build; EPError if the dictionary is not annotated."""
    dictionary.annotation  # noqa: B018  (refuses before anything is written)
    names = _Names(dictionary)
    home = folder / names.model / names.source
    for name, row in _descriptions(dictionary, names).items():
        home.mkdir(parents=True, exist_ok=True)
        (home / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    near_kn, cosine_kn = nearest_others(dictionary.exemplars.numpy(), _NEIGHBOURS)
    for number, start in enumerate(range(0, dictionary.k, _BATCH)):
        features, activations = [], []
        for region in range(start, min(start + _BATCH, dictionary.k)):
            shown = list(_activations(dictionary, region, names))
            activations += shown
            features.append(_feature(dictionary, region, names, shown, (near_kn[region], cosine_kn[region])))
        _write_rows(home / "features" / f"batch-{number}.jsonl.gz", features)
        _write_rows(home / "activations" / f"batch-{number}.jsonl.gz", activations)


class _Names:
    """What the dictionary is called there: letters, digits, hyphens."""

    def __init__(self, dictionary: StoredDictionary):
        record = dictionary.config
        point, _, layer = record.site.name.rpartition(".")
        inside = re.search(r"\.(\d+)\.", record.site.name)  # of a module's path
        self.layer = layer if layer.isdigit() else inside[1] if inside else "0"
        where = "" if point == "resid_post" else f"-{point if layer.isdigit() else record.site.name}"
        self.model = _slug(record.model.id.rpartition("/")[2]) or "model"
        self.set = _slug(f"ep{where}-p{record.calibration.percentile:g}")
        self.source = f"{self.layer}-{self.set}"
        self.dictionary = dictionary.content_id
        self.common = {"creatorId": CREATOR, "createdAt": _built_at(dictionary)}


def _built_at(dictionary: StoredDictionary) -> str:
    """When its build ended; of one without build.json, when its config.json was written."""
    log = dictionary.path.parents[1] / "build.json"
    if log.is_file() and isinstance(date := read_json(log).get("finished"), str):
        return date
    written = (dictionary.path / "config.json").stat().st_mtime
    return datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def _descriptions(dictionary: StoredDictionary, names: _Names) -> dict[str, dict[str, Any]]:
    record, text = dictionary.config, dictionary.annotation.record
    title = f"Exemplar Partitioning of {record.model.id}, {record.calibration.percentile:g}th percentile"
    author = {"creatorName": "exemplar-partitioning", **names.common}
    return {
        "release": {"name": names.set, "description": title, "descriptionShort": title, "urls": [], **author},
        "model": {
            "id": names.model,
            "instruct": "instruct" in names.model.lower() or names.model.endswith("-it"),
            "displayName": names.model,
            "displayNameShort": names.model,
            "layers": record.model.n_layers,
            "dimension": record.model.d_model,
            "updatedAt": names.common["createdAt"],
            **names.common,
        },
        "sourceset": {
            "modelId": names.model,
            "name": names.set,
            "description": title,
            "type": "exemplar partition",
            "releaseName": names.set,
            "visibility": "PUBLIC",
            "urls": [],
            **author,
        },
        "source": {
            "id": names.source,
            "modelId": names.model,
            "setName": names.set,
            "visibility": "PUBLIC",
            "dataset": text.text.source,
            "num_prompts": text.n_documents,
            "num_tokens_in_prompt": text.text.context_size,
            "notes": f"dictionary {names.dictionary}, threshold {dictionary.threshold:.4f} (cosine distance)",
            **names.common,
        },
    }


def _feature(
    dictionary: StoredDictionary,
    region: int,
    names: _Names,
    shown: list[dict[str, Any]],
    neighbours: tuple[Int64[np.ndarray, " n"], Float[np.ndarray, " n"]],
) -> dict[str, Any]:
    annotation, (near_n, cosine_n) = dictionary.annotation, neighbours
    row, histogram = annotation.region(region), annotation.histogram[region]
    firing = _COSINES > 0
    return {
        "modelId": names.model,
        "layer": names.source,
        "index": str(region),
        "sourceSetName": names.set,
        "maxActApprox": max((activation["maxValue"] for activation in shown), default=0.0),
        "hasVector": True,
        "vector": dictionary.exemplars[region].tolist(),
        "vectorDefaultSteerStrength": dictionary.typical_norm,
        "hookName": dictionary.config.site.transformer_lens or dictionary.config.site.name,
        "topkCosSimIndices": near_n.tolist(),
        "topkCosSimValues": cosine_n.tolist(),
        "pos_str": [token["token"] for token in row["lens_top"]],
        "pos_values": [math.log(token["lift"]) for token in row["lens_top"]],
        "neg_str": [token["token"] for token in row["lens_bottom"]],
        "neg_values": [math.log(token["lift"]) for token in row["lens_bottom"]],
        "frac_nonzero": int(histogram[firing].sum()) / max(1, annotation.record.n_activations),
        "freq_hist_data_bar_values": _COSINES[firing][::-1].round(4).tolist(),
        "freq_hist_data_bar_heights": histogram[firing][::-1].tolist(),
        **names.common,
    }


def _activations(dictionary: StoredDictionary, region: int, names: _Names) -> Iterator[dict[str, Any]]:
    """Examples, those of each kind as the interval of activations they span, with its share of the members.

    SAEDashboard marks top activations by a share of -1 instead, which Neuronpedia's own client refuses.
    """
    histogram = dictionary.annotation.histogram[region]
    examples = dictionary.annotation.examples(region)
    intervals = {}
    for kind in KINDS:
        cosines = [max(0.0, 1 - example["distance"]) for example in examples if example["kind"] == kind]
        low, high = min(cosines, default=0.0), max(cosines, default=0.0)
        inside = histogram[(low <= _COSINES) & (high >= _COSINES)].sum()
        share = float(inside) / max(1, int(histogram.sum()))
        intervals[kind] = {"binMin": low, "binMax": high, "binContains": share}
    for example in examples:
        values = [0.0 if d is None else max(0.0, round(1 - d, 4)) for d in example["distances"]]
        name = f"{names.dictionary} {region} {example['kind']} {example['rank']}"
        yield {
            "id": "c" + hashlib.sha256(name.encode()).hexdigest()[:24],
            "modelId": names.model,
            "layer": names.source,
            "index": str(region),
            "tokens": example["tokens"],
            "values": values,
            "maxValue": max(values),
            "maxValueTokenIndex": values.index(max(values)),
            "minValue": min(values),
            "qualifyingTokenIndex": example["at"],
            "dataSource": example["document"],
            **intervals[example["kind"]],
            **names.common,
        }


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=5, mtime=0))
