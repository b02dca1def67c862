"""`ep steer`: what a model writes, before and after an intervention on regions, and whether it still reads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import options
from .chosen import Chosen, of_dictionary
from .output import print_json

if TYPE_CHECKING:
    from ..act.concept import Concept
    from ..act.fluency import Fluency
    from ..folder.dictionary import StoredDictionary
    from ..models.loaded import LoadedModel
    from ..reading import WrittenToken


@of_dictionary
def steer(
    named: Chosen,
    *,
    region: Annotated[str | None, typer.Option(help="Region, or several separated by commas.")] = None,
    label: Annotated[
        str | None, typer.Option(help="In place of a region, words of its label, which no other region's label has.")
    ] = None,
    concept: Annotated[
        Path | None,
        typer.Option(help="Folder of `ep concept`, or its name in concepts: its direction, at its strength."),
    ] = None,
    prompt: Annotated[list[str], typer.Option(help="What to continue; may be given more than once.")],
    alpha: Annotated[
        str,
        typer.Option(
            help="How far along the regions' direction, in typical residual norms; several between commas are tried "
            "in turn; auto: the farthest at which text still reads.",
            metavar="NUMBERS",
            show_default="0.25, or the concept's",
        ),
    ] = "",
    ablate: Annotated[bool, typer.Option("--ablate", help="Project the regions' span out instead.")] = False,
    basis: options.Basis = "exemplar",
    at: Annotated[
        str | None,
        typer.Option(help="Where to act, e.g. resid_post.*", show_default="the dictionary's site"),
    ] = None,
    tokens: Annotated[Literal["all", "prompt", "generated"], typer.Option(help="all, prompt or generated.")] = "all",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 64,
    chat: options.Chat = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the step as a file, .gguf (llama.cpp, repeng) or .safetensors.", metavar="FILE"),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Act on regions while the model writes: what it says before and after, and whether that still reads as text.

    Words in red have left the manifold: their activation lies farther than theta from every exemplar. Beside each
    text: its perplexity under the model as it is, its repetition, and the same for a random step of that length.
    """
    from ..act.fluency import ALPHA
    from ..errors import EPError

    if sum(given is not None for given in (region, label, concept)) != 1:
        raise EPError("say what to steer along: one of --region, --label and --concept")
    dictionary = named.dictionary
    where: dict[str, Any] = {"basis": basis, "sites": at, "tokens": tokens}
    if concept is not None:
        chosen = _concept(concept, dictionary)
        regions, alpha = chosen.regions, alpha or f"{chosen.alpha:g}"
        where["basis"] = basis if ablate else chosen.direction
    else:
        regions = options.regions(region) if region is not None else [_labelled(dictionary, label or "")]
    alpha = alpha or f"{ALPHA:g}"
    for index in regions:
        dictionary.check_region(index)
    if save is not None and (ablate or "," in alpha):
        raise EPError("--save writes one step: give one --alpha, and no --ablate")
    loaded = named.loaded
    writing = _Writing(loaded, dictionary, prompt, {"max_new_tokens": max_new_tokens, "chat": chat})
    before = writing.under(None)
    steps = _ablation(writing, regions, where) if ablate else _steps(writing, regions, _alphas(alpha), where)
    how = _save(save, dictionary, regions, where, steps[0]) if save is not None else None
    if as_json:
        print_json(_as_json(prompt, before, steps))
    else:
        _print(prompt, before, steps)
        if how is not None:
            typer.echo(f"{save}\n\n{how}")


def _concept(path: Path, dictionary: StoredDictionary) -> Concept:
    from ..act.concept import Concept

    return Concept.load(path if path.is_dir() else Path("concepts") / path, dictionary)


def _labelled(dictionary: StoredDictionary, words: str) -> int:
    """The region whose label has some words; EPError, naming candidates, if none or several have them."""
    from ..errors import EPError
    from ..folder.labels import Labels

    wanted = words.casefold().split()
    labels = [label for label in Labels.read(dictionary).every() if wanted]
    fitting = [label for label in labels if all(word in label.text.casefold() for word in wanted)]
    exact = [label for label in fitting if label.text.casefold() == words.casefold().strip()]
    if len(exact or fitting) != 1:
        some = "; ".join(f"{label.region}: {label.text}" for label in fitting[:5])
        raise EPError(
            f"{len(fitting):,} labels of {dictionary.path} have {words!r}"
            + (f" ({some}); say more of it, or give --region" if fitting else "; look for it with `ep search`")
        )
    return (exact or fitting)[0].region


@dataclass(frozen=True)
class _Text:
    """What was written after every prompt under one intervention, beside its null."""

    name: str
    texts: list[list[WrittenToken]]
    fluency: Fluency
    alpha: float | None = None
    null: Fluency | None = None


