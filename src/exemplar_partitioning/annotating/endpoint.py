"""Labels from a language model behind an OpenAI-compatible endpoint. Only `ask` sends anything."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import EPError, ResourceError, require_extra
from ..folder.dictionary import StoredDictionary
from ..folder.labels import LIMIT, Label, Labels, one_line
from ..text.visible import visible
from .questions import SYSTEM, NoLabel, Outcome, Plan, Question, label_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_ANSWER = 256  # tokens that the model may spend on an answer
_AT_ONCE = 4  # requests
_TIMEOUT = 60.0  # seconds, for each try
_RETRIES = 4
_GIVE_UP = 12  # failures in a row
_SAVE_SECONDS = 1.0


def connect(url: str, key: str | None) -> AsyncOpenAI:
    """A client for an endpoint; sends nothing yet. Raises EPError without the package or a proper URL."""
    require_extra("labels", "openai", of="asking an endpoint")
    from openai import AsyncOpenAI

    if not re.match(r"https?://[^/]", url):
        raise EPError(f"{url!r} is not the address of an endpoint; give one such as http://localhost:8000/v1")
    return AsyncOpenAI(base_url=url, api_key=key or "none", timeout=_TIMEOUT, max_retries=_RETRIES)


def ask(
    dictionary: StoredDictionary,
    planned: Plan,
    client: AsyncOpenAI,
    on_answer: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Put the questions, a few at a time, and save labels as they come; on_answer is told after each.

    A question without a usable answer is counted and left for the next time; after many in a row the rest is
    not asked. Whatever ends this, answers had so far are saved. Raises ResourceError if no question was answered.
    """
    outcome = asyncio.run(_ask_all(Labels.read(dictionary), planned.questions, client, on_answer))
    if outcome.failures and not outcome.labels:
        region, why = next(iter(outcome.failures.items()))
        raise ResourceError(
            f"no label from {client.base_url}: {len(outcome.failures):,} of {len(planned.questions):,} requests made, "
            f"none with a usable answer. The first, for region {region}: {why}. "
            "Check the address, the name of the model and the key"
        )
    return outcome


async def _ask_all(
    labels: Labels, questions: list[Question], client: AsyncOpenAI, on_answer: Callable[[Outcome], None]
) -> Outcome:
    outcome, unsaved, remaining = Outcome(), list[Label](), iter(questions)
    in_a_row, saved_at = 0, time.monotonic()

    def save() -> None:
        nonlocal saved_at
        labels.add(unsaved)
        unsaved.clear()
        saved_at = time.monotonic()

    async def work() -> None:
        nonlocal in_a_row
        while in_a_row < _GIVE_UP and (question := next(remaining, None)):
            try:
                text = label_of(await _answer(client, question))
            except NoLabel as error:
                outcome.failures[question.region] = str(error)
                in_a_row += 1
            else:
                label = Label(region=question.region, text=text, source=question.source, prompt=question.digest)
                outcome.labels.append(label)
                unsaved.append(label)
                in_a_row = 0
                if time.monotonic() - saved_at >= _SAVE_SECONDS:
                    save()
            on_answer(outcome)

    try:
        async with client, asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(work())
    finally:
        if unsaved:
            save()
    outcome.not_asked = sum(1 for _ in remaining)
    return outcome


async def _answer(client: AsyncOpenAI, question: Question) -> str:
    import openai

    try:
        response = await client.chat.completions.create(
            model=question.model,
            messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": question.prompt}],
            max_completion_tokens=_ANSWER,
        )
        content = response.choices[0].message.content
    except openai.APITimeoutError as error:
        raise NoLabel(f"no answer within {_TIMEOUT:g} s") from error
    except openai.APIStatusError as error:
        raise NoLabel(f"refused with {error.status_code}: {visible(one_line(error.message))[:LIMIT]}") from error
    except openai.OpenAIError as error:
        raise NoLabel(visible(one_line(str(error)))[:LIMIT] or type(error).__name__) from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise NoLabel("the answer is not a chat completion; does the address end in /v1?") from error
    return content if isinstance(content, str) else ""
