"""Extraction: activations after one block, windows of 128 tokens.

Textbook: transformers' full forward pass with all hidden states and logits. Ours: `Extractor`, which
leaves the forward pass after the block. Both run the same weights on the same windows. The targets
compare with the textbook in fp32; the last row of a model compares bf16 with bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from . import data, textbook
from .measure import Row, alternate, arguments, peak_memory, write

BATCH_SIZE = {"smollm2": 16, "gemma3": 8}  # windows; 16 would make gemma's fp32 logits 2.1 GB


def load(model: str, dtype: str):
    from exemplar_partitioning.models.load import load_model

    return load_model(data.MODELS[model], dtype=dtype, device="cpu")


def layer_of(model: str) -> int:
    return int(data.SITES[model].split(".")[1])


def ours(loaded, model: str, windows: np.ndarray) -> np.ndarray:
    """Activations without the BOS's: float32 [n, d]."""
    from exemplar_partitioning.models.capture import Extractor
    from exemplar_partitioning.models.sites import resolve_sites

    extractor = Extractor(loaded.model, resolve_sites(data.SITES[model], loaded.architecture))
    (x_nd,) = extractor.extract(list(windows)).values()
    return x_nd.view(*windows.shape, -1)[:, 1:].flatten(0, 1).numpy()


def prepare(side: str, model: str, dtype: str, windows: np.ndarray) -> Callable[[], Any]:
    """The work of one side, with the model in memory and one batch run."""
    loaded = load(model, dtype)
    if side == "ours":
        work = partial(ours, loaded, model)
    else:
        work = partial(textbook.extract, loaded.model, layer=layer_of(model), batch_size=BATCH_SIZE[model])
    work(windows=windows[:1])
    return partial(work, windows=windows)


def main() -> None:
    given = arguments(__doc__)
    count, turns = (16, 1) if given.quick else (64, 3)
    rows = []
    for model, targets in (("smollm2", (">= 3x", ">= 12x")), ("gemma3", (">= 4x", ">= 13x"))):
        windows = data.token_windows(load(model, "float32"), count)
        sides = {
            f"{side} {dtype}": prepare(side, model, dtype, windows)
            for dtype in ("float32", "bfloat16")
            for side in ("textbook", "ours")
        }
        print(f"{model}, {windows.size:,} tokens")
        times, results = alternate(sides, turns)
        memory = {
            name: peak_memory(prepare, side=name.split()[0], model=model, dtype=name.split()[1], windows=windows)
            for name in sides
        }
        for dtype, against, target in (
            ("float32", "float32", targets[0]),
            ("bfloat16", "float32", targets[1]),
            ("bfloat16", "bfloat16", None),
        ):
            mine, theirs = f"ours {dtype}", f"textbook {against}"
            x_nd, y_nd = results[mine], results[f"textbook {dtype}"]
            rows.append(
                Row(
                    f"{data.MODELS[model]} block {layer_of(model)}, {dtype} against {against}",
                    times[mine],
                    times[theirs],
                    target=target,
                    memory_ours=memory[mine],
                    memory_textbook=memory[theirs],
                    found={
                        "tokens/s ours": round(windows.size / times[mine].median),
                        "tokens/s textbook": round(windows.size / times[theirs].median),
                        f"largest difference to textbook {dtype}, of the largest value": float(
                            abs(x_nd - y_nd).max() / abs(y_nd).max()
                        ),
                    },
                )
            )
    write(
        "extraction",
        **data.stated(given, __doc__),
        data={"text": data.text_name(), "windows": count, "context": data.CONTEXT},
        rows=rows,
    )


if __name__ == "__main__":
    main()
