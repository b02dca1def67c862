"""`ep label`: name regions by hand, or have a language model name them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from ..errors import EPError, Interrupted
from ..text.visible import visible
from . import options
from .output import print_json
from .terminal import console, counted, cut, named

if TYPE_CHECKING:
    from ..annotating.endpoint import Outcome, Plan
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
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="Address of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1. Examples are sent to it.",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model there.", rich_help_panel=_ENDPOINT)] = None,
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
            min=1, help="Regions with most members to ask about.", rich_help_panel=_ENDPOINT, show_default=str(_TOP)
        ),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(help="Regions to ask about, e.g. 1,2,3.", rich_help_panel=_ENDPOINT),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Send without asking first.", rich_help_panel=_ENDPOINT)] = False,
    as_json: options.Json = False,
) -> None:
    """Label regions: by hand with --region, or with a language model's help with --endpoint.

    Labels are kept in labels.json beside the dictionary, each with its source. What you say goes before what a
    model says, and that before what is made from tokens. Nothing leaves the machine without --endpoint.
    """
    if (region is None) == (endpoint is None):
        raise EPError("give --region N, with a text to label it, or --endpoint URL --model NAME to ask a model")
    dictionary = options.chosen_dictionary(path, site, percentile)
    if region is not None:
        _by_hand(dictionary, region, text, as_json)
        return
    if text is not None or model is None or (top is not None and regions is not None):
        raise EPError("--endpoint needs --model, no text, and either --top or --regions")
    chosen = options.regions(regions) if regions else _largest(dictionary, top or _TOP)
    _by_model(dictionary, chosen, url=endpoint or "", model=model, key_env=key_env, yes=yes, as_json=as_json)


def _by_hand(dictionary: StoredDictionary, region: int, text: str | None, as_json: bool) -> None:
    from ..folder.labels import Labels

    labels = Labels.read(dictionary)
    if text is not None:
        labels.set(region, text)
    given = labels.all(region)
    if as_json:
        shown = [{"text": label.text, "source": label.source} for label in given]
        print_json({"region": region, "labels": shown})
        return

    out = console()
    for rank, label in enumerate(given):
        out.print(
            named("" if rank else f"region {region}", visible(label.text), (f"  ({visible(label.source)})", "dim"))
        )


def _largest(dictionary: StoredDictionary, top: int) -> list[int]:
    """The regions with most members, none without."""
    members = dictionary.annotation.regions.column("members").to_numpy()
    return [int(i) for i in (-members).argsort(kind="stable")[:top] if members[i]]


def _by_model(
    dictionary: StoredDictionary,
    regions: list[int],
    *,
    url: str,
    model: str,
    key_env: str | None,
    yes: bool,
    as_json: bool,
) -> None:

    from ..annotating import endpoint

    key = os.environ.get(key_env) if key_env else None
    if key_env and not key:
        raise EPError(f"the environment variable {key_env} is empty or not set; put the key there")
    client = endpoint.connect(url, key)
    planned = endpoint.plan(dictionary, regions, model)
    if planned.questions and not (yes or _confirmed(planned, url, model)):
        raise typer.Abort
    console = Console(stderr=True)
    bar = Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("asking", total=len(planned.questions))

    def advance(outcome: Outcome) -> None:
        bar.update(task, completed=len(outcome.labels) + len(outcome.failures))

    try:
        with bar:
            outcome = endpoint.ask(dictionary, planned, client, advance)
    except KeyboardInterrupt:
        raise Interrupted("stopped; answers had so far are saved, the same command asks the rest") from None
    _report(planned, outcome, as_json)


def _confirmed(planned: Plan, url: str, model: str) -> bool:

    typer.echo(
        f"{counted(len(planned.questions), 'request')} to {visible(model)} at {visible(url)}, "
        f"{counted(planned.known, 'label')} of it known already.\nAbout {planned.prompt_tokens:,} tokens of prompts, "
        "examples from the text among them, "
        f"and {planned.completion_tokens:,} of answers.",
        err=True,
    )
    return typer.confirm("Send them? (--yes does not ask)", err=True)


def _report(planned: Plan, outcome: Outcome, as_json: bool) -> None:
    if as_json:
        shown = {
            "labels": [label.model_dump(include={"region", "text", "source"}) for label in outcome.labels],
            "known": planned.known,
            "failures": [{"region": region, "error": why} for region, why in outcome.failures.items()],
            "not_asked": outcome.not_asked,
        }
        print_json(shown)
        return

    out = console()
    for label in sorted(outcome.labels, key=lambda label: label.region):
        out.print(f"{label.region:>7}  {cut(visible(label.text), out.width - 9)}")
    out.print(f"{counted(len(outcome.labels), 'label')} saved, {planned.known:,} there already")
    if outcome.failures:
        region, why = next(iter(outcome.failures.items()))
        out.print(
            f"{counted(len(outcome.failures), 'request')} brought no label (region {region}: {why}); "
            f"{outcome.not_asked:,} were not made any more. The same command asks again."
        )
