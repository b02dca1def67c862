"""Tokens beside each other with their activations at the sites of a build: kept by it, or of the model that is loaded.

Shapes: t tokens, n activations of a stream, d = d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...errors import DataError, EPError
from ...files import disk_errors
from ...folder.activations import Kept
from ...folder.dictionary import StoredDictionary
from ...models.load import bos_id
from ...text.tokens import token_texts
from .library import NotFound, View
from .live import Live
from .turns import Job

EXEMPLAR = "exemplar"  # in place of an example's name, such as nearest-0
_ROWS = 1 << 16  # of activations looked through at once
_NEAR = 1e-4  # cosine distance, in float32
_SAME = 1e-9  # in the arithmetic that both distances come from
_ITSELF = 1e-6  # of an exemplar from the activation that it was
_ROUNDED = 2e-3  # of an example's distances, which are kept in thousandths


@dataclass(frozen=True, eq=False)
class Passage:
    """Tokens, one of which may be what it is about.

    Attributes:
        tokens: their texts.
        at: that token.
        known_t: which tokens have an activation.
        activations: by site, NaN where there is none; no site at all where none is at hand.
        source: `kept` by the build, or of the `model`.
        about: an example's document, position, region and distance.
        caveat: what differs from the activation that the example had.
        why_not: why there are no activations, and what to do.
    """

    tokens: list[str]
    at: int | None
    known_t: Bool[np.ndarray, " t"]
    activations: dict[str, Float[Tensor, "t d"]]
    source: str | None
    about: dict[str, Any]
    caveat: str | None = None
    why_not: str | None = None


def of_text(live: Live, views: Sequence[View], text: str, at: int | None, job: Job) -> Passage:
    """A text of the moment, read by the model. Raises EPError for a token that it does not have."""
    read = live.tokens([view.dictionary for view in views], text, job)
    if at is not None and at >= len(read.pieces):
        raise EPError(f"the text has {len(read.pieces):,} tokens, numbered from 0; got {at:,}")
    x_nd = next(iter(read.activations.values()))
    known_t = ~read.special_n & x_nd.isfinite().all(dim=1).numpy()
    return Passage(read.pieces, at, known_t, read.activations, source="model", about={"text": text})


def of_region(live: Live | None, view: View, region: int, name: str, *, sites: Sequence[str]) -> Passage:
    """An example of a region with the tokens around it, or its exemplar with those before it.

    Kept activations are what the example had; where there are none, the model reads the tokens again that are kept.

    Raises:
        NotFound: no such region, or no example of this name.
    """
    view.check_region(region)
    return _exemplar(live, view, region, sites) if name == EXEMPLAR else _example(live, view, region, name, sites)


def _exemplar(live: Live | None, view: View, region: int, sites: Sequence[str]) -> Passage:
    row = view.dictionary.regions.slice(region, 1).to_pylist()[0]
    about = {name: row[name] for name in ("document", "position")} | {"region": region, "distance": 0.0}
    ids, first = row["window_tokens"], 1 if view.dictionary.config.text.prepend_bos else 0
    if live is not None and len(ids) > first and min(ids) >= 0 and (read := _read(live, view, sites, ids)) is not None:
        tokens = token_texts(live.loaded.tokenizer, ids[first:])
        x = {site: x_td[first:] for site, x_td in read.items()}
        return Passage(tokens, len(tokens) - 1, np.full(len(tokens), True), x, source="model", about=about)
    tokens, known = [row["context"], row["token"]], np.array([False, True])
    kept, why_not = kept_by(view, sites)
    if kept is not None and (start := row["arrival_index"]) < kept.spill.n:
        x = {site: kept.spill.read(site, start, start + 1) for site in sites}
        (region_of,), (distance,) = view.dictionary.assign(x[view.dictionary.config.site.name].numpy())
        if region_of == region and distance < _ITSELF:
            x = {site: _spread(x_1d, known) for site, x_1d in x.items()}
            return Passage(tokens, 1, known, x, source="kept", about=about)
        why_not = "The activations kept in this folder are not those that the exemplars come from."
    return Passage(tokens, 1, known & False, {}, source=None, about=about, why_not=why_not or _ABSENT)


def _example(live: Live | None, view: View, region: int, name: str, sites: Sequence[str]) -> Passage:
    kind, _, rank = name.partition("-")
    if view.annotation is None:
        raise NotFound(view.not_annotated or "there are no examples")
    rows = [row for row in view.annotation.examples(region) if f"{row['kind']}-{row['rank']}" == f"{kind}-{rank}"]
    if not rows:
        raise NotFound(f"region {region} has no example {name[:40]!r}; they are named nearest-0, random-3, exemplar")
    row = rows[0]
    about = {key: row[key] for key in ("document", "position", "distance")} | {"region": region}
    tokens = row["tokens"] if any(row["tokens"]) else [row["document"]] * len(row["tokens"])
    known = np.array([distance is not None for distance in row["distances"]])
    known[row["at"]] = True
    kept, why_not = kept_by(view, sites)
    if kept is not None:
        if (start := _row_of(kept, view.dictionary, row, region)) is not None:
            known, x = _around(kept, view.dictionary, row, region, start=start, known=known, sites=sites)
            return Passage(tokens, row["at"], known, x, source="kept", about=about)
        why_not = (
            "Among the activations kept in this folder is none at the example's distance: the regions were annotated "
            "on other text."
        )
    ids = [int(i) for i in row["token_ids"]]
    if live is not None and ids and min(ids) >= 0:
        begin = [bos_id(live.loaded)] if view.dictionary.config.text.prepend_bos else []
        if (read := _read(live, view, sites, begin + ids)) is not None:
            x = {site: x_td[len(begin) :] for site, x_td in read.items()}
            return Passage(tokens, row["at"], known, x, source="model", about=about, caveat=_caveat(view, row, x))
    return Passage(tokens, row["at"], known & False, {}, source=None, about=about, why_not=why_not or _ABSENT)


_ABSENT = (
    "No activation of this token is at hand: start `ep explore` with --live, so that the model reads it again, or "
    "build with --keep-activations."
)


def _caveat(view: View, row: dict[str, Any], activations: dict[str, Tensor]) -> str | None:
    """What is to be said where the model, with the tokens that are kept, does not get the example's distance again."""
    d, at = view.dictionary, row["at"]
    (distance,) = d.distances(activations[d.config.site.name][at : at + 1].numpy())[:, row["region"]]
    if abs(distance - row["distance"]) < _ROUNDED:
        return None
    return (
        f"Read again from the {at} tokens before it that are kept, it lies {distance:.3f} from the exemplar; in its "
        f"text it lay {row['distance']:.3f} from it."
    )


