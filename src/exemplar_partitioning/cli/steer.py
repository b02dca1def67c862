"""`ep steer`: what a model writes, before and after an intervention on regions."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.text import Text

from ..text.visible import visible
from . import options
from .output import print_json
from .terminal import console, counted

if TYPE_CHECKING:
    from ..reading import WrittenToken


def steer(
    path: options.Folder,
    *,
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
    chat: options.Chat = None,
    site: options.Site = None,
    percentile: options.Percentile = None,
    model: options.Model = None,
    trust_remote_code: options.RemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Act on regions while the model writes: what it says before and after.

    Words in red have left the manifold: their activation lies farther than theta from every exemplar.
    """
    from .. import reading
    from ..act import steer as acts
    from ..act.steer import Basis
    from ..models.hooks import Tokens
    from ..reading import model_of

    regions = options.regions(region)
    dictionary = options.chosen_dictionary(path, site, percentile)
    for index in regions:
        dictionary.check_region(index)
    loaded = model_of(dictionary, model, trust_remote_code=trust_remote_code)
    where: dict[str, Any] = {"basis": cast(Basis, basis), "sites": at, "tokens": cast(Tokens, tokens)}
    acting = (
        acts.ablate(loaded, dictionary, regions, **where)
        if ablate
        else acts.steer(loaded, dictionary, regions, alpha=alpha, **where)
    )
    writing: dict[str, Any] = {"max_new_tokens": max_new_tokens, "chat": chat}
    before = [reading.written(loaded, dictionary, p, **writing) for p in prompt]
    with acting:
        after = [reading.written(loaded, dictionary, p, **writing) for p in prompt]
    if as_json:
        pairs = zip(prompt, before, after, strict=True)
        print_json([{"prompt": p, "before": _as_json(b), "after": _as_json(a)} for p, b, a in pairs])
        return

    out = console()
    did = "ablated" if ablate else f"steered by {alpha:g}"
    for p, b, a in zip(prompt, before, after, strict=True):
        out.print(Text(visible(p), style="bold"))
        for name, tokens_written in (("as it is", b), (did, a)):
            off = sum(token.off for token in tokens_written)
            out.print(
                Text(f"\n{name}  ({off} of {counted(len(tokens_written), 'token')} off the manifold)", style="dim")
            )
            out.print(Text.assemble(*((_shown(token.text), "red" if token.off else "") for token in tokens_written)))
        out.print()


def _shown(piece: str) -> str:

    return "\n".join(visible(line) for line in piece.split("\n"))


def _as_json(tokens: list[WrittenToken]) -> dict[str, Any]:
    return {"text": "".join(token.text for token in tokens), "tokens": [asdict(token) for token in tokens]}
