"""`ep concept` and `ep watch`: a concept from texts with and without it; tokens of a stream of texts that have it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..text.visible import visible
from . import options
from .chosen import Chosen, of_dictionary
from .output import json_text, print_json
from .terminal import console, fixed, highlighted, interval, table

_LONGEST = 1 << 20  # bytes of a line
Concept = Annotated[Path, typer.Argument(help="Folder that `ep concept` wrote.", metavar="CONCEPT")]


@of_dictionary
def concept(
    chosen: Chosen,
    *,
    positive: Annotated[Path, typer.Option(help="Texts that have it: .txt, one a line, or .jsonl, .csv.")],
    negative: Annotated[Path, typer.Option(help="Texts like them that do not.")],
    name: Annotated[str, typer.Option(help="What to call it.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="concepts/NAME")] = None,
    field: options.Field = "text",
    as_json: options.Json = False,
) -> None:
    """Find a concept's regions from texts with and without it: a detector, and a step with a safe strength.

    One half of the texts chooses; the other says how well it does, beside words alone and a probe on mean activations.
    """
    from ..act.concept import concept as find
    from ..errors import EPError
    from ..text.documents import read_prompts

    folder = out or Path("concepts") / (re.sub(r"[^\w.-]+", "-", name).strip("-.") or "concept")
    if folder.exists():
        raise EPError(f"{folder} exists already; choose another folder with --out")
    dictionary = chosen.dictionary
    texts = read_prompts(positive, field), read_prompts(negative, field)
    found = find(dictionary, chosen.loaded, *texts, name)
    found.save(folder)
    if as_json:
        print_json({"path": str(folder), "threshold": found.threshold, "alpha": found.alpha} | found.report)
        return
    out_ = console()
    regions = table(">region", ">texts", ">with it", ">rate (95 %)", ">p", "label")
    for rate in found.report["regions"]:
        share = interval((rate["rate"], rate["low"], rate["high"]))
        cells = (str(rate["region"]), str(rate["prompts"]), str(rate["showing"]), share, f"{rate['p']:.1e}")
        regions.add_row(*cells, Text(visible(rate["label"])))
    out_.print(regions)
    if not found.report["significant"]:
        out_.print("No region stands out (p < 0.05, corrected): the best one is taken, and held-out texts judge it.")
    shown = table("on held-out texts", ">AUC", ">misses (95 %)", ">false alarms (95 %)")
    for what, key in (("these regions", "detection"), ("words alone", "words"), ("probe on means", "probe")):
        each = found.report[key]
        shown.add_row(what, fixed(each["auc"]), interval(each["misses"]), interval(each["alarms"]))
    out_.print(shown)
    typer.echo(
        f"\n{folder}: threshold {found.threshold:.3f}, strongest alpha that reads {found.alpha:g}\n"
        f"Next:\n  ep watch {chosen.path} {folder} < texts.txt\n  ep steer {chosen.path} --concept {folder} "
        '--prompt "Tell me about your day."'
    )


@of_dictionary
def watch(
    chosen: Chosen,
    folder: Concept,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line for each text.")] = False,
) -> None:
    """Read texts from standard input, one a line, and mark the tokens at which a concept is there.

    Each text is answered as soon as it is read.
    """
    from ..act.concept import Concept, activations, own_tokens
    from ..errors import EPError
    from ..text.tokens import token_texts

    dictionary = chosen.dictionary
    found = Concept.load(folder, dictionary)
    loaded = chosen.loaded
    out = console()
    for text in _lines():
        try:
            x_nd, _ = activations(dictionary, loaded, [text])
        except EPError as error:
            typer.echo(f"ep: {error}", err=True)
            continue
        score_n = found.scores(dictionary, x_nd)
        (ids,) = own_tokens(dictionary, loaded, [text])
        pieces = list(zip(token_texts(loaded.tokenizer, ids), score_n.tolist(), strict=True))
        if as_json:
            flagged = [{"position": i, "text": piece, "score": score} for i, (piece, score) in enumerate(pieces)]
            answer: dict[str, Any] = {"text": text, "score": max(score_n.tolist()), "concept": found.name}
            answer["flagged"] = [each for each in flagged if each["score"] >= found.threshold]
            typer.echo(json_text(answer))
        else:
            marked = out.color_system is None
            parts = (
                highlighted(visible(piece), marked) if score >= found.threshold else visible(piece)
                for piece, score in pieces
            )
            out.print(Text.assemble((f"{max(score_n):.2f}  ", "dim"), *parts))
        sys.stdout.flush()


def _lines() -> Iterator[str]:
    """Lines of standard input that say something; what is no text, or has no end, is left out with a word."""
    cut = False
    while data := sys.stdin.buffer.readline(_LONGEST):
        goes_on, cut = cut, len(data) == _LONGEST and not data.endswith(b"\n")
        try:
            if cut or goes_on:
                problem = "" if goes_on else f"has more than {_LONGEST:,} bytes"
            elif text := data.decode().strip():
                yield text
                continue
            else:
                problem = ""
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 at byte {error.start}"
        if problem:
            typer.echo(f"ep: a line {problem}; it is left out", err=True)
