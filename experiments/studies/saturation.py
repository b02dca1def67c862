"""Growth by kind of text, on the activations that the benchmarks keep (benchmarks/data.py): no model is run.

    python -m experiments.studies.saturation [--percentiles 4,8] [--out docs/results/saturation/smollm2.json]

Whole windows of SmolLM2-135M's middle layer, by the corpus that each came from; short documents are not among them.
`ep experiment saturation` does the same from any text.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from benchmarks import data

from ep_experiments import saturation
from ep_experiments.record import record
from ep_experiments.streamed import Streamed
from exemplar_partitioning.files import to_json
from exemplar_partitioning.models.load import load_model

WINDOWS = data.CACHED_BATCHES * data.BATCH_WINDOWS
OF_WINDOW = data.CONTEXT - 1


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--percentiles", default="4,8")
    options.add_argument("--out", type=Path, default=Path("docs/results/saturation/smollm2.json"))
    given = options.parse_args()
    begun = time.monotonic()
    loaded = load_model(data.MODELS["smollm2"], dtype="float32", device="cpu")
    percentiles = [float(p) for p in given.percentiles.split(",")]
    result = saturation.run(domains(loaded), percentiles)
    head = record(
        "saturation",
        sys.argv[1:],
        loaded,
        data.SEED,
        time.monotonic() - begun,
        "python -m experiments.studies.saturation",
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(to_json(head | {"site": data.SITES["smollm2"]} | result))


def domains(loaded) -> dict[str, Streamed]:
    """The cached activations of each corpus, in the order they lie in."""
    names, documents = origins(loaded)
    x_wsd = torch.from_numpy(data.activations(WINDOWS * OF_WINDOW)).view(WINDOWS, OF_WINDOW, -1)
    found = {}
    for name in sorted(set(names)):
        own = np.flatnonzero(names == name)
        x_nd = x_wsd[torch.from_numpy(own)].flatten(0, 1)
        document_n = np.repeat(documents[own], OF_WINDOW)
        found[name] = Streamed(Path(name), {"text": name}, x_nd, np.zeros(len(x_nd), np.int32), document_n)
    return found


def origins(loaded) -> tuple[np.ndarray, np.ndarray]:
    """The corpus and the hashed document of every cached window; `data.token_windows`, with their origins kept."""
    files = sorted(data.CORPORA.glob("*.jsonl.gz"))
    found: list[tuple[str, int]] = []
    for row in zip_longest(*map(data._texts, files)):
        for file, text in zip(files, row, strict=True):
            if text:
                ids = loaded.tokenizer(text[:20_000], add_special_tokens=False, verbose=False)["input_ids"]
                origin = (file.name.split(".")[0], zlib.crc32(text.encode()))
                found += [origin] * min(len(ids) // OF_WINDOW, 8)
        if len(found) >= WINDOWS:
            break
    order = np.random.default_rng(data.SEED).permutation(WINDOWS)
    names, documents = zip(*found[:WINDOWS], strict=True)
    return np.array(names)[order], np.array(documents, np.uint32)[order]


if __name__ == "__main__":
    main()
