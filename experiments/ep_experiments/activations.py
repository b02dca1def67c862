"""Activations of labelled texts at several sites, from one forward pass, kept on disk between experiments.

<cache>/<key>/x.npy         float32 [n, d], as the model gave it
              token.npy     int32 [n]
              start.npy     int64 [t + 1]
              about.json    what the key stands for

Shapes: t texts, n tokens of text, d = d_model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int32, Int64
from numpy.lib.format import open_memmap

from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.files import new_folder, to_json
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.identity import special_token_ids
from exemplar_partitioning.models.load import bos_id
from exemplar_partitioning.models.loaded import LoadedModel
from exemplar_partitioning.models.sites import Site, resolve_sites
from exemplar_partitioning.text.windows import BATCH_TEXTS, PIECE_CHARACTERS, pieces, special_mask

Positions = Literal["all", "last"]
Report = Callable[[str, int, int], None]
"""Takes what is being done, how far it is, and how much there is."""

BATCH = 16  # texts in a forward pass; part of the arithmetic's identity, as is the next
TEXTS_AT_ONCE = 512  # texts, by length, whose activations are in memory together
_VERSION = 1  # of the files


@dataclass(frozen=True, eq=False)
class TextActivations:
    """Activations of some texts at one site. Tokens of text only: no BOS, no special tokens.

    x_nd: float32 [n, d], a memory map if it comes from a cache.
    token_n: int32 [n], token ids.
    start_t: int64 [t + 1]; rows start_t[i]:start_t[i + 1] belong to text i, which may have none.
    """

    x_nd: Float32[np.ndarray, "n d"]
    token_n: Int32[np.ndarray, " n"]
    start_t: Int64[np.ndarray, " t1"]

    def __len__(self) -> int:
        return len(self.start_t) - 1

    @property
    def text_n(self) -> Int64[np.ndarray, " n"]:
        """The text that each row belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.start_t))


def text_activations(
    loaded: LoadedModel,
    sites: Sequence[str],
    texts: Sequence[str],
    *,
    cache: Path | None,
    context_size: int = 128,
    positions: Positions = "all",
    report: Report = lambda *_: None,
) -> dict[str, TextActivations]:
    """Activations of every token of text, by canonical site name.

    The model reads a BOS and the first `context_size` tokens of each text by itself. The result depends on the
    texts and settings only, not on what the cache held before.

    Args:
        sites: names or globs, such as `resid_post.12`.
        cache: folder to keep the arrays in and to find them in again; None: in memory.
        context_size: tokens of a text that are read; the rest is cut off.
        positions: "last" for one row a text, its last token of text.
        report: told how many texts have been read.

    Raises:
        EPError: no texts, a text that is not a string, a context shorter than 1, unknown sites.
        DataError: a damaged cache.
    """
    if context_size < 1:
        raise EPError(f"context_size is {context_size}; expected at least 1 token")
    if not texts or not all(isinstance(text, str) for text in texts):
        raise EPError("expected at least one text, every one a string")
    resolved = resolve_sites(list(sites), loaded.architecture)
    abouts = {site: _about(loaded, site, texts, context_size, positions) for site in resolved}
    folders = {site: cache / _key(about) if cache else None for site, about in abouts.items()}
    missing = [site for site, folder in folders.items() if folder is None or not folder.is_dir()]
    activations_of: dict[Site, TextActivations] = {}
    if missing:
        windows = _windows(loaded, texts, context_size)
        kept = _kept(loaded, windows, positions)
        with ExitStack() as stack:
            where = {site: stack.enter_context(new_folder(f)) if (f := folders[site]) else None for site in missing}
            activations_of = _extract(loaded, windows, kept, where, report)
            for site, folder in where.items():
                if folder is not None:
                    np.save(folder / "token.npy", activations_of[site].token_n)
                    np.save(folder / "start.npy", activations_of[site].start_t)
                    (folder / "about.json").write_bytes(to_json(abouts[site]))
    return {str(site): _read(folder) if (folder := folders[site]) else activations_of[site] for site in resolved}


