"""Activations of ordinary text in the order in which a build reads them, kept on disk.

Dictionaries of any number of tokens are made from the first rows, autoencoders are trained on them in any order, and
both are measured on the rows of documents that were held out.

<folder>/x.bfloat16       [n, d], as the model gave them (x.float32 of a model in float32)
         token.int32      [n], token ids
         document.uint32  [n], a hash of the document's name
         stream.json      what they are of, and how many rows there are

Shapes: n tokens of text, d = d_model.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.files import disk_errors, to_json, write_new
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.loaded import LoadedModel, ModelInfo
from exemplar_partitioning.models.sites import Site, resolve_sites
from exemplar_partitioning.stream import Chunk, extract, text_chunks
from exemplar_partitioning.text.readers import Document
from exemplar_partitioning.text.windowing import Windowing

HELD_OUT = 16  # one document in so many is kept from building and training
_ROWS = 16_384
_AS_BUILT = Windowing()  # by default as `ep build` cuts it

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Streamed:
    """Activations of a stream, and where they came from.

    x_nd: bfloat16 or float32, mapped from disk.  record: stream.json.
    """

    folder: Path
    record: dict[str, Any]
    x_nd: Tensor
    token_n: np.ndarray
    document_n: np.ndarray

    def __len__(self) -> int:
        return len(self.x_nd)

    @property
    def info(self) -> ModelInfo:
        """The model they are of."""
        return ModelInfo(**self.record["model"])

    @cached_property
    def held_out(self) -> Bool[np.ndarray, " n"]:
        """Rows of documents that nothing is built from or trained on."""
        return self.document_n % HELD_OUT == 0

    def training(self, tokens: int) -> Int64[np.ndarray, " m"]:
        """The first so many rows of the other documents; EPError if there are fewer."""
        rows = np.flatnonzero(~self.held_out)
        if len(rows) < tokens:
            raise EPError(
                f"{self.folder} holds {len(rows):,} activations to build from, {tokens:,} are wanted; "
                "extract more with `ep experiment extract`"
            )
        return rows[:tokens]

    def rows(self, rows_m: Int64[np.ndarray, " m"]) -> Float32[Tensor, "m d"]:
        """Some of the activations, in memory."""
        return self.x_nd[torch.from_numpy(rows_m)].float()

    def blocks(self, tokens: int) -> Iterator[tuple[Float32[Tensor, "m d"], np.ndarray]]:
        """The first so many activations and their tokens, some at a time."""
        for start in range(0, min(tokens, len(self)), _ROWS):
            part = slice(start, min(start + _ROWS, tokens, len(self)))
            yield self.x_nd[part].float(), self.token_n[part]


def read_streamed(folder: Path) -> Streamed:
    """What has been extracted so far. Raises EPError if there is nothing, DataError if it is damaged."""
    try:
        record = json.loads((folder / "stream.json").read_bytes())
        n, d, dtype = record["rows"], record["d_model"], record["model"]["dtype"]
        x_nd = torch.from_file(str(folder / f"x.{dtype}"), size=n * d, dtype=getattr(torch, dtype)).view(n, d)
        token_n, document_n = (
            np.fromfile(folder / f"{name}.{kind}", kind, n)
            for name, kind in (("token", "int32"), ("document", "uint32"))
        )
    except FileNotFoundError as error:
        raise EPError(f"{folder} holds no activations; make them with `ep experiment extract`") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"the activations in {folder} are damaged ({error}); remove that folder") from error
    if len(token_n) != n or len(document_n) != n:
        raise DataError(f"the activations in {folder} are damaged (parts of unequal length); remove that folder")
    return Streamed(folder, record, x_nd, token_n, document_n)


def stream_to(
    folder: Path,
    loaded: LoadedModel,
    site: str,
    documents: Iterable[Document],
    source: str,
    max_tokens: int,
    windowing: Windowing = _AS_BUILT,
    report: Report = lambda *_: None,
) -> Streamed:
    """Extract activations to a folder; what is there already of the same stream is kept, so it can be interrupted.

    Args:
        site: one site, in any spelling.
        source: what to call the text.
        max_tokens: budget, tokens of text.

    Raises:
        EPError: several sites, or the folder holds another stream.
    """
    sites = resolve_sites(site, loaded.architecture)
    if len(sites) != 1:
        raise EPError(f"{site!r} means {len(sites)} sites; expected one")
    about = _about(loaded, sites[0], source, max_tokens, windowing)
    done = _done(folder, about)
    folder.mkdir(parents=True, exist_ok=True)
    record = done or about | {"rows": 0, "seconds": 0.0}
    with disk_errors(folder), ExitStack() as stack:
        names = (f"x.{loaded.info.dtype}", "token.int32", "document.uint32")
        files = [stack.enter_context((folder / name).open("r+b" if done else "wb")) for name in names]
        for file, size in zip(files, (loaded.info.d_model * loaded.model.dtype.itemsize, 4, 4), strict=True):
            file.seek(record["rows"] * size)
            file.truncate()
        extractor = Extractor(loaded.model, sites)
        for chunk in _remaining(text_chunks(documents, loaded, windowing, max_tokens), record["rows"]):
            begun = time.process_time()
            x_nd = extract(extractor, chunk, lambda _: None)[sites[0]]
            arrays = (x_nd.to(loaded.model.dtype).view(torch.uint8).numpy(), *_origins(chunk))
            for file, array in zip(files, arrays, strict=True):
                file.write(array.tobytes())
                file.flush()
            seconds = round(record["seconds"] + time.process_time() - begun, 3)
            record |= {"rows": record["rows"] + len(x_nd), "seconds": seconds, "digest": chunk.digest}
            write_new(folder / "stream.json", to_json(record))
            report("extracting activations", chunk.tokens_read, max_tokens)
    return read_streamed(folder)


def _remaining(chunks: Iterable[Chunk], rows: int) -> Iterator[Chunk]:
    """Chunks after the first so many rows, which end with a chunk."""
    for chunk in chunks:
        if rows > 0:
            rows -= len(chunk.kept)
        else:
            yield chunk


def _origins(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Token id and hashed document of every row of a chunk."""
    token_n = np.concatenate([window.ids for window in chunk.windows]).astype(np.int32)
    hashes = [zlib.crc32(window.document.encode()) for window in chunk.windows]
    document_n = np.repeat(np.array(hashes, np.uint32), [len(window.ids) for window in chunk.windows])
    return token_n[chunk.kept], document_n[chunk.kept]


def _about(loaded: LoadedModel, site: Site, source: str, max_tokens: int, windowing: Windowing) -> dict[str, Any]:
    about = {
        "model": asdict(loaded.info),
        "d_model": loaded.info.d_model,
        "site": str(site),
        "transformer_lens": site.transformer_lens,
        "module_path": site.module_path(loaded.architecture),
        "parameters": sum(
            p.numel() for block in loaded.architecture.blocks[: site.layer + 1] for p in block.parameters()
        ),
        "text": source,
        "windows": windowing.model_dump(),
        "max_tokens": max_tokens,
        "threads": torch.get_num_threads(),
    }
    return json.loads(to_json(about))  # as it is read again: tuples are lists


def _done(folder: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """The record of what is there, if it is of this stream; None if nothing is."""
    if not (folder / "stream.json").is_file():
        return None
    record = read_streamed(folder).record
    differing = [
        f"{name}: {about[name]} here, {record.get(name)} there" for name in about if about[name] != record.get(name)
    ]
    if differing:
        raise EPError(
            f"{folder} holds the activations of another stream ({'; '.join(differing)[:400]}); choose another"
        )
    return record
