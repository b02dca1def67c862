"""Documents that a model answers, and the file that keeps its answers: whoever reads the text again has the same."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError, EPError
from ..files import disk_errors
from ..text.chat import prompt_ids
from ..text.conversations import Conversation, plain_text
from ..text.documents import DocumentSource
from ..text.readers import Document
from .generate import continued
from .loaded import LoadedModel

FILE = "answers.jsonl"
_TOGETHER = 16  # documents answered in one batch, which may decide a close call: always the same ones


def answered(
    source: DocumentSource,
    loaded: LoadedModel,
    max_new_tokens: int,
    *,
    date: str | None = None,
    file: Path | None = None,
    keep: bool = False,
    on_skip: Callable[[str, str], None] = lambda id, reason: None,
) -> DocumentSource:
    """Documents as conversations that end with what the model answers, greedily.

    Args:
        source: prompts or conversations; an answer at a conversation's end gives way to the model's.
        loaded: the model.
        max_new_tokens: of an answer, at most.
        date: that the chat template is told it is.
        file: where answers lie that were given before, to be taken in place of new ones.
        keep: add new ones to it.
        on_skip: told of documents that leave no room for an answer.

    Raises:
        EPError: no chat template.
        DataError: the file is damaged.
    """

    def start() -> Iterator[Document]:
        if keep and file is not None and file.is_file():
            _cut_to_batches(file)
        known = _read(file) if file is not None and file.is_file() else {}
        limit = loaded.architecture.max_length
        asked: Iterator[tuple[Document, list[int]]] = (
            (document, prompt_ids(loaded.tokenizer, Conversation(document.turns, document.tools), date))
            for document in map(_asking, source)
        )
        fitting = _fitting(asked, limit, max_new_tokens, on_skip)
        while batch := list(itertools.islice(fitting, _TOGETHER)):
            if any(_key(document) not in known for document, _ in batch):
                new = continued(loaded, [ids for _, ids in batch], max_new_tokens)
                texts = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
                fresh = {_key(document): text for (document, _), text in zip(batch, texts, strict=True)}
                if keep and file is not None:
                    _append(file, [(document, fresh[_key(document)]) for document, _ in batch])
                known |= fresh
            yield from (_with(document, known[_key(document)]) for document, _ in batch)

    return DocumentSource(source.name, start)


def answers(file: Path) -> DocumentSource:
    """The conversations of a file of answers, by the names they had."""
    documents = _documents(file)
    return DocumentSource(file.name, lambda: iter(documents))


def _fitting(
    asked: Iterable[tuple[Document, list[int]]],
    limit: int | None,
    new: int,
    on_skip: Callable[[str, str], None],
) -> Iterator[tuple[Document, list[int]]]:
    for document, ids in asked:
        if limit is not None and len(ids) + new > limit:
            on_skip(document.id, "leaves no room for an answer")
        else:
            yield document, ids


def _asking(document: Document) -> Document:
    """The conversation up to where the model answers."""
    turns = document.said
    while turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    if not turns:
        raise EPError(f"document {document.id} holds nothing to answer: no turn but the assistant's")
    return replace(document, turns=turns)


def _with(document: Document, answer: str) -> Document:
    return _conversation(
        document.id, (*document.turns, {"role": "assistant", "content": answer}), document.tools, document.mask
    )


def _conversation(id: str, turns: Iterable[Any], tools: Iterable[Any], mask: Any = None) -> Document:
    whole = Conversation(tuple(turns), tuple(tools))
    return Document(id, plain_text(whole), whole.turns, whole.tools, mask)


def _key(document: Document) -> str:
    asked = [document.id, document.turns, document.tools]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _append(file: Path, batch: list[tuple[Document, str]]) -> None:
    """All answers of a batch, in one piece."""
    rows = []
    for document, answer in batch:
        whole = _with(document, answer)
        rows.append({"id": whole.id, "messages": whole.turns} | ({"tools": whole.tools} if whole.tools else {}))
    with disk_errors(file), file.open("ab") as out:
        out.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _cut_to_batches(file: Path) -> None:
    """Leave whole batches alone: of the last one, which may have been cut off, the model answers again."""
    lines = file.read_bytes().splitlines(keepends=True)
    whole = len(lines) - (bool(lines) and not lines[-1].endswith(b"\n"))
    with disk_errors(file), file.open("r+b") as kept:
        kept.truncate(sum(map(len, lines[: whole // _TOGETHER * _TOGETHER])))


def _documents(file: Path) -> list[Document]:
    """Conversations of a file, without one that was cut off while it was written."""
    try:
        rows = [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
        return [_conversation(row["id"], row["messages"], row.get("tools") or ()) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is damaged ({error!r}); remove it, and give the text that was answered") from error


def _read(file: Path) -> dict[str, str]:
    """Answers by what was asked."""
    documents = _documents(file)
    return {_key(_asking(document)): document.turns[-1]["content"] for document in documents}