def _about(
    loaded: LoadedModel, site: Site, texts: Sequence[str], context_size: int, positions: Positions
) -> dict[str, Any]:
    """Everything that the activations follow from."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    info = loaded.info
    return {
        "version": _VERSION,
        "model": {"id": info.id, "fingerprint": info.fingerprint, "dtype": info.dtype},
        "tokenizer": info.tokenizer_hash,
        "site": str(site),
        "texts": {"count": len(texts), "sha256": digest.hexdigest()},
        "context_size": context_size,
        "positions": positions,
        "batch": [BATCH, TEXTS_AT_ONCE],
    }


def _key(about: dict[str, Any]) -> str:
    nameless = about | {"model": {key: value for key, value in about["model"].items() if key != "id"}}
    return f"{about['site']}-{hashlib.sha256(to_json(nameless)).hexdigest()[:24]}"


def _windows(loaded: LoadedModel, texts: Sequence[str], context_size: int) -> list[np.ndarray]:
    """BOS and the beginning of each text, int32; nothing but the BOS for an empty one."""
    bos = bos_id(loaded)
    windows = []
    for first in range(0, len(texts), BATCH_TEXTS):
        batch = [next(pieces(text, PIECE_CHARACTERS)) for text in texts[first : first + BATCH_TEXTS]]
        encoded = loaded.tokenizer(
            batch,
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for ids in encoded["input_ids"]:
            ordinary = ids[1:] if ids and ids[0] == bos else ids  # a text that brings its BOS gets no second one
            windows.append(np.array([bos, *ordinary[:context_size]], np.int32))
    return windows


def _kept(loaded: LoadedModel, windows: list[np.ndarray], positions: Positions) -> list[np.ndarray]:
    """Positions in each window whose tokens are text."""
    special = special_token_ids(loaded.tokenizer) | {bos_id(loaded)}
    kept = [np.flatnonzero(~special_mask(window, special)) for window in windows]
    return [at[-1:] for at in kept] if positions == "last" else kept


def _extract(
    loaded: LoadedModel,
    windows: list[np.ndarray],
    kept: list[np.ndarray],
    where: dict[Site, Path | None],
    report: Report,
) -> dict[Site, TextActivations]:
    """Texts of like length go through the model together; rows come out in the order of the texts."""
    start_t = np.cumsum([0, *map(len, kept)], dtype=np.int64)
    token_n = np.concatenate([window[at] for window, at in zip(windows, kept, strict=True)])
    shape = (int(start_t[-1]), loaded.architecture.d_model)
    x = {
        site: np.empty(shape, np.float32) if folder is None or not shape[0] else _mapped(folder, shape)
        for site, folder in where.items()
    }
    extractor = Extractor(loaded.model, list(where), batch_size=BATCH)
    lengths = np.array([len(window) for window in windows])
    order = np.argsort(lengths, kind="stable")
    order = order[[len(kept[i]) > 0 for i in order]]
    for first in range(0, len(order), TEXTS_AT_ONCE):
        chunk = order[first : first + TEXTS_AT_ONCE]
        report("activations of texts", first, len(order))
        captured = extractor.extract([windows[i] for i in chunk])
        ends = np.cumsum(lengths[chunk])
        for site, rows_nd in captured.items():
            for i, end in zip(chunk, ends, strict=True):
                rows = rows_nd[end - lengths[i] : end].numpy()
                x[site][start_t[i] : start_t[i + 1]] = rows[kept[i]]
    for site, folder in where.items():
        if folder is not None:
            _finish(x[site], folder)
    return {site: TextActivations(x[site], token_n, start_t) for site in where}


def _mapped(folder: Path, shape: tuple[int, int]) -> np.ndarray:
    return open_memmap(folder / "x.npy", mode="w+", dtype=np.float32, shape=shape)


def _finish(x_nd: np.ndarray, folder: Path) -> None:
    if isinstance(x_nd, np.memmap):
        x_nd.flush()
    else:  # no rows: nothing to map
        np.save(folder / "x.npy", x_nd)


def _read(folder: Path) -> TextActivations:
    try:
        token_n, start_t = np.load(folder / "token.npy"), np.load(folder / "start.npy")
        x_nd = np.load(folder / "x.npy", mmap_mode="r" if len(token_n) else None)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"the cached activations {folder} are damaged ({error}); remove that folder") from error
    if len(x_nd) != len(token_n) or int(start_t[-1]) != len(token_n):
        raise DataError(f"the cached activations {folder} are damaged (parts of unequal length); remove that folder")
    return TextActivations(x_nd, token_n, start_t)
