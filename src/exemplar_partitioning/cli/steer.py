"""`ep steer`: what a model writes, before and after an intervention on regions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..interventions.generation import Generation


def steer(
    path: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="DIR")],
    region: Annotated[str, typer.Option(help="Region, or several separated by commas.")],
    prompt: Annotated[list[str], typer.Option(help="What to continue; may be given more than once.")],
    alpha: Annotated[
        float, typer.Option(help="How far along the regions' direction, in typical residual norms.")
    ] = 1.0,
    ablate: Annotated[bool, typer.Option("--ablate", help="Project the regions' span out instead.")] = False,
    basis: Annotated[str, typer.Option(help="exemplar, or mean (of the members).")] = "exemplar",
    at: Annotated[
        str | None,
        typer.Option(help="Where to act, e.g. resid_post.*", show_default="the dictionary's site"),
    ] = None,
    tokens: Annotated[str, typer.Option(help="all, prompt or generated.")] = "all",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 64,
    chat: Annotated[
        bool | None, typer.Option("--chat/--raw", help="Use the chat template or not.", show_default="if there is one")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Dictionary: its site.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Dictionary: its percentile.")] = None,
    model: Annotated[str | None, typer.Option(help="Where the model is, if it has moved.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
) -> None:
    """Act on regions while the model writes: what it says before and after.

    Words in red have left the manifold: their activation lies farther than theta from every exemplar.
    """
    from typing import cast

    from .. import interventions
    from ..interventions import generation
    from ..interventions.acting import Basis
    from ..interventions.hooks import Tokens
    from ..reading import model_of
    from ..store import load

    wanted = options.percentile(percentile) if percentile is not None else None
    regions = [options.region(part) for part in region.split(",")]
    dictionary = load(path, site=site, percentile=wanted)
    for index in regions:
        dictionary.check_region(index)
    loaded = model_of(dictionary, model)
    where: dict[str, Any] = {"basis": cast(Basis, basis), "sites": at, "tokens": cast(Tokens, tokens)}
    acting = (
        interventions.ablate(loaded, dictionary, regions, **where)
        if ablate
        else interventions.steer(loaded, dictionary, regions, alpha=alpha, **where)
    )
    before = generation.generate(loaded, prompt, max_new_tokens=max_new_tokens, chat=chat)
    before_pieces = [generation.pieces_on_the_manifold(loaded, dictionary, g) for g in before]
    with acting:
        after = generation.generate(loaded, prompt, max_new_tokens=max_new_tokens, chat=chat)
        after_pieces = [generation.pieces_on_the_manifold(loaded, dictionary, g) for g in after]
    if as_json:
        typer.echo(
            json.dumps(
                [
                    {"prompt": b.prompt, "before": _as_json(b, bp), "after": _as_json(a, ap)}
                    for b, bp, a, ap in zip(before, before_pieces, after, after_pieces, strict=True)
                ],
                ensure_ascii=False,
                indent=2,
            )
        )
        return
    from rich.text import Text

    from ..visible import visible
    from .terminal import console

    out = console()
    did = "ablated" if ablate else f"steered by {alpha:g}"
    for b, bp, a, ap in zip(before, before_pieces, after, after_pieces, strict=True):
        out.print(Text(visible(b.prompt), style="bold"))
        for name, g, pieces in (("as it is", b, bp), (did, a, ap)):
            off = sum(not on for _, on in pieces)
            out.print(Text(f"\n{name}  ({off} of {len(g.ids)} tokens off the manifold)", style="dim"))
            out.print(Text.assemble(*((_shown(piece), "" if on else "red") for piece, on in pieces)))
        out.print()


def _shown(piece: str) -> str:
    from ..visible import visible

    return "\n".join(visible(line) for line in piece.split("\n"))


def _as_json(g: Generation, pieces: list[tuple[str, bool]]) -> dict[str, Any]:
    return {"text": g.text, "tokens": [{"text": piece, "within": on} for piece, on in pieces]}
