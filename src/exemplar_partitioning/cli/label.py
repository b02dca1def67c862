"""`ep label`: name regions by hand, or have a language model name them, here or behind an endpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.text import Text

from ..errors import EPError, Interrupted
from ..text.visible import visible
from . import options
from .output import print_json
from .terminal import console, counted, cut, fixed, named

if TYPE_CHECKING:
    from ..annotating.questions import Outcome, Plan
    from ..folder.dictionary import StoredDictionary

_ENDPOINT = "Ask a language model"
_TOP = 100


def label(
    path: options.Folder,
    text: Annotated[str | None, typer.Argument(help="Label to give the region; empty to remove yours.")] = None,
    *,
    site: options.Site = None,
    percentile: options.Percentile = None,
    region: Annotated[int | None, typer.Option(help="Region to label, or to see the labels of.")] = None,
    local: Annotated[
        str | None,
        typer.Option(
            help="Model to ask on this machine: packaged name, hub id, folder or .gguf.",
            rich_help_panel=_ENDPOINT,
            metavar="MODEL",
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="Address of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1. Examples are sent to it.",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model at the endpoint.", rich_help_panel=_ENDPOINT)
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable that holds the key.",
            rich_help_panel=_ENDPOINT,
            metavar="VAR",
            show_default="no key is sent",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most telling regions to ask about.", rich_help_panel=_ENDPOINT, show_default=str(_TOP)
        ),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(help="Regions to ask about, e.g. 1,2,3.", rich_help_panel=_ENDPOINT),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Send without asking first.", rich_help_panel=_ENDPOINT)] = False,
    as_json: options.Json = False,
) -> None:
    """Label regions: by hand with --region, or by a language model: --local here, --endpoint elsewhere.

    Labels are kept in labels.json beside the dictionary, each with its source. What you say goes before what a
    model says, and that before what contrast with other regions tells. Beside each stands how well its words tell
    the region's members from others (docs/labels.md). Nothing leaves the machine without --endpoint.
    """
    if sum(given is not None for given in (region, endpoint, local)) != 1:
        raise EPError(
            "give --region N, with a text to label it, or ask a model: --local MODEL, or --endpoint URL --model NAME"
        )
    dictionary = options.chosen_dictionary(path, site, percentile)
    if region is not None:
        _by_hand(dictionary, region, text, as_json)
        return
    if text is not None or (model is None) != (local is not None) or (top is not None and regions is not None):
        raise EPError(
            "asking takes --model with --endpoint and not with --local, no text, and either --top or --regions"
        )
    from ..folder.interest import shown

    chosen = options.regions(regions) if regions else shown(dictionary)[: top or _TOP]
    if local is not None:
        _by_local(dictionary, chosen, local, as_json)
    else:
        _by_endpoint(
            dictionary, chosen, url=endpoint or "", model=model or "", key_env=key_env, yes=yes, as_json=as_json
        )


def _by_hand(dictionary: StoredDictionary, region: int, text: str | None, as_json: bool) -> None:
    from ..folder.labels import Labels, detection

    labels = Labels.read(dictionary)
    if text is not None:
        labels.set(region, text)
    given = labels.all(region)
    if as_json:
        shown = [{"text": label.text, "source": label.source, "score": label.score} for label in given]
        print_json({"region": region, "labels": shown})
        return

    out = console()
    for rank, label in enumerate(given):
        about = f"  ({visible(label.source)}{detection(label.score)})"
        out.print(named("" if rank else f"region {region}", visible(label.text), (about, "dim")))


def _by_local(dictionary: StoredDictionary, regions: list[int], model: str, as_json: bool) -> None:
    from ..annotating import local, questions
    from ..models.load import load_model

    planned = questions.plan(dictionary, regions, model, "local")
    with _asking(planned) as advance:
        outcome = (
            local.ask(dictionary, planned, load_model(model), advance) if planned.questions else questions.Outcome()
        )
    _report(dictionary, planned, outcome, as_json)


def _by_endpoint(
    dictionary: StoredDictionary,
    regions: list[int],
    *,
    url: str,
    model: str,
    key_env: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    from ..annotating import endpoint, questions

    key = os.environ.get(key_env) if key_env else None
    if key_env and not key:
        raise EPError(f"the environment variable {key_env} is empty or not set; put the key there")
    client = endpoint.connect(url, key)
    planned = questions.plan(dictionary, regions, model)
    if planned.questions and not (yes or _confirmed(planned, url, model)):
        raise typer.Abort
    with _asking(planned) as advance:
        outcome = endpoint.ask(dictionary, planned, client, advance)
    _report(dictionary, planned, outcome, as_json)


@contextmanager
def _asking(planned: Plan) -> Iterator[Callable[[Outcome], None]]:
    """A bar that is told of answers."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("asking", total=len(planned.questions))

    def advance(outcome: Outcome) -> None:
        bar.update(task, completed=len(outcome.labels) + len(outcome.failures))

    try:
        with bar:
            yield advance
    except KeyboardInterrupt:
        raise Interrupted("stopped; answers had so far are saved, the same command asks the rest") from None


def _confirmed(planned: Plan, url: str, model: str) -> bool:

    typer.echo(
        f"{counted(len(planned.questions), 'request')} to {visible(model)} at {visible(url)}, "
        f"{counted(planned.known, 'label')} of it known already.\nAbout {planned.prompt_tokens:,} tokens of prompts, "
        "examples from the text among them, "
        f"and {planned.completion_tokens:,} of answers.",
        err=True,
    )
    return typer.confirm("Send them? (--yes does not ask)", err=True)


def _report(dictionary: StoredDictionary, planned: Plan, outcome: Outcome, as_json: bool) -> None:
    concepts = dictionary.annotation.concepts
    scored = [(label, concepts.score(label.region, label.text)) for label in outcome.labels]
    known = [score for _, score in scored if score is not None]
    if as_json:
        shown = {
            "labels": [label.model_dump(include={"region", "text", "source"}) | {"score": s} for label, s in scored],
            "known": planned.known,
            "failures": [{"region": region, "error": why} for region, why in outcome.failures.items()],
            "not_asked": outcome.not_asked,
            "chance": concepts.chance,
        }
        print_json(shown)
        return

    out = console()
    for label, score in sorted(scored, key=lambda pair: pair[0].region):
        out.print(Text(f"{label.region:>7}  {fixed(score, 2) or '':>4}  {cut(visible(label.text), out.width - 15)}"))
    mean = (
        f"; detection {sum(known) / len(known):.2f} on average, exchanged labels {concepts.chance:.2f}" if known else ""
    )
    out.print(f"{counted(len(outcome.labels), 'label')} saved, {planned.known:,} there already{mean}")
    if outcome.failures:
        region, why = next(iter(outcome.failures.items()))
        out.print(
            f"{counted(len(outcome.failures), 'request')} brought no label (region {region}: {why}); "
            f"{outcome.not_asked:,} were not made any more. The same command asks again."
        )
