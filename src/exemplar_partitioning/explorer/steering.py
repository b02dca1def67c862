"""What the model writes, before and after acting on regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ..errors import EPError, ResourceError
from ..interventions.acting import Basis, ablate, steer
from ..interventions.generation import generate
from ..interventions.hooks import Tokens, applied
from ..models.load import LoadedModel, special_token_ids
from ..reading import token_texts
from ..store import StoredDictionary

MOST = 200  # new tokens
FARTHEST = 1000  # alpha: nothing but the direction is left long before, and float32 overflows long after


class Steering(BaseModel):
    """What is asked for: see docs/explorer-api.md."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: str
    regions: list[int]
    alpha: float = Field(default=1.0, ge=-FARTHEST, le=FARTHEST, allow_inf_nan=False)
    mode: Literal["add", "ablate"] = "add"
    basis: Basis = "exemplar"
    tokens: Tokens = "all"
    max_new_tokens: int = Field(default=40, ge=1, le=MOST)

    @classmethod
    def of(cls, body: Any) -> Steering:
        """From the JSON of a request; EPError, naming the field, if it does not fit."""
        if not isinstance(body, dict):
            raise EPError('send a JSON object such as {"prompt": "...", "regions": [42], "alpha": 1}')
        try:
            asked = cls.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise EPError(f"{where}: {first['msg']}; got {repr(first['input'])[:60]}") from error
        if not asked.prompt.strip():
            raise EPError("the prompt is empty; give some words to continue")
        return asked

    def acting(self, loaded: LoadedModel, dictionary: StoredDictionary) -> AbstractContextManager[None]:
        """The intervention, to be opened. Raises EPError: see `interventions.steer`."""
        if self.mode == "ablate":
            return ablate(loaded, dictionary, self.regions, basis=self.basis, tokens=self.tokens)
        return steer(loaded, dictionary, self.regions, alpha=self.alpha, basis=self.basis, tokens=self.tokens)


def written(
    loaded: LoadedModel, dictionary: StoredDictionary, prompt: str, max_new_tokens: int, *, stopping: Callable[[], bool]
) -> list[dict[str, Any]]:
    """The tokens that the model writes after a prompt, with their regions as they were while it wrote.

    Interventions that are open take part. `off` tells activations beyond theta of every exemplar.

    Raises ResourceError once `stopping`, asked at every token, says so; EPError: see `generate`.
    """
    rows: list[Float[Tensor, "n d"]] = []

    def keep(x_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        if stopping():
            raise ResourceError("the explorer is stopping; start it again")
        rows.append(x_nd.to("cpu", copy=True))
        return x_nd

    with applied(loaded.model, keep, dictionary.config.site.name, tokens="generated"):
        # A token's activation is there once the next one is written, so one more is.
        (generation,) = generate(loaded, [prompt], max_new_tokens=max_new_tokens + 1)
    ids = generation.ids[:max_new_tokens]
    return _read(loaded, dictionary, ids, torch.cat(rows)[: len(ids)]) if ids else []


def _read(
    loaded: LoadedModel, dictionary: StoredDictionary, ids: Sequence[int], x_nd: Float[Tensor, "n d"]
) -> list[dict[str, Any]]:
    special = special_token_ids(loaded.tokenizer)
    region_n, distance_n = dictionary.assign(x_nd)
    tokens = []
    for token, text, region, distance in zip(
        ids, token_texts(loaded.tokenizer, ids), region_n.tolist(), distance_n.tolist(), strict=True
    ):
        known = region >= 0 and token not in special
        tokens.append(
            {
                "token_id": token,
                "text": text,
                "region": region if known else None,
                "distance": distance if known else None,
                "off": distance > dictionary.threshold and token not in special,
            }
        )
    return tokens
