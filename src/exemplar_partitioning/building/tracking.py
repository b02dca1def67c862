"""Experiment trackers that follow a build: tensorboard, wandb, trackio. They write beside the dictionaries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import EPError, require_extra

TRACKERS = ("tensorboard", "wandb", "trackio")
_SECONDS = 5.0  # between two reports of progress

Log = Callable[[dict[str, float], int], None]


def tracker(name: str, folder: str | Path, *, project: str = "exemplar-partitioning") -> Callable[[Any], None]:
    """What to give a build, or an annotation, as `on_event`, for a tracker to follow it.

    Logged are tokens a second and, for each dictionary, its regions and missing mass, by tokens read. Nothing leaves
    the machine: tensorboard writes to `<folder>-tracking`, wandb there too, offline unless WANDB_MODE says otherwise,
    trackio to its own place.

    Args:
        name: tensorboard, wandb or trackio.
        folder: of the build; its name is the run's.
        project: that wandb and trackio file it under.

    Returns:
        A function of a build's events.

    Raises:
        EPError: another tracker, or one that is not installed.
    """
    if name not in TRACKERS:
        raise EPError(f"there is no tracker {name!r}; expected {', '.join(TRACKERS)}")
    require_extra("tracking", name, of=f"following a build with {name}")
    place = Path(f"{folder}-tracking")
    log, close = _opened(name, place, project)
    last = 0.0

    def told(event: Any) -> None:
        nonlocal last
        if event.kind == "progress" and time.monotonic() - last < _SECONDS:
            return
        last = time.monotonic()
        log(_values(event), event.tokens)
        if event.kind == "done":
            close()

    return told


def _values(event: Any) -> dict[str, float]:
    values = {f"{event.prefix}tokens_per_second": float(event.tokens_per_second)}
    for each in getattr(event, "dictionaries", ()):
        of = f"{each.site}/p{each.percentile:g}"
        values |= {f"{of}/regions": float(each.k), f"{of}/missing_mass": each.unseen.estimate}
    return values


def _opened(name: str, place: Path, project: str) -> tuple[Log, Callable[[], None]]:
    run = place.name.removesuffix("-tracking")
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(place))

        def scalars(values: dict[str, float], step: int) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)

        return scalars, writer.close
    if name == "wandb":
        import wandb  # pyright: ignore[reportMissingImports]

        place.mkdir(parents=True, exist_ok=True)
        opened = wandb.init(project=project, name=run, dir=str(place), mode=os.environ.get("WANDB_MODE", "offline"))
        return lambda values, step: opened.log(values, step=step), opened.finish
    import trackio  # pyright: ignore[reportMissingImports]

    trackio.init(project=project, name=run)
    return lambda values, step: trackio.log(values, step=step), trackio.finish