def _read(live: Live, view: View, sites: Sequence[str], ids: Sequence[int]) -> dict[str, Tensor] | None:
    """Activations of token ids by the model that is loaded; None where it is not the dictionary's."""
    try:
        return live.activations(view.dictionary, ids, sites)
    except EPError:
        return None


def kept_by(view: View, sites: Sequence[str]) -> tuple[Kept | None, str | None]:
    """Activations that the build left, if they are of this model at all these sites; or why they are of no use."""
    try:
        with disk_errors(view.entry.build_folder):
            kept = Kept.beside(view.entry.build_folder)
            if kept is None or kept.model != view.dictionary.config.model.fingerprint:
                return None, None
            if not set(sites) <= set(kept.spill.paths):
                return None, None
            for site in sites:
                if kept.spill.paths[site].stat().st_size < kept.spill.n * kept.spill.widths[site] * 4:
                    return None, f"{kept.spill.paths[site]} is shorter than its record says."
            return kept, None
    except DataError as error:
        return None, str(error)


def _row_of(kept: Kept, d: StoredDictionary, row: dict[str, Any], region: int) -> int | None:
    """The first kept activation in a region at an example's distance, which names it: both have all digits."""
    site, e_d = d.config.site.name, d.exemplars[region]
    for start in range(0, kept.spill.n, _ROWS):
        x_nd = kept.spill.read(site, start, min(start + _ROWS, kept.spill.n))
        u_nd = torch.nn.functional.normalize(x_nd - d.center, dim=1)
        for near in ((1 - u_nd @ e_d - row["distance"]).abs() < _NEAR).nonzero()[:, 0].tolist():
            (nearest,), (distance,) = d.assign(x_nd[near : near + 1].numpy())
            if nearest == region and abs(distance - row["distance"]) < _SAME:
                return start + near
    return None


def _around(
    kept: Kept,
    d: StoredDictionary,
    row: dict[str, Any],
    region: int,
    *,
    start: int,
    known: Bool[np.ndarray, " t"],
    sites: Sequence[str],
) -> tuple[Bool[np.ndarray, " t"], dict[str, Tensor]]:
    """Activations of an example's tokens: those kept beside its own, if they lie where the example says; else its."""
    first = start - int(known[: row["at"]].sum())
    end = first + int(known.sum())
    if first >= 0 and end <= kept.spill.n:
        x = {site: _spread(kept.spill.read(site, first, end), known) for site in sites}
        distance_t = d.distances(x[d.config.site.name].numpy())[:, region]
        stated_t = np.array([np.nan if each is None else each for each in row["distances"]], float)
        if np.nanmax(np.abs(distance_t - stated_t)) < _ROUNDED:
            return known, x
    alone = np.arange(len(known)) == row["at"]
    return alone, {site: _spread(kept.spill.read(site, start, start + 1), alone) for site in sites}


def _spread(x_nd: Float[Tensor, "n d"], known_t: Bool[np.ndarray, " t"]) -> Float[Tensor, "t d"]:
    """Rows where they are known, NaN elsewhere."""
    x_td = torch.full((len(known_t), x_nd.shape[1]), torch.nan)
    x_td[torch.from_numpy(known_t)] = x_nd
    return x_td
