"""Labels from what a region's members have that those of the nearest regions do not: words, phrases and what is near.

Nothing held out is looked at (`folder.concepts`), so that a label may be tried on it.

Shapes: k regions, r neighbours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Any

from .token_labels import quoted

NEIGHBOURS = 8
"""Nearest regions that a region is set against."""
FUNCTION = frozenset(
    re.findall(
        r"\w+",
        "a about above after again all also am an and any are as at be been before being below between both but "
        "by can could did do does doing down during each few for from further had has have having he her here "
        "hers him his how i if in into is it its just like may me might more most must my near no nor not now of "
        "off on once one only or other our out over own said same say says shall she should so some such than "
        "that the their them then there these they this those through to too under until up us very was we were "
        "what when where which while who whom why will with without would you your ",
    )
)
"""Words of English that tell nothing unless they are quoted."""

WORD = re.compile(r"\n+|\w+(?:['\u2019]\w+)?|[^\w\s]+")
"""A word, a run of signs, or of ends of lines."""

_LONGEST = 4  # words of a phrase
_AROUND = 12  # words on each side that count as near
_SMOOTH = 0.02  # share that nothing falls below
_MOST, _OFTEN, _SOME = 0.75, 0.02, 0.35  # shares that speak for a region; that are worth a mention; of words nearby
_PHRASE = 32  # characters
_BEFORE = 0.15  # share of the members that a word before them needs
_KIND = 0.75  # share of the members that are of one kind
_HEADS, _THEMES = 5, 3  # at most
_TELLING = 2.0  # times as often as among the neighbours
KINDS = {
    "numbers": r"\d[\d.,]*(st|nd|rd|th|s)?",
    "words in \u201c-ing\u201d": r"(?!\w*thing$)\w{2,}ing",
    "words in \u201c-ed\u201d": r"\w{2,}ed",
    "words in \u201c-ly\u201d": r"\w{2,}ly",
    "words in \u201c-tion\u201d": r"\w+[ts]ions?",
    "ends of lines": "\u21b5",
}


@dataclass(frozen=True)
class Passage:
    """An example as words. at: which of them holds the member's token."""

    words: list[str]
    at: int
    token: str
    spaces: list[bool]

    @property
    def own(self) -> str:
        """The word that holds the token."""
        return self.words[self.at] if self.words else ""

    @classmethod
    def of(cls, tokens: Sequence[str], at: int) -> Passage:
        before, token = "".join(tokens[:at]), tokens[at]
        start = len(before) + len(token) - len(token.lstrip(" "))
        matches = list(WORD.finditer(before + token + "".join(tokens[at + 1 :])))
        here = next((i for i, match in enumerate(matches) if match.end() > start), len(matches) - 1)
        words = ["\u21b5" if match[0][0] == "\n" else match[0] for match in matches]
        apart = [not i or matches[i - 1].end() < match.start() for i, match in enumerate(matches)]
        return cls(words, here, token.strip(), apart)

    def written(self, phrase: tuple[str, ...]) -> str | None:
        """A phrase as it stands here; None where it does not."""
        for first in range(max(0, self.at - len(phrase) + 1), self.at + 1):
            words = self.words[first : first + len(phrase)]
            if tuple(word.casefold() for word in words) == phrase:
                apart = [False, *self.spaces[first + 1 : first + len(phrase)]]
                return "".join(" " * space + word for space, word in zip(apart, words, strict=True))
        return None

    def kinds(self) -> list[str]:
        """What the member's own word is."""
        return [kind for kind, form in KINDS.items() if re.fullmatch(form, self.own.casefold())]

    def phrases(self) -> set[tuple[str, ...]]:
        """Runs of words with the member's own among them."""
        folded, found = [word.casefold() for word in self.words], set()
        for length in range(1, _LONGEST + 1):
            for first in range(max(0, self.at - length + 1), self.at + 1):
                if first + length <= len(folded):
                    found.add(tuple(folded[first : first + length]))
        return found

    def near(self) -> set[str]:
        """Words around it that mean something by themselves."""
        around = self.words[max(0, self.at - _AROUND) : self.at] + self.words[self.at + 1 : self.at + 1 + _AROUND]
        folded = {word.casefold() for word in around}
        return {word for word in folded if len(word) > 2 and word not in FUNCTION and word[0].isalpha()}


