"""A bar that follows a job, in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..stream import ProgressEvent
from .options import RunRequest

R = TypeVar("R", bound=RunRequest)


@contextmanager
def shown(request: R) -> Iterator[R]:
    """The request with a bar that is told of events, too, if it asks for one."""
    if not request.progress:
        yield request
        return
    from tqdm.auto import tqdm

    with tqdm(unit=" tokens", unit_scale=True) as bar:

        def told(event: ProgressEvent) -> None:
            growing = getattr(event, "dictionaries", None)  # none of an annotation
            doing = "annotating" if growing is None else "clustering" if growing else "calibrating"
            bar.set_description(doing if event.kind == "progress" else event.kind, refresh=False)
            if growing:
                bar.set_postfix(regions=sum(each.k for each in growing), refresh=False)
            bar.total, bar.n = event.max_tokens, event.tokens
            bar.refresh()
            if request.on_event is not None:
                request.on_event(event)

        yield request.model_copy(update={"on_event": told})
