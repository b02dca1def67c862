"""Labels from a language model on this machine; any that `load_model` takes. Nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Callable

from ..folder.dictionary import StoredDictionary
from ..folder.labels import Label, Labels
from ..models.generate import generate
from ..models.loaded import LoadedModel
from .questions import NoLabel, Outcome, Plan, label_of

_ANSWER = 16  # new tokens
_AT_ONCE = 4  # questions


def ask(
    dictionary: StoredDictionary,
    planned: Plan,
    loaded: LoadedModel,
    on_answer: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Put the questions as text to continue, and save labels as they come; on_answer is told after each few.

    Raises EPError if a question leaves the model no room to answer.
    """
    labels, outcome = Labels.read(dictionary), Outcome()
    for start in range(0, len(planned.questions), _AT_ONCE):
        asked = planned.questions[start : start + _AT_ONCE]
        new, prompts = [], [question.prompt for question in asked]
        for question, answer in zip(asked, generate(loaded, prompts, max_new_tokens=_ANSWER, chat=False), strict=True):
            try:
                text = label_of(answer.text)
            except NoLabel as error:
                outcome.failures[question.region] = str(error)
            else:
                new.append(Label(region=question.region, text=text, source=question.source, prompt=question.digest))
        labels.add(new)
        outcome.labels += new
        on_answer(outcome)
    return outcome
