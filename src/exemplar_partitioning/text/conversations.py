"""Conversations as people keep them, each row as messages of a chat template: `{"role": ..., "content": ...}`."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..errors import DataError

Message = dict[str, Any]

_LISTS = ("messages", "conversations", "conversation")
_PROMPTS = ("prompt", "instruction", "question")
_ANSWERS = ("response", "completion", "answer", "output", "chosen")
_SYSTEMS = ("system", "system_prompt")
CHAT_COLUMNS = frozenset((*_LISTS, *_PROMPTS, *_ANSWERS, *_SYSTEMS, "input", "tools"))

# Names that ShareGPT and its kin give to the roles of templates.
_ROLES = {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("function_response", "observation", "function"), "tool"),
}


@dataclass(frozen=True)
class Conversation:
    """Turns in order, and the tools that the assistant was offered."""

    turns: tuple[Message, ...]
    tools: tuple[Any, ...] = ()


def is_conversation(names: Collection[str]) -> bool:
    """Whether fields of these names are those of a conversation: a list of turns, or a prompt and its answer."""
    return any(name in names for name in _LISTS) or (
        any(name in names for name in _PROMPTS) and any(name in names for name in _ANSWERS)
    )


def conversation_of(row: dict[str, Any], where: str) -> Conversation | None:
    """The conversation of a row, or None when its turns are null.

    Known are `messages` (role, content), `conversations` of ShareGPT (from, value), and pairs: `prompt`,
    `instruction` with its `input`, or `question`, then `response`, `completion`, `answer`, `output` or `chosen`.
    A `system` prompt goes first, `tools` along. Turns may lie as columns, each a list, as `datasets` had them.

    Raises:
        DataError: a turn has no role or no content, or there is no turn.
    """
    listed = next((row[name] for name in _LISTS if name in row), ())
    turns = _pair(row) if isinstance(listed, tuple) else listed
    if turns is None:
        return None
    if isinstance(turns, str):
        turns = _parsed(turns, where)
    if isinstance(turns, dict) and all(isinstance(part, list) for part in turns.values()):
        if len({len(part) for part in turns.values()}) > 1:
            raise DataError(f"{where}: the columns of its turns are of unequal length.")
        turns = [dict(zip(turns, parts, strict=True)) for parts in zip(*turns.values(), strict=True)]
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: no turns in its conversation. Expected a list of objects with role and content.")
    messages = [_message(turn, f"{where}, turn {number}") for number, turn in enumerate(turns)]
    system = next((row[name] for name in _SYSTEMS if isinstance(row.get(name), str) and row[name]), None)
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    tools = row.get("tools") or ()
    if isinstance(tools, str):
        tools = _parsed(tools, where)
    return Conversation(tuple(messages), tuple(tools) if isinstance(tools, (list, tuple)) else (tools,))


def plain_text(conversation: Conversation) -> str:
    """What was said, without roles."""
    return "\n\n".join(str(turn["content"]) for turn in conversation.turns if turn.get("content"))


def _pair(row: dict[str, Any]) -> list[Any] | None:
    prompt = next((row[name] for name in _PROMPTS if name in row), None)
    answer = next((row[name] for name in _ANSWERS if name in row), None)
    if prompt is None or answer is None:
        return None
    if isinstance(prompt, str) and isinstance(row.get("input"), str) and row["input"].strip():
        prompt = f"{prompt}\n\n{row['input']}"
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    answers = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
    # Preference data repeats the prompt in the answer chosen.
    return answers if answers[: len(asked)] == asked else [*asked, *answers]


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{where}: is {type(turn).__name__}, expected an object with role and content.")
    message = {name: value for name, value in turn.items() if value is not None}
    if "role" not in message and "from" in message:
        message["role"] = message.pop("from")
    if "content" not in message and "value" in message:
        message["content"] = message.pop("value")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not (content is not None or message.get("tool_calls")):
        raise DataError(
            f"{where}: has {', '.join(map(str, turn)) or 'nothing'}, expected role and content (or from and value)."
        )
    message["role"] = _ROLES.get(role.lower(), role.lower())
    if isinstance(content, list):
        message["content"] = _joined(content, where)
    elif content is not None and not isinstance(content, str):
        raise DataError(f"{where}: its content is of type {type(content).__name__}, expected a string.")
    return message


def _joined(parts: list[Any], where: str) -> str:
    """The text of a content in parts; EPError for one that has pictures or sounds."""
    texts = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, (str, dict))]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: its content has parts that are no text. Expected text alone.")
    return "".join(map(str, texts))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its conversation is not JSON ({error}). Expected a list of turns.") from error
