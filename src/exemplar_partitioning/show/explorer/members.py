"""All members of a region in their text, beyond the examples that an annotation keeps: the text is read again.

The model's tokenizer reads it. Activations are those that the build kept; without them the model runs, once somebody
has asked for it who was told how long it takes.

Shapes: n activations, t token ids, k regions, d = d_model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float32, Int32, Int64
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...annotating.options import AnnotateRequest
from ...annotating.reader import Reader, reader_of
from ...building.run_file import FILE
from ...compare.progress import Tell
from ...demo.corpus import CORPUS_NAME
from ...errors import EPError, check_choice
from ...folder.activations import Kept
from ...stream import Chunk
from ...text.hub import HUB_PREFIX
from ...text.tokens import token_texts
from .answers import Json, number, view
from .asked import live
from .library import View
from .live import Live
from .passages import kept_by

ORDERS = ("nearest", "random", "farthest")
_MOST = 100  # examples at once
_LONGEST = 400  # tokens of context, on both sides together
_READ, _PRODUCTS = 1e5, 2e10  # tokens, and multiplications, a second, about, of one core


@dataclass(frozen=True, eq=False)
class Plan:
    """What reading the text again takes. kept: activations that make it unnecessary that the model runs."""

    reader: Reader
    kept: Kept | None
    tokens: int
    seconds: float

    @classmethod
    def of(cls, model: Live, view: View) -> Plan:
        """Raises EPError where the text is not here to be found by name, or the model is another."""
        d, (kept, _) = view.dictionary, kept_by(view, [view.dictionary.config.site.name])
        text, field = _text_of(view, model)
        reader = reader_of([d], text, AnnotateRequest(model=model.loaded, field=field))
        if kept is not None:
            tokens, held = kept.spill.tokens, d.config.text.windowing.shuffle_buffer * (d.config.text.context_size or 0)
            return cls(reader, kept, tokens, (tokens + held) / _READ + tokens * d.k * d.d_model / _PRODUCTS)
        tokens = d.config.build.n_activations if view.annotation is None else view.annotation.record.n_tokens
        return cls(reader, None, tokens, tokens / model.rate(d))

    def as_json(self) -> dict[str, Any]:
        how = "kept" if self.kept is not None else "model"
        return {"how": how, "source": self.reader.name, "tokens": self.tokens, "seconds": self.seconds}


def _text_of(view: View, model: Live) -> tuple[list[str] | None, str | None]:
    """Where the build's text is and the field that holds it, as its run.yaml says; None for what has a name.

    Raises EPError where neither is known.
    """
    source, run = view.dictionary.config.text.source, {}
    if source == CORPUS_NAME or source.startswith(HUB_PREFIX):
        return None, None
    try:
        run = yaml.safe_load((view.entry.build_folder / FILE).read_text(encoding="utf-8"))
        text, field = model.text or run.get("text"), run.get("field")
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        text, field = model.text, None
    if not text:
        raise EPError(
            f"the dictionary was built from {source}, and its folder does not say where that lies: start `ep explore` "
            "with --live --text PATH"
        )
    return [str(part) for part in ([text] if isinstance(text, str) else text)], field


@dataclass(frozen=True, eq=False)
class Members:
    """A text read again, with the region of each activation.

    Attributes:
        ids_t: tokens of all windows, one after another.
        document_w, position_w, prefix_w: of each window: its document, the offset in it of its first token, and tokens
            before that, such as a BOS.
        end_w: where in `ids_t` windows end.
        at_n: where in `ids_t` activations are.
        region_n, distance_n: to which region each belongs.
        kept: activations in the same order, where they were kept.
    """

    view: View
    tokenizer: Any
    ids_t: Int32[np.ndarray, " t"]
    document_w: list[str]
    position_w: Int64[np.ndarray, " w"]
    prefix_w: Int64[np.ndarray, " w"]
    end_w: Int64[np.ndarray, " w"]
    at_n: Int64[np.ndarray, " n"]
    region_n: Int32[np.ndarray, " n"]
    distance_n: Float32[np.ndarray, " n"]
    kept: Kept | None

    @classmethod
    def read(cls, model: Live, view: View, plan: Plan, tell: Tell) -> Members:
        """Read the text, telling how much is read. Raises EPError if it is not what activations were kept of."""
        d, length = view.dictionary, 0
        ids, windows, at, regions, distances = [], [], [], [], []
        for chunk, x_nd in _activations(model, view, plan):
            region_n, distance_n = d.assign(x_nd)
            ids += [window.ids for window in chunk.windows]
            windows += chunk.windows
            at.append(chunk.kept + length)
            regions.append(region_n.astype(np.int32))
            distances.append(distance_n.astype(np.float32))
            length += sum(len(window.ids) for window in chunk.windows)
            tell(chunk.tokens_read / plan.tokens)
        if not at:
            raise EPError(f"{plan.reader.name} gave no text to read")
        return cls(
            view=view,
            tokenizer=model.loaded.tokenizer,
            ids_t=np.concatenate(ids),
            document_w=[window.document for window in windows],
            position_w=np.array([window.start for window in windows]),
            prefix_w=np.array([window.prefix for window in windows]),
            end_w=np.cumsum([len(window.ids) for window in windows]),
            at_n=np.concatenate(at),
            region_n=np.concatenate(regions),
            distance_n=np.concatenate(distances),
            kept=plan.kept,
        )

    def of(self, region: int, order: str, offset: int, limit: int, context: int) -> dict[str, Any]:
        """A page of a region's members in some order, each with so many tokens around it, within its window.

        Raises EPError for an unknown order.
        """
        check_choice("sort", order, ORDERS)
        rows = np.flatnonzero(self.region_n == self.view.check_region(region))
        if order == "random":
            rows = np.random.default_rng(region).permutation(rows)
        else:
            rows = rows[np.argsort(self.distance_n[rows] * (1 if order == "nearest" else -1), kind="stable")]
        page = rows[offset:][: min(limit, _MOST)]
        return {"total": len(rows), "examples": [self._example(row, min(context, _LONGEST)) for row in page.tolist()]}

    def _example(self, row: int, context: int) -> dict[str, Any]:
        at = int(self.at_n[row])
        window = int(np.searchsorted(self.end_w, at, side="right"))
        first = int(self.end_w[window - 1]) if window else 0
        begin = first + int(self.prefix_w[window])
        start = max(begin, at - context * 2 // 3)
        end = min(int(self.end_w[window]), start + context + 1)
        return {
            "document": self.document_w[window],
            "position": int(self.position_w[window]) + at - begin,
            "distance": float(self.distance_n[row]),
            "at": at - start,
            "tokens": token_texts(self.tokenizer, self.ids_t[start:end]),
            "distances": self._heat(row, start, end),
        }

    def _heat(self, row: int, start: int, end: int) -> list[float | None]:
        """Distances of the tokens start..end-1 to the exemplar of the row's region; all but its own need kept ones."""
        heat: list[float | None] = [None] * (end - start)
        first, last = np.searchsorted(self.at_n, [start, end])
        if self.kept is None:
            first, last, distances = row, row + 1, self.distance_n[row : row + 1]
        else:
            d = self.view.dictionary
            x_nd = self.kept.spill.read(d.config.site.name, int(first), int(last))
            distances = d.distances(x_nd.numpy())[:, self.region_n[row]]
        for place, distance in zip(self.at_n[first:last] - start, distances, strict=True):
            heat[place] = round(float(distance), 3)
        return heat


