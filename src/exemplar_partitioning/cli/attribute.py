"""`ep attribute`: which regions, at which tokens, the next token hangs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..core.choices import STEPS
from . import options
from .chosen import Chosen, of_dictionary
from .output import print_json

if TYPE_CHECKING:
    from ..act.attribute import Attribution

_TOKEN, _LABEL = 20, 40  # columns at most


@of_dictionary
def attribute(
    chosen: Chosen,
    prompt: Annotated[str, typer.Argument(help="What the model reads.")],
    *,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Two tokens that may come next, the right one first: --target ' is' --target ' are'.",
            show_default="the two most likely",
        ),
    ] = None,
    k: options.Steps = STEPS,
    basis: options.Basis = "exemplar",
    method: options.Method = "omp",
    top: Annotated[int, typer.Option(min=1, help="Regions to show.")] = 20,
    chat: Annotated[bool, typer.Option("--chat/--raw", help="Use the chat template or not.")] = False,
    as_json: options.Json = False,
) -> None:
    """Attribute the next token, by the difference of two logits, to regions at tokens.

    Predicted is weight times gradient; measured, what becomes of the difference without the region at that token.
    """
    from dataclasses import asdict

    from ..act.attribute import attribute as run
    from ..folder.labels import Labels

    dictionary = chosen.dictionary
    dictionary.check_pursuit(k, basis=basis, method=method)
    attribution = run(
        chosen.loaded,
        dictionary,
        prompt,
        target,
        k=k,
        basis=basis,
        method=method,
        top=top,
        chat=chat,
    )
    shown = [effect.region for effect in attribution.effects]
    texts = {label.region: label.text for label in Labels.read(dictionary).some(shown)}
    if as_json:
        effects = [asdict(effect) | {"label": texts[effect.region]} for effect in attribution.effects]
        print_json(asdict(attribution) | {"effects": effects})
    else:
        _print(attribution, texts)


def _print(attribution: Attribution, texts: dict[int, str]) -> None:
    from rich.table import Column
    from rich.text import Text

    from ..text.visible import visible
    from .terminal import console, cut, table

    shown = table(
        *(">", "token", ">region", ">weight", ">predicted", ">measured"),
        Column("label", no_wrap=True, overflow="ellipsis"),
    )
    for effect in attribution.effects:
        shown.add_row(
            str(effect.token),
            cut(visible(attribution.tokens[effect.token]), _TOKEN),
            str(effect.region),
            f"{effect.weight:.1f}",
            Text(f"{effect.predicted:+.3f}", style="green" if effect.predicted > 0 else "red"),
            f"{effect.measured:+.3f}",
            cut(visible(texts[effect.region]), _LABEL),
        )
    out, (right, wrong) = console(), map(visible, attribution.target)
    out.print(f"logit of {right!r} less that of {wrong!r}: {attribution.difference:+.3f}\n")
    out.print(shown)
    at_most = f" by more than {attribution.splice:.1e}" if attribution.splice else ""
    out.print(
        f"\npredicted for all regions {attribution.regions:+.3f}, for what they leave {attribution.errors:+.3f}; codes "
        f"and errors in place of the activations change no logit{at_most}",
        soft_wrap=True,
    )
