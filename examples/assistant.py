"""The tokens that the assistant says, of a set of chats; and one activation an answer.

    python assistant.py [chats.jsonl]

Rows may have `messages`, `conversations`, or a prompt and its answer. Without a file a few chats are made up here.
"""

import json
import sys
from pathlib import Path

import exemplar_partitioning as ep

ASKED = ["Name a fruit", "Name a river", "Write one line about rain", "What is two and two", "Greet me in French"]
ANSWERS = ["An apple is a fruit.", "The Danube.", "Rain taps on the roof like a patient guest.", "Four.", "Bonjour!"]


def chats() -> Path:
    """A file of chats."""
    rows = [{"prompt": f"{asked}, please ({i}).", "response": answer}
            for i in range(40) for asked, answer in zip(ASKED, ANSWERS, strict=True)]  # fmt: skip
    file = Path("chats.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def main() -> None:
    """Build on what the assistant says: every token, then the mean of each answer."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else chats()
    said = {"chat": True, "roles": ("assistant",), "max_tokens": 60_000, "percentiles": [10], "annotate": True}
    for out, pool in (("assistant-tokens", None), ("assistant-answers", "mean")):
        result = ep.build("smollm2-135m-instruct", file, out=out, pool=pool, **said)
        (built,) = result.dictionaries
        print(f"{out}: {built.n_activations:,} activations of {result.tokens:,} tokens, {built.k} regions")


if __name__ == "__main__":
    main()
