"""What is asked of an intervention: text to continue, and the regions to act on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...act.fluency import ALPHA, random_direction
from ...act.steer import ablate, steer
from ...core.choices import Basis
from ...errors import EPError
from ...folder.dictionary import StoredDictionary
from ...models.generate import Prompt
from ...models.loaded import LoadedModel
from ...models.touched_tokens import Tokens

MOST = 200  # new tokens
MOST_TURNS = 100  # of a conversation
FARTHEST = 1000  # alpha: nothing but the direction is left long before, and float32 overflows long after


class Turn(BaseModel):
    """What was said before: roles are those of the model's chat template."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class Steering(BaseModel):
    """What is asked for: see docs/explorer-api.md."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: str
    turns: list[Turn] = Field(default=[], max_length=MOST_TURNS)
    regions: list[int]
    alpha: Annotated[float, Field(ge=-FARTHEST, le=FARTHEST, allow_inf_nan=False)] | Literal["auto"] = ALPHA
    mode: Literal["add", "ablate"] = "add"
    basis: Basis = "exemplar"
    tokens: Tokens = "all"
    max_new_tokens: int = Field(default=40, ge=1, le=MOST)

    @classmethod
    def of(cls, body: Any) -> Steering:
        """From the JSON of a request; EPError, naming the field, if it does not fit."""
        if not isinstance(body, dict):
            raise EPError('send a JSON object such as {"prompt": "...", "regions": [42], "alpha": 0.25}')
        try:
            asked = cls.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            field, *inside = first["loc"]
            where = ".".join([str(field), *(str(part) for part in inside if isinstance(part, int))])
            raise EPError(f"{where}: {first['msg']}; got {repr(first['input'])[:60]}") from error
        if not asked.prompt.strip():
            raise EPError("the prompt is empty; give some words to continue")
        return asked

    @property
    def whole(self) -> Prompt:
        """The prompt, behind the turns before it."""
        turns = [turn.model_dump() for turn in self.turns]
        return [*turns, {"role": "user", "content": self.prompt}] if turns else self.prompt

    def acting(self, loaded: LoadedModel, dictionary: StoredDictionary, alpha: float) -> AbstractContextManager[None]:
        """The intervention, to be opened. Raises EPError: see `act.steer.steer`."""
        if self.mode == "ablate":
            return ablate(loaded, dictionary, self.regions, basis=self.basis, tokens=self.tokens)
        return steer(loaded, dictionary, self.regions, alpha=alpha, basis=self.basis, tokens=self.tokens)

    def at_random(
        self, loaded: LoadedModel, dictionary: StoredDictionary, alpha: float
    ) -> AbstractContextManager[None]:
        """A step of the same length along a random direction: the null of `add`."""
        direction_d = random_direction(dictionary.d_model)
        return steer(loaded, dictionary, self.regions, alpha=alpha, basis=direction_d, tokens=self.tokens)
