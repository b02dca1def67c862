"""Text of the moment: read through a dictionary, or written under an intervention on its regions.

A long text is read a few windows at a time, and shorter ones that wait go in between. Nothing goes in between while an
intervention is open, which is on the model itself.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ...act.attribute import attribute
from ...act.fluency import ALPHA, Fluency, fluency, strongest
from ...act.steer import Acting
from ...errors import EPError, ResourceError
from ...folder.dictionary import StoredDictionary
from ...folder.model import check_model
from ...models.capture import Extractor
from ...models.generate import Prompt, encode
from ...models.loaded import LoadedModel
from ...models.sites import resolve_sites
from ...reading import TextTokens, decomposed, read, tokens_of, written
from ...stream import Chunk, Here, Progress
from .library import View
from .steering import Steering
from .turns import Job, Turns
from .views import named

LIMIT = 20_000  # characters of a text
PARTS = 8  # regions of a token
ATTRIBUTED = 32  # regions of a token of a prompt whose next token is attributed
WINDOWS = 4  # of a text that are read before others have a turn
_KEPT = 64  # texts written without intervention


class Live:
    """A loaded model that reads or writes one text at a time. text: where that of the builds is, if it was told."""

    def __init__(self, loaded: LoadedModel, text: Sequence[str] = ()):
        self.loaded, self.text = loaded, [*text]
        self._turns = Turns()
        self._stopping = threading.Event()
        self._rate: float | None = None
        self._before: OrderedDict[Any, list[dict[str, Any]]] = OrderedDict()

    def stop(self) -> None:
        """Write no further token; from now on, `steer` raises ResourceError."""
        self._stopping.set()

    def read(self, view: View, text: str, job: Job | None = None) -> dict[str, Any]:
        """Every token with its region and distance, and a few words about each region that occurs.

        Raises EPError if the dictionary is another model's, or the text is empty or too long.
        """
        job = job or Job()
        with self._turns.turn(job):
            readings = read(
                [view.dictionary],
                self.loaded,
                _checked(text),
                batch_size=WINDOWS,
                on_batch=lambda _: self._turns.pass_on(job),
            )
        tokens = [token.as_json() for token in readings[0]]
        return {
            "threshold": view.dictionary.threshold,
            "tokens": tokens,
            "regions": named(view, (token["region"] for token in tokens)),
        }

    def tokens(self, dictionaries: Sequence[StoredDictionary], text: str, job: Job) -> TextTokens:
        """A text's tokens with their activations. Raises EPError as `read` does."""
        with self._turns.turn(job):
            return tokens_of(
                dictionaries, self.loaded, _checked(text), WINDOWS, on_batch=lambda _: self._turns.pass_on(job)
            )

    def activations(self, dictionary: StoredDictionary, ids: Sequence[int], sites: Sequence[str]) -> dict[str, Tensor]:
        """Activations [t, d] of token ids, by site. Raises EPError if the dictionary is another model's."""
        check_model(dictionary, self.loaded)
        resolved = {name: resolve_sites(name, self.loaded.architecture)[0] for name in sites}
        with self._turns.turn(Job()):
            read = Extractor(self.loaded.model, list(resolved.values())).extract([np.array(ids)])
        return {name: read[site] for name, site in resolved.items()}

    def extracted(self, chunks: Iterable[Chunk], site: str) -> Iterator[tuple[Chunk, dict[str, Tensor]]]:
        """Chunks with their activations; after every few windows others have a turn."""
        job, resolved = Job(), resolve_sites(site, self.loaded.architecture)
        with self._turns.turn(job):
            progress = Progress(lambda *_: self._turns.pass_on(job), self._stopping.is_set)
            yield from Here(Extractor(self.loaded.model, resolved, batch_size=WINDOWS), progress)(chunks)

    def rate(self, dictionary: StoredDictionary) -> float:
        """Tokens a second that the model reads, measured on a few windows when it is first asked for."""
        if self._rate is None:
            length = dictionary.config.text.context_size or 128
            ids = np.resize(np.array(dictionary.regions["window_tokens"][0].as_py()), length)
            check_model(dictionary, self.loaded)
            site = resolve_sites(dictionary.config.site.name, self.loaded.architecture)
            with self._turns.turn(Job()):
                begun = time.monotonic()
                Extractor(self.loaded.model, site).extract([ids] * WINDOWS)
                self._rate = WINDOWS * length / (time.monotonic() - begun)
        return self._rate

    def decompose(self, view: View, text: str, job: Job | None = None) -> dict[str, Any]:
        """Of which regions every token is made, and a few words about each of them.

        Raises EPError if the dictionary is another model's, or the text is empty or too long.
        """
        d = view.dictionary
        with self._turns.turn(job or Job()):
            tokens = [
                token.as_json() for token in decomposed(d, self.loaded, _checked(text), min(PARTS, d.k, d.d_model))
            ]
        return {"tokens": tokens, "regions": named(view, (region for token in tokens for region in token["regions"]))}

    def attribute(self, view: View, text: str, job: Job | None = None) -> dict[str, Any]:
        """On which regions, at which tokens, it hangs that the most likely next token is not the second likeliest.

        Raises EPError if the dictionary is another model's, or the text is empty or too long.
        """
        d, text = view.dictionary, _checked(text)
        with self._turns.turn(job or Job()):
            answer = asdict(attribute(self.loaded, d, text, k=min(ATTRIBUTED, d.k, d.d_model)))
        return {"attribution": answer, "regions": named(view, (effect["region"] for effect in answer["effects"]))}

    def steer(self, view: View, asked: Steering, job: Job | None = None) -> dict[str, Any]:
        """What the model writes before and after acting on regions, token by token.

        What it writes before is kept, so that another alpha costs two generations: its own, and that of a random step
        as long, beside which perplexity and repetition are judged.

        Raises EPError if the dictionary is another model's, a region does not exist or has no direction, or the
        prompt leaves no room to write.
        """
        d = view.dictionary
        check_model(d, self.loaded)
        for region in asked.regions:
            view.check_region(region)
        alpha = ALPHA if asked.alpha == "auto" else asked.alpha
        acting = asked.acting(self.loaded, d, alpha)
        job, key = job or Job(), (view.key, repr(asked.whole), asked.max_new_tokens)
        with self._turns.turn(job):
            before = self._before.pop(key, None) or self._written(d, asked, job)
            self._before[key] = before
            if len(self._before) > _KEPT:
                self._before.popitem(last=False)
            if asked.alpha == "auto" and asked.mode == "add":
                alpha = strongest(self.loaded, partial(self._trying, asked, d, job), [asked.whole])
                acting = asked.acting(self.loaded, d, alpha)
            with acting:
                after = self._written(d, asked, job)
            null = None
            if asked.mode == "add":
                with asked.at_random(self.loaded, d, alpha):
                    beside = self._written(d, asked, job)
                null = self._fluency(asked.whole, beside)
            was, now = (self._fluency(asked.whole, text) for text in (before, after))
        return {
            "alpha": alpha if asked.mode == "add" else None,
            "verdict": now.verdict(was, null),
            "fluency": {"before": asdict(was), "after": asdict(now), "null": null and asdict(null)},
            "threshold": d.threshold,
            "typical_norm": d.typical_norm,
            "chat": bool(getattr(self.loaded.tokenizer, "chat_template", None)),
            "before": before,
            "after": after,
            "regions": named(view, [*asked.regions, *(token["region"] for token in before + after)]),
        }

    def _trying(self, asked: Steering, dictionary: StoredDictionary, job: Job, alpha: float) -> Acting:
        job.check()
        return asked.acting(self.loaded, dictionary, alpha)

    def _fluency(self, prompt: Prompt, tokens: list[dict[str, Any]]) -> Fluency:
        return fluency(self.loaded, [(encode(self.loaded, prompt), [token["token_id"] for token in tokens])])

    def _written(self, dictionary: StoredDictionary, asked: Steering, job: Job) -> list[dict[str, Any]]:
        """The tokens that the model writes after a prompt, with their regions as they were while it wrote.

        Interventions that are open take part. `off` tells activations beyond theta of every exemplar.
        """

        def go_on() -> None:
            if self._stopping.is_set():
                raise ResourceError("the explorer is stopping; start it again")
            job.check()

        tokens = written(self.loaded, dictionary, asked.whole, max_new_tokens=asked.max_new_tokens, on_token=go_on)
        return [asdict(token) for token in tokens]


def _checked(text: str) -> str:
    if len(text) > LIMIT:
        raise EPError(f"the text has {len(text):,} characters; give at most {LIMIT:,}")
    return text
