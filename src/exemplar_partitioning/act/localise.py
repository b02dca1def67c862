"""Which regions carry a behaviour: prompts that show it against prompts that do not.

Shapes: n prompts, k regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ..core.dictionary import Dictionary
from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..folder.model import check_model
from ..models.capture import Extractor, extract_rows
from ..models.generate import encode
from ..models.identity import special_token_ids
from ..models.loaded import LoadedModel
from ..models.sites import Site, resolve_sites
from ..text.windows import special_mask

Position = Literal["final", "any"]


@dataclass(frozen=True)
class RegionRate:
    """How often the prompts that meet a region show the behaviour.

    Attributes:
        prompts: that meet the region.
        showing: of them with the behaviour.
        rate: showing / prompts, with its Wilson interval (95 %).
        lift: rate over that of all prompts.
        p: probability of so high a rate by chance (one-sided, hypergeometric), corrected for the number of regions met
            (Holm).
    """

    region: int
    prompts: int
    showing: int
    rate: float
    low: float
    high: float
    lift: float
    p: float


def localise(
    dictionary: StoredDictionary,
    loaded: LoadedModel,
    prompts: Sequence[str],
    shows: Sequence[bool],
    *,
    position: Position = "final",
    chat: bool | None = None,
) -> list[RegionRate]:
    """Regions by how surely the prompts that meet them show a behaviour.

    Args:
        dictionary: the dictionary.
        loaded: the model it was built from.
        prompts: texts, or a user's messages.
        shows: whether each prompt shows the behaviour: a label, or what a scorer said of the model's answer.
        position: a prompt meets the region of its last token ("final"), or of any of its own tokens ("any").
        chat: as `models.generate.generate` takes it.

    Returns:
        One entry for each region that was met, lowest corrected p first.

    Raises:
        EPError: no prompts, none or all of which show it, another model, or a prompt longer than the context.
    """
    check_model(dictionary, loaded)
    shows_n = np.asarray(shows, bool)
    if len(shows_n) != len(prompts) or not len(prompts):
        raise EPError(f"there are {len(prompts)} prompts and {len(shows_n)} labels; expected as many, and some")
    if shows_n.all() or not shows_n.any():
        raise EPError(f"{shows_n.sum()} of {len(shows_n)} prompts show the behaviour; some must and some must not")
    return rates(_meets(dictionary, loaded, prompts, position, chat), shows_n)


def rates(meets_nk: Bool[np.ndarray, "n k"], shows_n: Bool[np.ndarray, " n"]) -> list[RegionRate]:
    """The statistics of `localise` from which prompt meets which region."""
    from scipy.stats import hypergeom

    met = np.flatnonzero(meets_nk.any(axis=0))
    prompts_m = meets_nk[:, met].sum(axis=0)
    showing_m = meets_nk[shows_n][:, met].sum(axis=0)
    base = shows_n.mean()
    p_m = holm(hypergeom.sf(showing_m - 1, len(shows_n), shows_n.sum(), prompts_m))
    low_m, high_m = wilson(showing_m, prompts_m)
    rate_m = showing_m / prompts_m
    order = np.lexsort((met, -prompts_m, -rate_m, p_m))
    return [
        RegionRate(
            int(met[i]),
            int(prompts_m[i]),
            int(showing_m[i]),
            float(rate_m[i]),
            float(low_m[i]),
            float(high_m[i]),
            float(rate_m[i] / base),
            float(p_m[i]),
        )
        for i in order
    ]


def wilson(
    hits: Int64[np.ndarray, " m"], n: Int64[np.ndarray, " m"]
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """95 % interval of a rate (Wilson 1927); behaves at 0, at 1 and for few trials."""
    z = 1.959964
    rate = hits / n
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)


def holm(p: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
    """p-values corrected for their number (Holm 1979): the chance that any of those rejected is wrong."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def last_activations(
    loaded: LoadedModel, sites: Sequence[Site], prompts: Sequence[str], *, chat: bool | None = None
) -> dict[Site, Float[Tensor, "n d"]]:
    """Activations at the last token of each prompt, where the answer begins: one pass for all sites."""
    windows = [np.array(encode(loaded, prompt, chat)) for prompt in prompts]
    activations = extract_rows(loaded.model, sites, windows, [np.array([len(window) - 1]) for window in windows])
    return {site: torch.from_numpy(x_nd) for site, x_nd in activations.items()}


def meets(
    dictionary: Dictionary, x_nd: Float[Tensor, "n d"], prompt_n: Int64[np.ndarray, " n"]
) -> Bool[np.ndarray, "p k"]:
    """Which prompt meets which region. prompt_n: the prompt that each activation belongs to, ascending from 0."""
    ids_n, _ = dictionary.assign(x_nd.numpy())
    meets_pk = np.zeros((int(prompt_n[-1]) + 1, dictionary.k), bool)
    placed_n = ids_n >= 0  # without a direction there is no region
    meets_pk[prompt_n[placed_n], ids_n[placed_n]] = True
    return meets_pk


def _meets(
    dictionary: StoredDictionary, loaded: LoadedModel, prompts: Sequence[str], position: Position, chat: bool | None
) -> Bool[np.ndarray, "n k"]:
    (site,) = resolve_sites(dictionary.config.site.name, loaded.architecture)
    if position == "final":
        return meets(dictionary, last_activations(loaded, [site], prompts, chat=chat)[site], np.arange(len(prompts)))
    windows = [np.array(encode(loaded, prompt, chat)) for prompt in prompts]
    x_nd = Extractor(loaded.model, [site]).extract(windows)[site]
    prompt_n = np.repeat(np.arange(len(prompts)), [len(window) for window in windows])
    ordinary = np.flatnonzero(~special_mask(np.concatenate(windows), special_token_ids(loaded.tokenizer)))
    return meets(dictionary, x_nd[torch.from_numpy(ordinary)], prompt_n[ordinary])
