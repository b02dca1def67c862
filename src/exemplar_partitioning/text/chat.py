"""Prompts and conversations as a chat model sees them, and whose every token is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date as Date
from typing import Any, cast

import numpy as np

from ..errors import DataError, EPError
from .conversations import Conversation, Message

_CLOCK = "strftime_now"  # what transformers calls the function that templates ask for the date
_DIRECTIVES = "aAbBcdDeFgGhHIjmMnpPrRsStTuUVwWxXyYzZ"
_MARK = "\u2402\u2403mark\u2403\u2402"  # not in texts, and not changed by templates that trim


@dataclass(frozen=True)
class Span:
    """What one turn, by its number, says: characters start..stop-1 of a rendered conversation."""

    start: int
    stop: int
    role: str
    turn: int


@dataclass(frozen=True)
class Rendered:
    """A conversation in a chat template, and what the turns say in it, in order."""

    text: str
    spans: tuple[Span, ...]


def in_template(tokenizer: Any, prompt: str, date: str | None = None) -> str:
    """A prompt as the user's message in the tokenizer's chat template, up to where the answer begins.

    Special tokens, BOS too if the model wants one, are part of it.

    Args:
        tokenizer: Of transformers.
        prompt: The user's message.
        date: The day (ISO) that templates are told it is; today's by default.

    Raises:
        EPError: there is no template.
    """
    return _render(tokenizer, _template(tokenizer, date), [{"role": "user", "content": prompt}], prompting=True)


def prompt_ids(tokenizer: Any, conversation: Conversation, date: str | None = None) -> list[int]:
    """Token ids of a conversation in the tokenizer's chat template, up to where the next answer begins."""
    text = _render(tokenizer, _template(tokenizer, date), conversation.turns, conversation.tools, prompting=True)
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def template_date(tokenizer: Any) -> str | None:
    """Today (ISO), if the tokenizer's chat template asks for the date; None if it renders alike on every day."""
    if _CLOCK not in _source(tokenizer):
        return None
    return _render(tokenizer, f"{{{{ {_CLOCK}('%Y-%m-%d') }}}}", [{"role": "user", "content": ""}])


def rendered(tokenizer: Any, conversation: Conversation, date: str | None = None) -> Rendered:
    """A conversation in the tokenizer's chat template, and what each turn says in it.

    Where the template tells what the assistant generates (`{% generation %}`), that is what assistant turns say,
    the end of the turn included. Elsewhere it is the content of the message: found by rendering the conversation
    with another content in its place, or, for a turn that says something else (a call of a tool), by rendering
    the turns before it and those up to it.

    Raises:
        EPError: there is no template, it refuses the conversation, or leaves a turn out.
    """
    template, turns = _template(tokenizer, date), conversation.turns
    text = _render(tokenizer, template, turns, conversation.tools)
    generated = _generated(tokenizer, template, conversation)
    spans = list(generated)
    for number, turn in enumerate(turns):
        if generated and turn["role"] == "assistant":
            continue
        span = _marked(tokenizer, template, conversation, text, number) or _between(
            tokenizer, template, conversation, text, number
        )
        if span is None:
            raise EPError(
                f"the chat template of {_name(tokenizer)} leaves out turn {number} ({turn['role']}) of a conversation "
                f"of {len(turns)}; it takes other roles, or one turn only"
            )
        spans.append(span)
    return Rendered(text, tuple(sorted(spans, key=lambda span: span.start)))


def token_roles(spans: Sequence[Span], offsets: Sequence[tuple[int, int]], base: int = 0) -> list[str | None]:
    """The role of each token: of the turn that says any of its characters, None for what the template adds.

    Args:
        spans: Of a rendered conversation, in order.
        offsets: Start and stop of each token, in characters, as tokenizers give them.
        base: Characters before the piece that the offsets count from.
    """
    roles: list[str | None] = []
    at = 0
    for start, stop in offsets:
        while at < len(spans) and spans[at].stop <= start + base:
            at += 1
        covered = at < len(spans) and start < stop and stop + base > spans[at].start
        roles.append(spans[at].role if covered else None)
    return roles


