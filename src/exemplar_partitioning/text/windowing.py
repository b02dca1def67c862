"""How text becomes windows: declared here, once, for builds, dictionaries and whatever reads text as they did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from ..errors import EPError


class Settings(BaseModel):
    """Values that are checked when they are given. Raises EPError for one that does not fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    if not TYPE_CHECKING:  # checkers of types know the parameters from the fields

        def __init__(self, **values: Any):
            try:
                super().__init__(**values)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise EPError(f"{where}: {first['msg']}; got {first['input']}") from error


class Windowing(Settings):
    """How documents become windows, and which of their tokens count."""

    context_size: int = Field(default=128, ge=1, description="Tokens of text in a window.")
    prepend_bos: bool = Field(default=True, description="Begin every window with the BOS token.")
    chat: bool = Field(
        default=False,
        description="Each document is a user's message, or a conversation, in the model's chat template, which has a "
        "BOS of its own.",
    )
    template_date: str | None = Field(
        default=None,
        exclude_if=lambda date: date is None,
        description="The day that a chat template is told it is, where it asks: the first day of a build.",
    )
    positions: str = Field(
        default="all",
        pattern=r"^(all|first|last|every:[1-9]\d*|mask:.+)$",
        description="Tokens that count: all; the first or last of every window: with chat, where the answer begins; "
        "every:8, those at every eighth place of a document; mask:FIELD, those that a field of its row marks.",
    )
    roles: tuple[str, ...] = Field(
        default=(),
        exclude_if=lambda roles: not roles,
        description="Of conversations, only tokens that these say count, e.g. assistant; needs chat.",
    )
    pool: Literal["mean"] | None = Field(
        default=None,
        exclude_if=lambda pool: pool is None,
        description="mean: one activation a document, the mean of its tokens that count.",
    )
    generate: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda tokens: not tokens,
        description="Have the model answer every document, greedily in so many tokens at most; needs chat. Answers "
        "are kept in OUT/answers.jsonl.",
    )
    shuffle_buffer: int = Field(
        default=10_000, ge=0, description="Windows held back to be read in random order; 0 keeps theirs."
    )
    seed: int = Field(default=0, ge=0, description="Of the shuffle of windows.")

    @model_validator(mode="before")
    @classmethod
    def _templates_have_a_bos(cls, values: Any) -> Any:
        return {**values, "prepend_bos": False} if isinstance(values, dict) and values.get("chat") is True else values

    @model_validator(mode="after")
    def _roles_are_of_chats(self) -> Self:
        if self.roles and not self.chat:
            raise ValueError("roles are of conversations in a chat template: give chat=True (--chat) too")
        if self.generate and not self.chat:
            raise ValueError("answers are generated in a chat template: give chat=True (--chat) too")
        return self

    @property
    def mask(self) -> str | None:
        """The field that marks the tokens that count."""
        rule, _, field = self.positions.partition(":")
        return field if rule == "mask" else None

    @property
    def windowing(self) -> Windowing:
        """These settings alone."""
        return Windowing(**{name: getattr(self, name) for name in Windowing.model_fields})

    def __str__(self) -> str:
        bos = "in the chat template" if self.chat else f"{'with' if self.prepend_bos else 'no'} BOS"
        said = f" of {', '.join(self.roles)}" if self.roles else ""
        order = f"seed {self.seed}, buffer {self.shuffle_buffer:,}"
        pooled = f", {self.pool} of a document" if self.pool else ""
        answers = f", {self.generate} generated" if self.generate else ""
        return f"{self.context_size} tokens, {bos}, {self.positions} positions{said}{pooled}{answers}, {order}"


def ordered(settings: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of settings, those of the class before those of its bases."""
    classes = [kind for kind in settings.__mro__ if issubclass(kind, BaseModel)]
    return {
        name: settings.model_fields[name]
        for kind in classes
        for name in vars(kind).get("__annotations__", {})
        if name in settings.model_fields
    }
