"""Where an annotation's evidence comes from: text that a model reads, or activations that were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..activations.given import given, tokens_of
from ..demo.corpus import CORPUS_NAME, documents_of
from ..errors import EPError
from ..folder.dictionary import StoredDictionary
from ..folder.model import check_model, model_of
from ..models.answers import FILE, answered, answers
from ..models.load import load_model, pick_device
from ..models.loaded import LoadedModel
from ..stream import Chunk, text_chunks
from ..text.hub import HUB_PREFIX
from .options import AnnotateRequest
from .tables import VOCABULARY, TokenTexts


@dataclass(frozen=True)
class Reader:
    """A stream of chunks.

    Attributes:
        name: of text or activations, for people.
        chunks: the stream, up to a budget of tokens.
        loaded: the model that reads text; None where no model is known.
        texts: of tokens.
        given: whether chunks have their activations with them.
    """

    name: str
    chunks: Callable[[int], Iterator[Chunk]]
    loaded: LoadedModel | None
    texts: TokenTexts
    given: bool = False

    @property
    def model(self) -> LoadedModel:
        assert self.loaded is not None
        return self.loaded


def device_of(model: Any, device: str) -> torch.device:
    """Where the model is, or will be."""
    if model is None or isinstance(model, str):
        return pick_device(device)
    return (model.model if isinstance(model, LoadedModel) else model).device


def reader_of(dictionaries: list[StoredDictionary], text: Any, request: AnnotateRequest) -> Reader:
    """What is asked for; EPError, saying what there might be, if it is not to be had."""
    config = dictionaries[0].config
    if request.activations is None and not config.model.known and request.model is None:
        raise EPError(
            f"{dictionaries[0].path} was built from activations ({config.text.source}) of a model that is not known; "
            "give them again with --activations, or the model and some text: --model NAME TEXT"
        )
    if request.activations is None:
        loaded = _loaded(dictionaries, request.model, request.device)
        windowing = config.text.windowing
        kept = dictionaries[0].path.parent.parent / FILE
        if windowing.generate and text is None and kept.is_file():
            source = answers(kept)
        else:
            source = documents_of(
                _source(dictionaries[0], text),
                field=request.field or "text",
                mask=windowing.mask,
                limit=request.documents,
            )
            if windowing.generate:
                source = answered(source, loaded, windowing.generate, date=windowing.template_date, file=kept)
        return Reader(
            name=source.name,
            chunks=lambda budget: text_chunks(source, loaded, windowing, budget),
            loaded=loaded,
            texts=TokenTexts(loaded.tokenizer, loaded.architecture.vocab_size),
        )
    if text is not None:
        raise EPError("give text or --activations (activations=), not both")
    loaded = None if request.model is None else _loaded(dictionaries, request.model, request.device)
    tokenizer = request.tokenizer if request.tokenizer is not None or loaded is None else loaded.tokenizer
    known = tokens_of(request.tokens, tokenizer, config.text.context_size or 128)
    source = given(request.activations, known, field=request.field)
    if source.width != config.width:
        raise EPError(
            f"{source.name} has activations of width {source.width}; the dictionaries in "
            f"{dictionaries[0].path} have d_model = {config.width}"
        )
    vocabulary = VOCABULARY if known.tokenizer is None else len(known.tokenizer)
    return Reader(source.name, source.chunks, loaded, TokenTexts(known.tokenizer, vocabulary), given=True)


def _loaded(dictionaries: list[StoredDictionary], model: Any, device: str) -> LoadedModel:
    if model is None or isinstance(model, str):
        loaded = model_of(dictionaries[0], model, device=device)
    else:
        loaded = model if isinstance(model, LoadedModel) else load_model(model)
    for dictionary in dictionaries:
        check_model(dictionary, loaded)
    return loaded


def _source(dictionary: StoredDictionary, text: Any) -> Any:
    if text is not None:
        return text
    name = dictionary.config.text.source
    if name == CORPUS_NAME:
        return None
    if name.startswith(HUB_PREFIX):
        return name
    raise EPError(
        f"{dictionary.path} was built from {name}, which is not here to be found by name; say where text is: "
        f"ep annotate {dictionary.path} TEXT"
    )
