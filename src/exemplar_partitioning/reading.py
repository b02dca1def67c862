"""A text read through dictionaries: the region of every token, and how far it lies from the exemplar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .core.choices import READ_STEPS, Basis, Method
from .errors import EPError
from .folder.dictionary import StoredDictionary
from .folder.model import check_model
from .folder.model import model_of as model_of  # the tutorial of 0.1.0 imports it from here
from .models.capture import Extractor
from .models.generate import Prompt, generate
from .models.hooks import applied
from .models.identity import special_token_ids
from .models.load import bos_id
from .models.loaded import LoadedModel
from .models.sites import resolve_sites
from .text.readers import Document
from .text.tokens import token_texts
from .text.windowing import Windowing
from .text.windows import Window, special_mask, windows


@dataclass(frozen=True)
class TokenReading:
    """One token of a text.

    Attributes:
        position: offset in the text, in tokens.
        text: its own piece of the text.
        region: nearest exemplar, None for special tokens and activations without a direction.
        distance: cosine distance to it.
        within: whether that is within the threshold.
    """

    position: int
    token_id: int
    text: str
    region: int | None
    distance: float | None
    within: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class TokenDecomposition:
    """Of what one token's activation is made.

    Attributes:
        position: offset in the text, in tokens.
        text: its own piece of the text.
        regions: in the order picked; none for special tokens and activations without a direction.
        weights: of these.
        norm: length of the activation from the centre, in the units of the weights; None where there are no regions.
        left: share of that length that the regions do not make up.
    """

    position: int
    token_id: int
    text: str
    regions: list[int]
    weights: list[float]
    norm: float | None
    left: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class TextTokens(NamedTuple):
    """A text's own tokens: offsets, ids, pieces, which are special; and their activations at each site."""

    position_n: np.ndarray
    id_n: np.ndarray
    pieces: list[str]
    special_n: np.ndarray
    activations: dict[str, Float[Tensor, "n d"]]


def read(
    dictionaries: Sequence[StoredDictionary],
    loaded: LoadedModel,
    text: str,
    *,
    batch_size: int = 16,
    on_batch: Callable[[int], None] | None = None,
) -> list[list[TokenReading]]:
    """Read a text once; for each dictionary, every token of the text in order.

    Texts longer than the dictionary's context are cut into windows as they were when it was built. All
    dictionaries must share one model and one windowing. Where documents were pooled, all tokens have the region of the
    text. batch_size, on_batch: of windows, as the Extractor has them.
    Raises EPError for another model or an empty text.
    """
    tokens = tokens_of(dictionaries, loaded, text, batch_size, on_batch)
    readings = []
    for dictionary in dictionaries:
        region_n, distance_n = dictionary.assign(tokens.activations[dictionary.config.site.name].numpy())
        region_n[tokens.special_n] = -1
        readings.append(
            [
                TokenReading(
                    int(tokens.position_n[i]),
                    int(tokens.id_n[i]),
                    piece,
                    int(region_n[i]) if region_n[i] >= 0 else None,
                    float(distance_n[i]) if region_n[i] >= 0 else None,
                    bool(region_n[i] >= 0 and distance_n[i] <= dictionary.threshold),
                )
                for i, piece in enumerate(tokens.pieces)
            ]
        )
    return readings


def decomposed(
    dictionary: StoredDictionary,
    loaded: LoadedModel,
    text: str,
    k: int = READ_STEPS,
    *,
    basis: Basis = "exemplar",
    method: Method = "omp",
) -> list[TokenDecomposition]:
    """Of what every token of a text is made; see `read`, and `Dictionary.decompose` for k, basis and method.

    Args:
        dictionary: whose directions the tokens are made of.
        loaded: its model.
        text: what to read.
        k: regions a token, at most.
        basis: see `Dictionary.decompose`.
        method: see there.

    Returns:
        One record a token of text.

    Raises:
        EPError: another model, a text without tokens, or a k out of range.
    """
    dictionary.check_pursuit(k, basis=basis, method=method)
    tokens = tokens_of([dictionary], loaded, text)
    x_nd = tokens.activations[dictionary.config.site.name]
    parts = dictionary.decompose(x_nd, k, basis=basis, method=method)
    norm_n = torch.linalg.vector_norm(x_nd - dictionary.center, dim=1)
    answer = []
    for i, piece in enumerate(tokens.pieces):
        known = not tokens.special_n[i] and bool(parts.residual_norm[i].isfinite())
        used_k = (parts.regions[i] >= 0) & known
        answer.append(
            TokenDecomposition(
                int(tokens.position_n[i]),
                int(tokens.id_n[i]),
                piece,
                parts.regions[i][used_k].tolist(),
                parts.weights[i][used_k].tolist(),
                float(norm_n[i]) if known else None,
                float(parts.residual_norm[i] / norm_n[i]) if known else None,
            )
        )
    return answer