def _activations(model: Live, view: View, plan: Plan) -> Iterator[tuple[Chunk, np.ndarray]]:
    site, chunks = view.dictionary.config.site.name, plan.reader.chunks(plan.tokens)
    if plan.kept is None:
        for chunk, activations in model.extracted(chunks, site):
            yield chunk, activations[site].numpy()
        return
    for chunk in itertools.islice(chunks, len(plan.kept.spill.rows)):
        if (read := plan.kept.read(chunk.digest, len(chunk.kept), [site])) is None:
            raise EPError(
                f"{plan.reader.name} has other tokens by now than when activations were kept of it in "
                f"{view.entry.build_folder}"
            )
        yield chunk, read[site].numpy()


def _planned(request: Request) -> Response:
    seen = view(request)
    seen.check_region(request.path_params["region"])
    return Json(Plan.of(live(request), seen).as_json())


def _members(request: Request) -> Response:
    seen, model, background = view(request), live(request), request.app.state.background
    region, order = seen.check_region(request.path_params["region"]), request.query_params.get("sort", "nearest")
    check_choice("sort", order, ORDERS)
    read = background.get(("members", seen.key), lambda tell: Members.read(model, seen, Plan.of(model, seen), tell))
    asked = {name: number(request, name, default) for name, default in (("offset", 0), ("limit", 20), ("context", 60))}
    return Json(read.of(region, order, **asked))


ROUTES = [
    Route("/api/dictionaries/{key}/regions/{region:int}/members", _members),
    Route("/api/dictionaries/{key}/regions/{region:int}/members/plan", _planned),
]
