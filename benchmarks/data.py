"""What the benchmarks run on: real text as whole windows, real activations (cached), synthetic ones.

All windows have the same length, CONTEXT tokens with the BOS in front, so a batch of BATCH_WINDOWS
windows gives BATCH activations. Text: the corpora beside the repository where they are present
(`../shared/data/corpora`), mixed evenly by document; else the text packaged for users.

Shapes: n activations, w windows, s positions, d = d_model, k exemplars.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from exemplar_partitioning.demo.corpus import documents_of

HERE = Path(__file__).parent
CACHE = HERE / "cache"
CORPORA = HERE.parent.parent / "shared" / "data" / "corpora"

CONTEXT = 128  # positions of a window, BOS included
BATCH_WINDOWS = 128
BATCH = BATCH_WINDOWS * (CONTEXT - 1)  # 16,256 activations
SEED = 0

MODELS = {"smollm2": "smollm2-135m-instruct", "gemma3": "gemma-3-270m"}
SITES = {"smollm2": "resid_post.15", "gemma3": "resid_post.12"}


def documents() -> Iterator[str]:
    """Texts in a fixed order, kinds of text taking turns."""
    files = sorted(CORPORA.glob("*.jsonl.gz")) if CORPORA.is_dir() else []
    if files:
        for row in itertools.zip_longest(*map(_texts, files)):
            yield from (text for text in row if text)
    else:
        yield from (document.text for document in documents_of(None, field="text"))


def text_name() -> str:
    """Which text `documents` reads, for the record."""
    files = sorted(CORPORA.glob("*.jsonl.gz")) if CORPORA.is_dir() else []
    return "corpora " + ", ".join(file.name.split(".")[0] for file in files) if files else "packaged text"


def _texts(file: Path) -> Iterator[str]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def token_windows(loaded, count: int, texts: Iterable[str] | None = None) -> np.ndarray:
    """The first `count` whole windows, shuffled (seed 0): int64 [w, CONTEXT], BOS in front."""
    from exemplar_partitioning.models.load import bos_id

    found: list[list[int]] = []
    for text in texts or documents():
        ids = loaded.tokenizer(text[:20_000], add_special_tokens=False, verbose=False)["input_ids"]
        whole = len(ids) // (CONTEXT - 1)
        found.extend(ids[i * (CONTEXT - 1) : (i + 1) * (CONTEXT - 1)] for i in range(min(whole, 8)))
        if len(found) >= count:
            break
    if len(found) < count:
        raise SystemExit(f"the text holds {len(found):,} whole windows, {count:,} are needed")
    windows = np.full((count, CONTEXT), bos_id(loaded), np.int64)
    windows[:, 1:] = found[:count]
    return np.random.default_rng(SEED).permutation(windows)


def activations(n: int, model: str = "smollm2", dtype: str = "float32") -> Float32[np.ndarray, "n d"]:
    """The first n real activations of the cached site, in memory; extracts and caches what is missing.

    Our Extractor, BOS dropped; n is rounded up to whole batches in the cache. dtype: of the forward pass.
    """
    batches = -(-n // BATCH)
    path = CACHE / f"{model}-{SITES[model]}-{dtype.replace('float32', 'fp32').replace('bfloat16', 'bf16')}.f32"
    width = {"smollm2": 576, "gemma3": 640}[model]
    done = path.stat().st_size // (BATCH * width * 4) if path.exists() else 0
    if done < batches:
        _extract(path, model, dtype, done, batches)
    return np.fromfile(path, np.float32, n * width).reshape(n, width)


# The cache is a prefix of one fixed stream, so that it can grow: always the same windows.
CACHED_BATCHES = 25  # 406,400 activations


def _extract(path: Path, model: str, dtype: str, done: int, batches: int) -> None:
    from exemplar_partitioning.models.capture import Extractor
    from exemplar_partitioning.models.load import load_model
    from exemplar_partitioning.models.sites import resolve_sites

    if batches > CACHED_BATCHES:
        raise SystemExit(f"the benchmarks use at most {CACHED_BATCHES * BATCH:,} real activations")
    loaded = load_model(MODELS[model], dtype=dtype, device="cpu")
    extractor = Extractor(loaded.model, resolve_sites(SITES[model], loaded.architecture))
    windows = token_windows(loaded, CACHED_BATCHES * BATCH_WINDOWS)
    path.parent.mkdir(exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(done * BATCH * extractor.architecture.d_model * 4)
        for batch in range(done, batches):
            part = windows[batch * BATCH_WINDOWS : (batch + 1) * BATCH_WINDOWS]
            (x_nd,) = extractor.extract(list(part)).values()
            x_wsd = x_nd.view(BATCH_WINDOWS, CONTEXT, -1)
            file.write(x_wsd[:, 1:].contiguous().numpy().data)
            file.flush()
            print(f"extracted batch {batch + 1} of {batches}", flush=True)


def digest(x: np.ndarray) -> str:
    """Short sha256 of an array's bytes, so that two runs can be told to have used the same data."""
    return hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()[:16]


