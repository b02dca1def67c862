"""What a language model is asked about a region, and the label in its answer.

Nothing that labels are tried on is shown to it (`folder.concepts.held_out`). An answer is kept with the hash of model
and prompt: what was asked before is not asked again, unless the evidence, and so the prompt, has changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..folder.concepts import held_out
from ..folder.dictionary import StoredDictionary
from ..folder.labels import LIMIT, Label, Labels, one_line
from ..text.visible import visible

SYSTEM = (
    "You name groups of tokens that a language model represents alike. You see examples from one group: in each, "
    "the token is marked <<so>>. Reply with a short label, at most ten words, that says what the marked tokens "
    "have in common: in themselves, in what comes before them, or in what they announce. "
    "Reply with the label alone, without quotes or explanation."
)
_EXAMPLES = 8  # of each kind
_AROUND = 120  # characters of context before an example's token; half as many after
_TOKENS = 8  # of each list
_SHOWN = """Say in a few words what the marked words have in common.

Examples: see you <<Monday>> | closed on <<Sunday>> | every <<Friday>> night
Often: " Monday", " Friday"
Answer: days of the week

Examples: he <<ran>> home | she <<walked>> on | they <<fled>> the town
Often: " ran", " walked"
Answer: past tense of verbs of motion

Examples: in the <<end>>, we | at <<last>> she | <<finally>>, it
Often: " end", " last"
Answer: words for an ending

"""
_FEW, _CLOSE = 6, 40  # examples of a short question; characters before the token, half as many after
_EXPECTED = 16  # tokens of a usual answer
_BYTES_PER_TOKEN = 4  # in English, roughly


@dataclass(frozen=True)
class Question:
    """What to ask about a region; `digest` is the sha256 of everything the answer depends on."""

    region: int
    source: str
    prompt: str

    @property
    def model(self) -> str:
        """Its name."""
        return self.source.partition(":")[2]

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.model, SYSTEM, self.prompt]).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """What is to be asked, and how many of the regions have their answer already."""

    questions: list[Question]
    known: int

    @property
    def prompt_tokens(self) -> int:
        """Rough estimate over all questions."""
        return sum(len((SYSTEM + q.prompt).encode()) for q in self.questions) // _BYTES_PER_TOKEN

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


def plan(dictionary: StoredDictionary, regions: Iterable[int], model: str, kind: str = "endpoint") -> Plan:
    """Questions about these regions that this model has not answered yet. Raises EPError without annotation.

    Args:
        dictionary: annotated.
        regions: to ask about.
        model: its name.
        kind: endpoint or local.
    """
    answered, source = Labels.read(dictionary).asked(), f"{kind}:{one_line(model)}"
    asking = prompt if kind == "endpoint" else short_prompt
    questions = [Question(region, source, asking(dictionary, region)) for region in dict.fromkeys(regions)]
    new = [q for q in questions if answered.get((q.region, source)) != q.digest]
    return Plan(new, len(questions) - len(new))


def prompt(dictionary: StoredDictionary, region: int) -> str:
    """The evidence about a region, written for a language model."""
    row = dictionary.annotation.region(region)
    parts, rows = [], dictionary.annotation.examples(region)
    left_out = held_out(rows)
    for kind, title in (("nearest", "Most typical"), ("random", "Drawn at random")):
        examples = [each for each in rows if each["kind"] == kind and each["document"] not in left_out][:_EXAMPLES]
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


def short_prompt(dictionary: StoredDictionary, region: int) -> str:
    """The same in few words, after examples of answers: what a small model can follow."""
    row, rows = dictionary.annotation.region(region), dictionary.annotation.examples(region)
    left_out = held_out(rows)
    examples = [each for each in rows if each["kind"] != "farthest" and each["document"] not in left_out]
    once = list({each["document"]: each for each in examples}.values())
    marked = " | ".join(" ".join(_marked(example, _CLOSE).split()) for example in once[-_FEW:])
    often = ", ".join(map(_json, row["top_tokens"][:_FEW]))
    return f"{_SHOWN}Examples: {marked}\nOften: {often}\nAnswer:"


def _marked(example: dict[str, Any], around: int = _AROUND) -> str:
    tokens, at = [visible(token) for token in example["tokens"]], example["at"]
    before, after = "".join(tokens[:at])[-around:], "".join(tokens[at + 1 :])[: around // 2]
    return f"{before}<<{tokens[at][:_AROUND]}>>{after}"


def _json(entry: dict[str, Any]) -> str:
    return json.dumps(visible(entry["token"])[:_AROUND], ensure_ascii=False)


def label_of(answer: str) -> str:
    """The label in an answer: its first line that says something, without what models like to put around it."""
    spoken = re.sub(r"<think>.*?(</think>|\Z)", "", answer, flags=re.DOTALL)
    for line in spoken.splitlines():
        text = re.sub(r"^(label|answer)\s*:\s*", "", one_line(line).strip(" *#`-"), flags=re.IGNORECASE)
        text = text.strip(" *`\"'\u201c\u201d").removesuffix(".")
        if text and not text.endswith(":"):
            break
    else:
        raise NoLabel("the answer is empty")
    if len(text) > LIMIT:
        raise NoLabel(f"the answer has {len(text):,} characters where a label was asked for")
    return text


class NoLabel(Exception):
    """Why a question brought no label."""