def ids_and_offsets(tokenizer: Any, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Token ids of a text, int32 [n], and where each token lies in it; EPError if the tokenizer does not tell."""
    if not getattr(tokenizer, "is_fast", False):
        raise EPError(f"{_name(tokenizer)} does not tell where its tokens lie in the text; use its fast version")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return np.asarray(encoded["input_ids"], np.int32), encoded["offset_mapping"]


def _name(tokenizer: Any) -> str:
    return tokenizer.name_or_path or "the tokenizer"


def _source(tokenizer: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise EPError(f"{_name(tokenizer)} has no chat template; leave out chat to take prompts as plain text")
    return tokenizer.get_chat_template()


def _template(tokenizer: Any, date: str | None) -> str:
    """The chat template, in which it is `date` if it asks for the date."""
    source = _source(tokenizer)
    if date is None or _CLOCK not in source:
        return source
    try:
        day = Date.fromisoformat(date)
    except ValueError:
        raise DataError(f"the date of the chat template is {date!r}, expected one such as 2026-11-27") from None
    # A function of the template's own stands before the environment's.
    fields = {f"%-{c}": day.strftime(f"%-{c}") for c in "dmyjHIMSUW"} if os.name != "nt" else {}
    fields |= {f"%{c}": day.strftime(f"%{c}") for c in _DIRECTIVES if c != "s"} | {"%%": "%"}
    replaced = "".join(f" | replace({key!r}, {value!r})" for key, value in fields.items())
    return f"{{% macro {_CLOCK}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n{source}"


def _render(
    tokenizer: Any, template: str, turns: Sequence[Message], tools: Sequence[Any] = (), *, prompting: bool = False
) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            list(turns),
            tools=list(tools) or None,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=prompting,
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        roles = ", ".join(turn["role"] for turn in turns[:8])
        raise EPError(
            f"the chat template of {_name(tokenizer)} refuses a conversation of {roles or 'no turns'}: {error}"
        ) from error


def _generated(tokenizer: Any, template: str, conversation: Conversation) -> list[Span]:
    """What the template itself tells to be generated; nothing if it does not tell."""
    from transformers.utils.chat_template_utils import render_jinja_template

    if "generation" not in template.replace("add_generation_prompt", ""):
        return []
    turns = [{name: value for name, value in turn.items() if value is not None} for turn in conversation.turns]
    _, found = render_jinja_template(
        [turns],
        tools=list(conversation.tools) or None,
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    generated = cast("list[tuple[int, int]]", found[0])
    answers = [number for number, turn in enumerate(conversation.turns) if turn["role"] == "assistant"]
    if len(answers) != len(generated):  # a turn may be told of in parts
        answers = [-1] * len(generated)
    spans = zip(answers, generated, strict=True)
    return [Span(start, stop, "assistant", turn) for turn, (start, stop) in spans if stop > start]


def _marked(tokenizer: Any, template: str, conversation: Conversation, text: str, number: int) -> Span | None:
    """Where a turn's content is, found by putting a mark in its place; None if that changes anything else."""
    turns = list(conversation.turns)
    if not isinstance(turns[number].get("content"), str):
        return None
    turns[number] = turns[number] | {"content": _MARK}
    try:
        other = _render(tokenizer, template, turns, conversation.tools)
    except EPError:
        return None
    start = other.find(_MARK)
    stop = len(text) - (len(other) - start - len(_MARK))
    if start < 0 or stop < start or text[:start] != other[:start] or text[stop:] != other[start + len(_MARK) :]:
        return None
    return Span(start, stop, turns[number]["role"], number)


def _between(tokenizer: Any, template: str, conversation: Conversation, text: str, number: int) -> Span | None:
    """What a turn adds to those before it."""
    turns = conversation.turns
    answers = turns[number]["role"] == "assistant"
    try:
        before = _render(tokenizer, template, turns[:number], conversation.tools, prompting=answers) if number else ""
        upto = _render(tokenizer, template, turns[: number + 1], conversation.tools)
    except EPError:
        return None
    start, stop = _common(before, text), _common(upto, text)
    return Span(start, stop, turns[number]["role"], number) if stop > start else None


def _common(a: str, b: str) -> int:
    """Characters with which both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
