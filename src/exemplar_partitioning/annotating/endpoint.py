"""Labels from a language model behind an OpenAI-compatible endpoint. Only `ask` sends anything.

An answer is kept with the hash of model and prompt: what was asked before is not asked again, unless the
evidence, and so the prompt, has changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import EPError, ResourceError, require_extra
from ..folder.dictionary import StoredDictionary
from ..folder.labels import LIMIT, Label, Labels, one_line
from ..text.visible import visible

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_SYSTEM = (
    "You name groups of tokens that a language model represents alike. You see examples from one group: in each, "
    "the token is marked <<so>>. Reply with a short label, at most ten words, that says what the marked tokens "
    "have in common: in themselves, in what comes before them, or in what they announce. "
    "Reply with the label alone, without quotes or explanation."
)
_EXAMPLES = 8  # of each kind
_AROUND = 120  # characters of context before an example's token; half as many after
_TOKENS = 8  # of each list
_ANSWER = 256  # tokens that the model may spend on an answer
_EXPECTED = 16  # tokens of a usual answer
_BYTES_PER_TOKEN = 4  # in English, roughly
_AT_ONCE = 4  # requests
_TIMEOUT = 60.0  # seconds, for each try
_RETRIES = 4
_GIVE_UP = 12  # failures in a row
_SAVE_SECONDS = 1.0


@dataclass(frozen=True)
class Question:
    """What to ask about a region; `digest` is the sha256 of everything the answer depends on."""

    region: int
    model: str
    prompt: str

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.model, _SYSTEM, self.prompt]).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """What is to be asked, and how many of the regions have their answer already."""

    questions: list[Question]
    known: int

    @property
    def prompt_tokens(self) -> int:
        """Rough estimate over all questions."""
        return sum(len((_SYSTEM + q.prompt).encode()) for q in self.questions) // _BYTES_PER_TOKEN

    @property
    def completion_tokens(self) -> int:
        """Rough estimate over all answers."""
        return _EXPECTED * len(self.questions)


@dataclass
class Outcome:
    """What came back: labels saved, regions without one and why, questions never asked after too many failures."""

    labels: list[Label] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    not_asked: int = 0


def plan(dictionary: StoredDictionary, regions: Iterable[int], model: str) -> Plan:
    """Questions about these regions that this model has not answered yet. Raises EPError without annotation."""
    answered = Labels.read(dictionary).asked()
    questions = [Question(region, model, prompt(dictionary, region)) for region in dict.fromkeys(regions)]
    new = [q for q in questions if answered.get((q.region, _source(model))) != q.digest]
    return Plan(new, len(questions) - len(new))


def prompt(dictionary: StoredDictionary, region: int) -> str:
    """The evidence about a region, written for a language model."""
    row = dictionary.annotation.region(region)
    parts = []
    for kind, title in (("nearest", "Most typical"), ("random", "Drawn at random")):
        examples = dictionary.annotation.examples(region, kind)[:_EXAMPLES]
        parts.append("\n".join([f"{title}:", *(f"- {_marked(example)}" for example in examples)]))
    if not row["members"]:
        exemplar = dictionary.region(region)
        parts = [f"The only example:\n- {visible(exemplar['context'])}<<{visible(exemplar['token'])}>>"]
    for title, column in (("Frequent tokens", "top_tokens"), ("Frequent just before", "before_tokens")):
        counted = [f"{_json(entry)} ({entry['count'] / row['members']:.0%})" for entry in row[column][:_TOKENS]]
        parts.append(f"{title}: {', '.join(counted)}" if counted else "")
    promoted = row["mean_lens_top"] or row["lens_top"]
    parts.append("Promoted as the next token: " + ", ".join(map(_json, promoted[:_TOKENS])))
    return "\n\n".join(filter(None, parts))


def _marked(example: dict[str, Any]) -> str:
    tokens, at = [visible(token) for token in example["tokens"]], example["at"]
    before, after = "".join(tokens[:at])[-_AROUND:], "".join(tokens[at + 1 :])[: _AROUND // 2]
    return f"{before}<<{tokens[at][:_AROUND]}>>{after}"


def _json(entry: dict[str, Any]) -> str:
    return json.dumps(visible(entry["token"])[:_AROUND], ensure_ascii=False)


def _source(model: str) -> str:
    return f"endpoint:{one_line(model)}"


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
            except _NoLabel as error:
                outcome.failures[question.region] = str(error)
                in_a_row += 1
            else:
                label = Label(region=question.region, text=text, source=_source(question.model), prompt=question.digest)
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


class _NoLabel(Exception):
    """Why a request brought no label."""


async def _answer(client: AsyncOpenAI, question: Question) -> str:
    import openai

    try:
        response = await client.chat.completions.create(
            model=question.model,
            messages=[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question.prompt}],
            max_completion_tokens=_ANSWER,
        )
        content = response.choices[0].message.content
    except openai.APITimeoutError as error:
        raise _NoLabel(f"no answer within {_TIMEOUT:g} s") from error
    except openai.APIStatusError as error:
        raise _NoLabel(f"refused with {error.status_code}: {visible(one_line(error.message))[:LIMIT]}") from error
    except openai.OpenAIError as error:
        raise _NoLabel(visible(one_line(str(error)))[:LIMIT] or type(error).__name__) from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise _NoLabel("the answer is not a chat completion; does the address end in /v1?") from error
    return content if isinstance(content, str) else ""


def label_of(answer: str) -> str:
    """The label in an answer: its first line that says something, without what models like to put around it."""
    spoken = re.sub(r"<think>.*?(</think>|\Z)", "", answer, flags=re.DOTALL)
    for line in spoken.splitlines():
        text = re.sub(r"^(label|answer)\s*:\s*", "", one_line(line).strip(" *#`-"), flags=re.IGNORECASE)
        text = text.strip(" *`\"'\u201c\u201d").removesuffix(".")
        if text and not text.endswith(":"):
            break
    else:
        raise _NoLabel("the answer is empty")
    if len(text) > LIMIT:
        raise _NoLabel(f"the answer has {len(text):,} characters where a label was asked for")
    return text