@dataclass(frozen=True)
class _Writing:
    loaded: LoadedModel
    dictionary: StoredDictionary
    prompts: list[str]
    options: dict[str, Any]

    def under(self, acting: AbstractContextManager[None] | None, name: str = "as it is", **about: Any) -> _Text:
        from contextlib import nullcontext

        from ..act.fluency import fluency
        from ..models.generate import encode
        from ..reading import written

        with acting or nullcontext():
            texts = [written(self.loaded, self.dictionary, p, **self.options) for p in self.prompts]
        ids = [[token.token_id for token in text] for text in texts]
        prompts = [encode(self.loaded, p, self.options["chat"]) for p in self.prompts]
        return _Text(name, texts, fluency(self.loaded, list(zip(prompts, ids, strict=True))), **about)


def _alphas(text: str) -> list[float | str]:
    try:
        return [part if (part := each.strip()) == "auto" else float(part) for each in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither numbers such as 0.1,0.25 nor auto", param_hint="--alpha"
        ) from None


def _ablation(writing: _Writing, regions: list[int], where: dict[str, Any]) -> list[_Text]:
    from ..act.steer import ablate

    return [writing.under(ablate(writing.loaded, writing.dictionary, regions, **where), "ablated")]


def _steps(writing: _Writing, regions: list[int], alphas: list[Any], where: dict[str, Any]) -> list[_Text]:
    from ..act.fluency import random_direction, strongest
    from ..act.steer import steer as act

    loaded, dictionary = writing.loaded, writing.dictionary

    def acting(alpha: float) -> AbstractContextManager[None]:
        return act(loaded, dictionary, regions, alpha=alpha, **where)

    at_random: dict[str, Any] = {**where, "basis": random_direction(dictionary.d_model)}
    made = []
    for each in alphas:
        alpha = strongest(loaded, acting, writing.prompts, chat=writing.options["chat"]) if each == "auto" else each
        step = acting(alpha)  # refused before anything is written, if it is
        null = writing.under(act(loaded, dictionary, regions, alpha=alpha, **at_random)).fluency
        made.append(writing.under(step, f"steered by {alpha:g}", alpha=alpha, null=null))
    return made


def _save(path: Path, dictionary: StoredDictionary, regions: list[int], where: dict[str, Any], step: _Text) -> str:
    from ..act.steer import direction_of
    from ..exchange.vectors import save_vector

    assert step.alpha is not None
    step_d = step.alpha * dictionary.typical_norm * direction_of(dictionary, regions, where["basis"])
    return save_vector(path, dictionary, step_d, f"regions {', '.join(map(str, regions))}")


def _as_json(prompts: list[str], before: _Text, steps: list[_Text]) -> list[dict[str, Any]]:
    def said(text: _Text, i: int) -> dict[str, Any]:
        tokens = text.texts[i]
        about = {"alpha": text.alpha, "fluency": asdict(text.fluency)}
        if text is not before:
            about["verdict"] = text.fluency.verdict(before.fluency, text.null)
            about["null"] = text.null and asdict(text.null)
        return {"text": "".join(t.text for t in tokens), "tokens": [asdict(token) for token in tokens], **about}

    return [
        {"prompt": p, "before": said(before, i), "after": said(steps[0], i), "steps": [said(step, i) for step in steps]}
        for i, p in enumerate(prompts)
    ]


def _print(prompts: list[str], before: _Text, steps: list[_Text]) -> None:
    from rich.text import Text

    from ..text.visible import visible
    from .terminal import console, counted, table

    out = console()
    for i, prompt in enumerate(prompts):
        out.print(Text(visible(prompt), style="bold"))
        for each in (before, *steps):
            off = sum(token.off for token in each.texts[i])
            about = f"{off} of {counted(len(each.texts[i]), 'token')} off the manifold"
            out.print(Text(f"\n{each.name}  ({about})", style="dim"))
            out.print(Text.assemble(*((_shown(token.text), "red" if token.off else "") for token in each.texts[i])))
        out.print()
    shown = table("", ">perplexity", ">repetition", ">of a random step", "verdict")
    shown.add_row(before.name, *_figures(before.fluency), "", "")
    for step in steps:
        null = "" if step.null is None else ", ".join(_figures(step.null))
        shown.add_row(step.name, *_figures(step.fluency), null, step.fluency.verdict(before.fluency, step.null))
    out.print(shown)


def _figures(fluency: Fluency) -> tuple[str, str]:
    from .terminal import fixed

    return fixed(fluency.perplexity, 1), f"{fluency.repetition:.0%}"


def _shown(piece: str) -> str:
    from ..text.visible import visible

    return "\n".join(visible(line) for line in piece.split("\n"))
