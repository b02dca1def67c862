"""What owner and workers must have in common, or their activations differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..errors import EPError
from ..folder.dictionary import versions
from ..models.capture import Extractor
from ..models.loaded import LoadedModel
from ..models.sites import resolve_sites


def software(threads: int, device: str) -> dict[str, str]:
    """What is known before a model is loaded."""
    return versions() | {"threads": str(threads), "device": device}


def identity(loaded: LoadedModel, sites: Sequence[str], batch_size: int, context_size: int) -> dict[str, str]:
    """What activations follow from. The last entry is what they are, for one batch, which tells processors apart."""
    info = loaded.info
    return software(torch.get_num_threads(), loaded.model.device.type) | {
        "model": info.fingerprint,
        "dtype": info.dtype,
        "tokenizer": info.tokenizer_hash,
        "activations": _probe(loaded, sites, batch_size, context_size),
    }


def _probe(loaded: LoadedModel, sites: Sequence[str], batch_size: int, context_size: int) -> str:
    extractor = Extractor(loaded.model, resolve_sites(list(sites), loaded.architecture), batch_size=batch_size)
    vocab = loaded.architecture.vocab_size
    windows = np.random.default_rng(0).integers(0, vocab, (batch_size, context_size))
    digest = hashlib.sha256()
    for x_nd in extractor.extract(list(windows)).values():
        digest.update(x_nd.numpy().data)
    return digest.hexdigest()


def check(mine: Mapping[str, str], theirs: Mapping[str, str], where: str) -> None:
    """Raise EPError, naming both sides, unless a worker is as its owner, as far as the worker tells."""
    differing = [
        f"{name} {theirs[name][:12]} there, {mine[name][:12]} here"
        for name in mine
        if name in theirs and theirs[name] != mine[name]
    ]
    if not differing:
        return
    processor = " (same model and software, so it is another kind of processor)"
    raise EPError(
        f"the worker on {where} would not compute what this process does: {'; '.join(differing)}"
        f"{processor if differing[0].startswith('activations') else ''}. Give all hosts the same model, versions and "
        "kind of processor"
    )