def described(x_nd: np.ndarray) -> dict[str, Any]:
    """Activations of the text, for the record."""
    return {"text": text_name(), "activations": len(x_nd), "d": x_nd.shape[1], "sha256": digest(x_nd)}


def stated(given: argparse.Namespace, about: str | None) -> dict[str, Any]:
    """How a benchmark was asked for, and what it says of itself, as `measure.write` takes it."""
    return {"quick": given.quick, "seed": SEED, "about": about or ""}


def clustered_directions(
    k: int, n: int, d: int, share_new: float = 0.02, seed: int = SEED
) -> tuple[Float32[np.ndarray, "k d"], Float32[np.ndarray, "n d"], float]:
    """Synthetic exemplars, activations around them, and the threshold that covers all but `share_new`.

    Directions have a power-law spectrum and families (similarity about 0.3 within one). Which exemplar an
    activation belongs to follows Zipf's law; its similarity to it is like that measured on real
    activations at p = 1 (0.4 to 0.8). The threshold is below the distance of almost all exemplars from each other.
    """
    rng = np.random.default_rng(seed)
    e_kd = exemplars_in_families(rng, k, d)
    return e_kd, around(rng, e_kd, n, (0.42, 0.8), share_new), 0.62


def exemplars_in_families(rng: np.random.Generator, k: int, d: int) -> Float32[np.ndarray, "k d"]:
    """Directions with a power-law spectrum, a hundred to a family, similarity about 0.3 within one."""
    families = _draw(rng, max(1, k // 100), d)
    return _unit(0.55 * families[rng.integers(len(families), size=k)] + 0.84 * _draw(rng, k, d))


def around(
    rng: np.random.Generator,
    e_kd: Float32[np.ndarray, "k d"],
    n: int,
    similarity: tuple[float, float],
    share_new: float = 0.0,
) -> Float32[np.ndarray, "n d"]:
    """Activations that are so similar to exemplars, chosen by Zipf's law; a share of them is far from all."""
    k, d = e_kd.shape
    chosen = rng.choice(k, size=n, p=zipf(k))
    along = rng.uniform(*similarity, size=(n, 1)).astype(np.float32)
    fresh = rng.random(n) < share_new
    x_nd = along * e_kd[chosen] + np.sqrt(1 - along**2) * _draw(rng, n, d)
    x_nd[fresh] = _draw(rng, int(fresh.sum()), d)
    return x_nd * rng.uniform(20, 60, size=(n, 1)).astype(np.float32)


def _draw(rng: np.random.Generator, rows: int, d: int) -> Float32[np.ndarray, "n d"]:
    scale_d = np.arange(1, d + 1, dtype=np.float32) ** -0.25
    return _unit(rng.standard_normal((rows, d), np.float32) * scale_d)


def zipf(k: int) -> np.ndarray:
    """Share of the activations that each of k synthetic regions gets: float64 [k]."""
    weights = 1 / np.arange(10, k + 10)
    return weights / weights.sum()


def _unit(x_nd: np.ndarray) -> np.ndarray:
    return x_nd / np.linalg.norm(x_nd, axis=1, keepdims=True)
