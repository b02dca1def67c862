"""The whole build: SmolLM2 block 15 in fp32, five percentiles, 65,536 tokens of real text.

Ours: `ep.build` as users call it, from texts to a folder of five dictionaries,
checkpoints included. Textbook: for each percentile, extract the calibration sample, calibrate, then extract the
stream anew and cluster it until a batch brings no new region. Windows, order and calibration batches are the
same; neither side is charged for loading the model, nor the textbook for writing files.

What the textbook repeats literally is timed once and counted as often as it would run: the extraction of each
batch (for calibration and for the stream, five times), and pdist (timed on the first two batches, counted
for all batches and percentiles). Clustering is run and timed for each percentile; it takes its threshold from
our calibration, which pdist confirms in the benchmark `calibration`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from . import data, extraction, textbook
from .measure import Row, Samples, alone, arguments, write

PERCENTILES = (1.0, 2.0, 4.0, 8.0, 10.0)
PDIST_BATCHES = 2
MODEL = "smollm2"


def texts_and_windows(loaded, count: int) -> tuple[list[str], np.ndarray]:
    """Texts that become one whole window each, and those windows, int64 [w, CONTEXT]."""
    windows = data.token_windows(loaded, count + count // 2)
    texts = loaded.tokenizer.batch_decode(windows[:, 1:])
    again = loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]
    same = [i for i, ids in enumerate(again) if ids == windows[i, 1:].tolist()][:count]
    assert len(same) == count
    return [texts[i] for i in same], windows[same]


def prepare_ours(windows: int, batch_windows: int, sample_batches: int) -> Callable[[], Any]:
    from exemplar_partitioning.api import build

    loaded = extraction.load(MODEL, "float32")
    texts, token_ids = texts_and_windows(loaded, windows)
    batch = batch_windows * (data.CONTEXT - 1)
    extraction.ours(loaded, MODEL, token_ids[:1])

    def work() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            result = build(
                loaded,
                texts,
                out=Path(folder) / "dictionaries",
                sites=data.SITES[MODEL],
                percentiles=PERCENTILES,
                max_tokens=windows * (data.CONTEXT - 1),
                context_size=data.CONTEXT - 1,
                shuffle_buffer=0,
                saturation_window=batch,
                calibration_batch=batch,
                calibration_sample=sample_batches * batch,
            )
        return [(d.percentile, d.threshold, d.k, d.n_activations, d.stopped) for d in result.dictionaries]

    return work


def prepare_textbook(
    windows: int, batch_windows: int, sample_batches: int, thresholds: dict[float, float]
) -> Callable[[], Any]:
    loaded = extraction.load(MODEL, "float32")
    _, token_ids = texts_and_windows(loaded, windows)
    extraction.ours(loaded, MODEL, token_ids[:1])
    layer = extraction.layer_of(MODEL)

    def work() -> Any:
        batches, extracting = [], []
        for start in range(0, windows, batch_windows):
            begun = perf_counter()
            batches.append(textbook.extract(loaded.model, token_ids[start : start + batch_windows], layer))
            extracting.append(perf_counter() - begun)
            print(f"  textbook: extracted batch {len(batches)}, {extracting[-1]:.1f} s", flush=True)
        begun = perf_counter()
        center_d = textbook.center(batches[:sample_batches])
        center = perf_counter() - begun
        begun = perf_counter()
        ranked = batches[: min(PDIST_BATCHES, sample_batches)]
        for x_nd in ranked:
            textbook.batch_percentile(x_nd, center_d, PERCENTILES[0])
        pdist_per_batch = (perf_counter() - begun) / len(ranked)
        print(f"  textbook: pdist {pdist_per_batch:.1f} s a batch", flush=True)
        runs = []
        for percentile in PERCENTILES:
            clustering, seconds = textbook.Clustering(center_d, thresholds[percentile]), []
            for x_nd in batches:
                k, begun = len(clustering.regions), perf_counter()
                clustering.add_batch(x_nd)
                seconds.append(perf_counter() - begun)
                if len(clustering.regions) == k:
                    break
            print(f"  textbook: p {percentile:g} clustered in {sum(seconds):.1f} s", flush=True)
            runs.append((percentile, len(clustering.regions), len(seconds), sum(seconds)))
        return {"extracting": extracting, "center": center, "pdist": pdist_per_batch, "runs": runs}

    return work


def textbook_seconds(parts: dict[str, Any], sample_batches: int) -> dict[str, float]:
    """Seconds of the five runs, by part."""
    extracting, runs = parts["extracting"], parts["runs"]
    return {
        "calibration: extract": len(runs) * sum(extracting[:sample_batches]),
        "calibration: pdist": len(runs) * (parts["center"] + sample_batches * parts["pdist"]),
        "stream: extract": sum(sum(extracting[:used]) for _, _, used, _ in runs),
        "stream: cluster": sum(seconds for *_, seconds in runs),
    }


def main() -> None:
    given = arguments(__doc__)
    batches, batch_windows, sample_batches = (3, 16, 2) if given.quick else (4, data.BATCH_WINDOWS, 2)
    size = {
        "windows": batches * batch_windows,
        "batch_windows": batch_windows,
        "sample_batches": sample_batches,
    }
    ours = alone(prepare_ours, **size)
    print(f"  ours: {ours.seconds:.1f} s (others used {ours.others:.2f} cores)")
    thresholds = {percentile: threshold for percentile, threshold, *_ in ours.result}
    book = alone(prepare_textbook, thresholds=thresholds, **size)
    parts = textbook_seconds(book.result, sample_batches)
    row = Row(
        f"{data.MODELS[MODEL]} {data.SITES[MODEL]}, five percentiles, fp32",
        Samples([ours.seconds], [ours.others]),
        Samples([sum(parts.values())], [book.others]),
        target=">= 25x",
        memory_ours=ours.peak_gb,
        memory_textbook=book.peak_gb,
        found={
            "textbook by part (s)": ", ".join(f"{name} {seconds:,.0f}" for name, seconds in parts.items()),
            "K ours": " ".join(f"{k:,}" for _, _, k, _, _ in ours.result),
            "K textbook": " ".join(f"{k:,}" for _, k, _, _ in book.result["runs"]),
            "stopped, ours": " ".join(f"{stopped}@{n:,}" for *_, n, stopped in ours.result),
        },
    )
    write(
        "whole",
        **data.stated(given, __doc__),
        data={
            "text": data.text_name(),
            "activations": size["windows"] * (data.CONTEXT - 1),
            "batch": batch_windows * (data.CONTEXT - 1),
            "calibration batches": sample_batches,
            "percentiles": PERCENTILES,
            "textbook seconds really run": round(book.seconds, 1),
        },
        rows=[row],
    )


if __name__ == "__main__":
    main()
