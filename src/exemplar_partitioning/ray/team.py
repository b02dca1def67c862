"""A pool of workers for a model: what builds and annotations on Ray have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..errors import EPError
from ..models.loaded import LoadedModel
from .identity import identity, software
from .pool import Pool, connected
from .wire import Task


@dataclass(frozen=True)
class Ray:
    """Where to work, and with how many workers.

    Attributes:
        address: `local` for a cluster in this machine, `auto` for the one that runs here, or `host:port`.
        workers: None for as many as the cluster has room for, each with the threads, or the GPU, of this process.
    """

    address: str
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise EPError(f"workers is {self.workers}; expected at least 1")


@contextmanager
def team(
    ray: Ray, kind: type, loaded: LoadedModel, sites: Sequence[str], *, batch_size: int = 16, context_size: int
) -> Iterator[Pool]:
    """Workers of a kind that extract what this process would, while the context lasts."""
    task = task_of(loaded, sites, batch_size, context_size)
    cpus = ray.workers * task.threads if ray.workers else os.cpu_count() or 1
    with connected(ray.address, cpus) as module:
        pool = Pool(module, ray.workers, kind, task)
        try:
            pool.identity = identity(loaded, sites, batch_size, context_size)  # workers load their models meanwhile
            yield pool
        finally:
            pool.close()


def task_of(loaded: LoadedModel, sites: Sequence[str], batch_size: int, context_size: int) -> Task:
    """What workers are told, so that they extract what this process would."""
    if loaded.source is None:
        raise EPError(
            "workers load the model themselves, so they need its name or path, and got a model object (which may hold "
            "hooks and wrappers that cannot travel): save it with save_pretrained to a folder that all hosts see, and "
            "give its path"
        )
    threads, device = torch.get_num_threads(), loaded.model.device.type
    return Task(
        source=loaded.source,
        remote_code=loaded.info.admission is not None and loaded.info.admission.remote_code,
        dtype=loaded.info.dtype,
        device=device,
        threads=threads,
        sites=tuple(sites),
        batch_size=batch_size,
        context_size=context_size,
        identity=software(threads, device),
    )
