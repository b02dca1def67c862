"""Annotation: what evidence for every region costs beside the extraction it needs.

SmolLM2 block 15 in fp32, dictionaries at five percentiles, the finest with about 8,000 regions; real text in
windows of 128 tokens. Extraction: the same stream through the model up to the block, activations dropped.
Annotation: `ep.annotate` as users call it, from text to files, logit lens and metrics included. The sides take
turns; neither is charged for loading the model. Lens and metrics cost as much for any amount of text, so more text
makes the ratio smaller: one row a length. Memory, from text to files: of the finest dictionary alone on half of the
shortest text, and of all five on the whole of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from . import data, extraction
from .measure import Row, alternate, arguments, peak_memory, write

MODEL = "smollm2"
PERCENTILES = (0.5, 1.0, 2.0, 4.0, 8.0)
SIDES = ("extraction", "annotation")
TEXTS = 12_000  # documents, cut at 20,000 characters


def texts() -> Iterator[str]:
    return (text[:20_000] for text in itertools.islice(data.documents(), TEXTS))


def dictionaries(tokens: int) -> Path:
    """A build of so many tokens, kept in the cache."""
    from exemplar_partitioning.api import build

    folder = data.CACHE / f"annotation-{tokens}"
    sample = min(13, tokens // 16_384) * 16_384
    build(
        extraction.load(MODEL, "float32"),
        texts(),
        out=folder,
        sites=data.SITES[MODEL],
        percentiles=PERCENTILES,
        max_tokens=tokens,
        calibration_sample=sample,
        calibration_batch=min(16_384, sample),
        resume=True,
    )
    return folder


def prepare(side: str, folder: Path, tokens: int) -> Callable[[], Any]:
    """The work of one side, with the model in memory and one batch run."""
    loaded = extraction.load(MODEL, "float32")
    extraction.ours(loaded, MODEL, data.token_windows(loaded, 1))
    return partial(annotate if side == "annotation" else extract, loaded, folder, tokens)


def annotate(loaded, folder: Path, tokens: int) -> dict[str, Any]:
    from exemplar_partitioning import api

    found = api.annotate(folder, texts(), model=loaded, max_tokens=tokens, replace=True)
    record = found[0].annotation.record
    return {"n": record.n_activations, "k": [d.k for d in found], "tokens": record.n_tokens}


def extract(loaded, folder: Path, tokens: int) -> int:
    from exemplar_partitioning import stream
    from exemplar_partitioning.folder.listing import find, read_config
    from exemplar_partitioning.models.capture import Extractor
    from exemplar_partitioning.models.sites import resolve_sites
    from exemplar_partitioning.text.documents import read_documents

    windowing = read_config(find(folder)[0]).text
    extractor = Extractor(loaded.model, resolve_sites(data.SITES[MODEL], loaded.architecture))
    read = 0
    for chunk in stream.text_chunks(read_documents(texts()), loaded, windowing, tokens):
        stream.extract(extractor, chunk, lambda _: None)
        read = chunk.tokens_read
    return read


def main() -> None:
    from exemplar_partitioning.folder.listing import percentile_name

    given = arguments(__doc__)
    built, lengths = (20_000, (10_000, 20_000)) if given.quick else (200_000, (200_000, 500_000))
    folder = dictionaries(built)
    finest = folder / data.SITES[MODEL] / percentile_name(min(PERCENTILES))
    memory = {
        "finest": peak_memory(prepare, side="annotation", folder=finest, tokens=lengths[0] // 2),
        "five": peak_memory(prepare, side="annotation", folder=folder, tokens=lengths[0]),
    }
    targets = ("<= 1.3x of extraction alone, <= 0.5 GB at K = 8k", "<= 1.5x of extraction alone")
    rows = []
    for tokens, target in zip(lengths, targets, strict=True):
        rows.append(compare(folder, tokens, target, {} if rows else memory))
        write(  # after each: the longest takes a while
            "annotation",
            **data.stated(given, __doc__),
            data={"text": data.text_name(), "context": data.CONTEXT},
            rows=rows,
        )


def compare(folder: Path, tokens: int, target: str, memory: dict[str, float]) -> Row:
    """Both sides on so many tokens, in turn."""
    times, results = alternate({side: prepare(side, folder, tokens) for side in SIDES}, 1)
    found = results["annotation"]
    extra = {"GB beyond the model, all five": round(memory["five"], 3)} if memory else {}
    return Row(
        f"{found['n']:,} activations at five percentiles",
        times["annotation"],
        None,
        target=target,
        memory_ours=memory.get("finest"),
        found={
            "extraction alone, s": round(times["extraction"].median, 1),
            "cost in extractions": round(times["annotation"].median / times["extraction"].median, 3),
            "regions": found["k"],
            **extra,
        },
    )


if __name__ == "__main__":
    main()