def tokens_of(
    dictionaries: Sequence[StoredDictionary],
    loaded: LoadedModel,
    text: str,
    batch_size: int = 16,
    on_batch: Callable[[int], None] | None = None,
) -> TextTokens:
    """A text's tokens with their activations at the sites of some dictionaries; arguments as in `read`."""
    windowing = _in_order(dictionaries[0])
    for dictionary in dictionaries:
        check_model(dictionary, loaded)
        assert _in_order(dictionary) == windowing
    special = special_token_ids(loaded.tokenizer)
    bos = bos_id(loaded) if windowing.prepend_bos else -1
    cut = list(windows([Document("text", text)], loaded.tokenizer, windowing, bos_id=bos, special_ids=special))
    if not cut:
        raise EPError(f"the text has no tokens to read: {text[:40]!r}; give some words")
    names = {d.config.site.name for d in dictionaries}
    sites = {name: resolve_sites(name, loaded.architecture)[0] for name in names}
    extractor = Extractor(loaded.model, list(sites.values()), batch_size=batch_size)
    activations = extractor.extract([window.ids for window in cut], on_batch)
    ids, positions, ordinary = _tokens(cut)
    special_n = special_mask(ids[ordinary], special)
    own = {name: activations[site][torch.from_numpy(ordinary)] for name, site in sites.items()}
    if windowing.pool and not special_n.all():  # the text has one activation, which is that of every token
        text_n = torch.from_numpy(~special_n)
        own = {name: x_nd[text_n].double().mean(0).float().expand_as(x_nd) for name, x_nd in own.items()}
    pieces = token_texts(loaded.tokenizer, ids[ordinary])
    return TextTokens(positions[ordinary], ids[ordinary], pieces, special_n, own)


def _in_order(dictionary: StoredDictionary) -> Windowing:
    """How a dictionary's text was cut, without what decides the order of windows, or which tokens of them count."""
    windowing = dictionary.config.text.windowing
    return windowing.model_copy(update={"shuffle_buffer": 0, "seed": 0, "positions": "all", "roles": ()})


def _tokens(cut: list[Window]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids and positions of all windows, and which are the text's own rather than a prepended BOS."""
    ids = np.concatenate([window.ids for window in cut])
    positions = np.concatenate([window.positions for window in cut])
    return ids, positions, positions >= 0


@dataclass(frozen=True)
class WrittenToken:
    """A token that a model wrote, and where its activation lay while it wrote.

    Attributes:
        region: nearest, with its cosine distance; None for special tokens and activations without a direction.
        off: farther than theta from every exemplar: off the manifold that the dictionary knows.
    """

    token_id: int
    text: str
    region: int | None
    distance: float | None
    off: bool


def written(
    loaded: LoadedModel,
    dictionary: StoredDictionary,
    prompt: Prompt,
    *,
    max_new_tokens: int = 64,
    chat: bool | None = None,
    on_token: Callable[[], None] = lambda: None,
) -> list[WrittenToken]:
    """Continue a prompt greedily and read every new token as it is written; interventions that are open take part.

    What `on_token`, called at each, raises ends the writing.
    """
    rows: list[Float[Tensor, "n d"]] = []

    def keep(x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        on_token()
        rows.append(x_nd[-1:].to("cpu", copy=True))  # a model without a cache reads the earlier ones again
        return x_nd

    text = dictionary.config.text
    with applied(loaded.model, keep, dictionary.config.site.name, tokens="generated", bos=text.begins_with):
        # A token's activation is there once the next one is written, so one more is.
        (generation,) = generate(loaded, [prompt], max_new_tokens=max_new_tokens + 1, chat=chat)
    ids = generation.ids[:max_new_tokens]
    if not ids:
        return []
    special = special_token_ids(loaded.tokenizer)
    region_n, distance_n = dictionary.assign(torch.cat(rows)[: len(ids)])
    tokens = []
    for token, text, region, distance in zip(
        ids, token_texts(loaded.tokenizer, ids), region_n.tolist(), distance_n.tolist(), strict=True
    ):
        known = region >= 0 and token not in special
        off = distance > dictionary.threshold and token not in special
        tokens.append(WrittenToken(token, text, region if known else None, distance if known else None, off))
    return tokens
