"""`ep ood fit`, `ep ood score`: text unlike what a dictionary was built from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..text.visible import visible
from . import options
from .chosen import Chosen, of_dictionary
from .output import print_json
from .terminal import console, counted, ending, highlighted

if TYPE_CHECKING:
    from ..novelty.detector import Detector, DocumentNovelty
    from ..text.documents import DocumentSource

ood = typer.Typer(no_args_is_help=True, help="Tell text unlike what a dictionary was built from, at a known rate.")


@ood.command()
@of_dictionary
def fit(
    chosen: Chosen,
    text: Annotated[
        list[str],
        typer.Argument(
            help="Ordinary text the dictionary was not built from: files, folders, globs, hf:owner/dataset."
        ),
    ],
    *,
    false_alarms: Annotated[float, typer.Option(help="Share of ordinary documents that may be flagged.")] = 0.01,
    token_false_alarms: Annotated[
        float | None, typer.Option(help="Share of their tokens that may be.", show_default="the same")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Keep --false-alarms in this share of fits, not on average over fits.", show_default="average"
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Score of a token: surprise, distance, beyond or margin; a document's is their mean.")
    ] = "surprise",
    max_tokens: options.MaxTokens = 500_000,
    field: options.Field = "text",
    seed: Annotated[int, typer.Option(min=0, help="Of the part of the documents that sets the scale.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Fit a detector on ordinary text and keep it in the dictionary's folder, as ood.json.

    Of documents like these, --false-alarms will be flagged on average over fits, whatever the scores are like: about
    half of all fits flag more. With --confidence 0.95, 95 % of fits flag no more.
    """
    from ..novelty.detector import Detector
    from .display import steps

    dictionary = chosen.dictionary
    with steps() as report:
        report("reading ordinary text", 0, 1)
        detector = Detector.fit(
            dictionary,
            _source(text, field),
            chosen.reader,
            false_alarms=false_alarms,
            token_false_alarms=token_false_alarms,
            confidence=confidence,
            score=by,
            max_tokens=max_tokens,
            seed=seed,
        )
    written = detector.write()
    if as_json:
        print_json({"file": str(written), **_described(detector)})
        return

    record, on = detector.record, detector.record.fitted_on
    console().print(
        f"Fitted on {counted(on.documents, 'document')}, {counted(on.tokens, 'token')} of {on.source}: of such "
        f"documents {_promise(detector)} will be flagged, of their tokens {record.token_false_alarms:g} on average.\n"
        f"Kept in {written}\n\nNext:\n  ep ood score {dictionary.path} TEXT",
        soft_wrap=True,
    )


@ood.command()
@of_dictionary
def score(
    chosen: Chosen,
    text: Annotated[list[str], typer.Argument(help="Text to judge: files, folders, globs, hf:owner/dataset.")],
    *,
    tokens: Annotated[bool, typer.Option("--tokens", help="Every token as well, those flagged set off.")] = False,
    field: options.Field = "text",
    as_json: options.Json = False,
) -> None:
    """Judge documents: how unlike ordinary text each is, and how many ordinary ones are as unlike.

    p is the share of ordinary documents with as high a score; a document is flagged where that is at most the
    rate of false alarms asked for in the fit.
    """
    from ..novelty.detector import Detector

    dictionary = chosen.dictionary
    detector = Detector.read(dictionary)
    loaded = chosen.loaded
    documents = detector.score(_source(text, field), loaded)
    if as_json:
        rows = [_as_json(row, loaded.tokenizer if tokens else None) for row in documents]
        print_json({"detector": _described(detector), "documents": rows})
        return
    _print(documents, detector, loaded.tokenizer if tokens else None)


def _source(text: list[str], field: str) -> DocumentSource:
    from ..demo.corpus import documents_of

    return documents_of(options.sources(text), field=field)


def _described(detector: Detector) -> dict[str, Any]:
    from ..folder.origin import describe

    r, dictionary = detector.record, detector.dictionary
    return {
        "dictionary": str(dictionary.path),
        **describe(dictionary),
        "score": r.score,
        "false_alarms": r.false_alarms,
        "token_false_alarms": r.token_false_alarms,
        "fitted_on": r.fitted_on.model_dump(),
    }


def _as_json(row: DocumentNovelty, tokenizer: Any) -> dict[str, Any]:
    from ..text.tokens import token_texts

    shown: dict[str, Any] = {
        "document": row.document,
        "tokens": row.tokens,
        "score": round(row.score, 4),
        "p": row.p,
        "flagged": row.flagged,
        "distance": round(row.distance, 4),
        "beyond": round(row.beyond, 4),
        "flagged_tokens": round(row.flagged_tokens, 4),
    }
    if tokenizer is not None:
        passage, novelty = row.passage, row.passage.novelty
        shown["each_token"] = [
            {
                "position": int(passage.position_n[i]),
                "token_id": int(passage.token_n[i]),
                "text": piece,
                "surprise": round(float(novelty.surprise[i]), 4),
                "distance": round(float(novelty.distance[i]), 4),
                "beyond": bool(novelty.beyond[i]),
                "margin": round(-float(novelty.margin[i]), 4),
                "p": float(row.p_n[i]),
                "flagged": bool(row.flagged_n[i]),
            }
            for i, piece in enumerate(token_texts(tokenizer, passage.token_n))
        ]
    return shown


def _print(judged: Any, detector: Detector, tokenizer: Any) -> None:
    """A row a document as they come; with a tokenizer, its tokens below it."""
    out = console()
    out.print(Text(f"{'score':>7} {'p':>8} {'':8} {'tokens':>7} {'distance':>8} {'beyond':>7}  document", style="bold"))
    documents = flagged = 0
    for row in judged:
        documents, flagged = documents + 1, flagged + row.flagged
        out.print(
            Text.assemble(
                f"{row.score:z7.2f} {row.p:8.4f} ",
                ("flagged ", "bold red") if row.flagged else " " * 8,
                f" {row.tokens:7,} {row.distance:8.3f} {row.beyond:7.1%}  ",
                ending(visible(row.document), max(20, out.width - 52)),
            ),
            soft_wrap=True,
        )
        if tokenizer is not None:
            out.print(_tokens_shown(row, tokenizer))
    promise = _promise(detector)
    out.print(f"{flagged:,} of {counted(documents, 'document')} flagged; of ordinary ones, {promise} would be")


def _promise(detector: Detector) -> str:
    """How many ordinary documents are flagged."""
    sure = detector.record.sure
    if sure is None:
        return f"{detector.record.false_alarms:g} on average over fits"
    return f"at most {sure.rate:g} ({sure.confidence:.0%} of fits keep to it)"


def _tokens_shown(row: DocumentNovelty, tokenizer: Any) -> Any:
    """The document's tokens, those flagged in red, and where there are no colours in angle marks."""
    from ..text.tokens import token_texts

    plain = console().color_system is None
    pieces = zip(token_texts(tokenizer, row.passage.token_n), row.flagged_n, strict=True)
    return Text.assemble(
        *(highlighted(visible(piece), plain) if flag else visible(piece) for piece, flag in pieces), style="dim"
    )