@dataclass(frozen=True)
class Evidence:
    """What a label is made from: passages of members, and how many members each word form and word before them has."""

    members: int
    forms: Counter[str]
    before: Counter[str]
    passages: list[Passage]

    @cached_property
    def phrases(self) -> Counter[tuple[str, ...]]:
        """In how many passages each occurs."""
        return Counter(phrase for passage in self.passages for phrase in passage.phrases())

    @cached_property
    def near(self) -> Counter[str]:
        """In how many passages each word occurs nearby."""
        return Counter(word for passage in self.passages for word in passage.near())

    @cached_property
    def kinds(self) -> Counter[str]:
        """How many passages have a member of each kind."""
        return Counter(kind for passage in self.passages for kind in passage.kinds())


def label(here: Evidence, others: Sequence[Evidence]) -> str | None:
    """What a region's members and their surroundings are, and those of the regions around it are not.

    Args:
        here: the region's.
        others: its neighbours'.

    Returns:
        One line; None where nothing is known of any member.
    """
    if not here.members or not here.passages:
        return None
    n, n_others = len(here.passages), sum(len(other.passages) for other in others)

    def times(name: str, key: Any) -> float:
        """How much oftener than among the neighbours."""
        beside = sum(getattr(other, name)[key] for other in others) / max(1, n_others)
        return (getattr(here, name)[key] / n + _SMOOTH) / (beside + _SMOOTH)

    heads = _heads(here, others)
    phrases = list(dict.fromkeys(_phrase(here, head, times) for head in heads))
    kind = next((k for k, count in here.kinds.items() if count >= _KIND * n and times("kinds", k) > _TELLING), None)
    if kind is not None:
        owns = Counter(p.own for p in here.passages if re.fullmatch(KINDS[kind], p.own))
        own = [phrase for phrase in phrases if re.fullmatch(KINDS[kind], phrase)]
        phrases = list(dict.fromkeys([*(own or [word for word, _ in owns.most_common(2)]), *phrases]))[:_HEADS]
    said = [(f"{kind}, such as " if kind else "") + " / ".join(dict.fromkeys(map(_quoted, phrases)))]
    inside = {form for phrase in phrases for word in WORD.findall(phrase.casefold()) for form in _forms(word)}
    before = [
        word
        for word, count in here.before.most_common(2)
        if count >= _BEFORE * here.members and word not in inside and _beyond("before", word, here, others) > _TELLING
    ]
    if before:
        said.append("after " + " / ".join(map(_quoted, before)))
    near = {word: times("near", word) for word, count in here.near.items() if count >= max(2, _SOME * n)}
    near = {word: t for word, t in near.items() if t > _TELLING and not inside & _forms(word)}
    if near:
        said.append("near " + ", ".join(sorted(near, key=lambda w: (-here.near[w] * log(near[w]), w))[:_THEMES]))
    return " ".join(said)


def _quoted(text: str) -> str:
    return quoted({"token": text, "token_id": -1}, _PHRASE)


def _forms(word: str) -> set[str]:
    return {word, word.removesuffix("s"), word + "s"}


def _beyond(name: str, key: str, here: Evidence, others: Sequence[Evidence]) -> float:
    """How much oftener members are, or follow, a form than those of the neighbours."""
    beside = sum(getattr(other, name)[key] / max(1, other.members) for other in others) / max(1, len(others))
    return (getattr(here, name)[key] / here.members + _SMOOTH) / (beside + _SMOOTH)


def _heads(here: Evidence, others: Sequence[Evidence]) -> list[str]:
    """Word forms that say most of what the members are: the commonest alone where it is most of them."""
    first, count = here.forms.most_common(1)[0] if here.forms else (here.passages[0].own, here.members)
    if count >= _MOST * here.members:
        return [first]
    often = [form for form, count in here.forms.items() if count >= _OFTEN * here.members] or list(here.forms)[:2]
    score = {form: here.forms[form] * log(_beyond("forms", form, here, others) + 1) for form in often}
    return sorted(score, key=lambda form: (-score[form], form))[:_HEADS] or [first]


def _phrase(here: Evidence, form: str, times: Callable[[str, Any], float]) -> str:
    """The form as part of what its passages have around it, most telling and in most of them; else as it stands."""
    having = [p for p in here.passages if p.token.casefold() == form]
    if not having:
        return form
    counts = Counter(phrase for passage in having for phrase in passage.phrases())
    often = [phrase for phrase, count in counts.items() if count >= max(2 + (len(phrase) > 1), 2 / 3 * len(having))]
    told = {phrase: _told(phrase) * log(1 + times("phrases", phrase)) for phrase in often}
    if not told:
        return form
    best = max(told, key=lambda p: (told[p], -len(p), p))
    texts = Counter(text for passage in having for text in [passage.written(best)] if text)
    return max(texts, key=lambda text: (texts[text], text))


def _told(phrase: tuple[str, ...]) -> int:
    """Words of a phrase that mean something."""
    return sum(word not in FUNCTION and word[0].isalnum() for word in phrase) or 1
