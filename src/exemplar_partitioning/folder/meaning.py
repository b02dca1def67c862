"""Regions by what a phrase means to the model: the phrase is read, and its activations' nearest exemplars come."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch

from ..errors import EPError
from ..models.capture import Extractor
from ..models.identity import special_token_ids
from ..models.load import bos_id
from ..models.loaded import LoadedModel
from ..models.sites import resolve_sites
from .dictionary import StoredDictionary
from .labels import Labels
from .model import check_model
from .text_search import Hit, excerpt

_CARRIERS = ("This text is about {}", "He spoke for an hour about {}", "One example of it is {}")
"""Sentences that a phrase is read in: its last token has seen all of it, and stands where most tokens stand."""
_NEUTRAL = "that"
"""What is read in the same sentences, to leave out what they mean themselves."""


def nearest(dictionary: StoredDictionary, loaded: LoadedModel, phrase: str, top: int = 20) -> list[Hit]:
    """Regions whose exemplars lie nearest to a phrase: to the direction of its last token, read in some sentences.

    Args:
        dictionary: whose regions.
        loaded: its model.
        phrase: a word or some.
        top: as many at most.

    Returns:
        Nearest first; the score is the cosine.

    Raises:
        EPError: another model, or a phrase without tokens.
    """
    check_model(dictionary, loaded)
    cosine_k = dictionary.exemplars.numpy() @ _direction(dictionary, loaded, phrase)
    order = np.argsort(-cosine_k, kind="stable")[:top].tolist()
    labels = Labels.read(dictionary).some(order)
    return [
        Hit(region, "meaning", float(cosine_k[region]), label.text, excerpt(dictionary, region, phrase))
        for region, label in zip(order, labels, strict=True)
    ]


def _direction(dictionary: StoredDictionary, loaded: LoadedModel, phrase: str) -> np.ndarray:
    special = special_token_ids(loaded.tokenizer)
    prefix = [bos_id(loaded)] if dictionary.config.text.prepend_bos else []
    windows: list[Any] = []
    for carrier, words in product(_CARRIERS, (phrase.strip(), _NEUTRAL)):
        ids = loaded.tokenizer(carrier.format(words), add_special_tokens=False)["input_ids"]
        windows.append(np.array([*prefix, *(i for i in ids if i not in special)]))
    if not phrase.strip():
        raise EPError("there is no phrase to look for; give a word or some")
    (site,) = resolve_sites(dictionary.config.site.name, loaded.architecture)
    last = torch.tensor(np.cumsum([len(window) for window in windows]) - 1)
    x_nd = Extractor(loaded.model, [site]).extract(windows)[site][last]
    u_nd = x_nd.double() - dictionary.center.double()
    u_nd /= u_nd.norm(dim=1, keepdim=True)
    difference_d = (u_nd[::2] - u_nd[1::2]).mean(dim=0)
    return (difference_d / difference_d.norm().clamp(min=1e-12)).float().numpy()
