"""`ep experiment attribution`: do few regions carry what the next token hangs on, beside neurons?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .ending import Run


def attribution(
    path: Annotated[Path, typer.Argument(help="Folder of an annotated dictionary, or of a build.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="File for the result.")],
    site: Annotated[str | None, typer.Option(help="Site, where there are several.")] = None,
    percentile: Annotated[float | None, typer.Option(help="Percentile, where there are several.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts, null arms and intervals.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Attribute next tokens of induction, indirect object and agreement prompts to regions, random ones and neurons."""
    from exemplar_partitioning.cli.display import steps
    from exemplar_partitioning.cli.options import chosen_dictionary
    from exemplar_partitioning.folder.model import model_of
    from exemplar_partitioning.folder.origin import describe

    from ..attribution import run as experiment

    run = Run("attribution", seed=seed, as_json=as_json)
    dictionary = chosen_dictionary(path, site, percentile)
    dictionary.check_pursuit(experiment.K, basis="mean")
    loaded = model_of(dictionary)
    with steps() as report:
        result = experiment.run(dictionary, loaded, seed=seed, report=report)
    run.finish(out, loaded.info, {"dictionary": describe(dictionary)} | result, _show)


def _show(result: dict[str, Any]) -> None:
    from exemplar_partitioning.cli.terminal import console, table

    out = console()
    for family, summary in result["summary"].items():
        title = f"{family}: {summary['prompts']} prompts"
        shown = table("arm", ">|1 - f|", *(f">f({n})" for n in result["sizes"][::2]), title=title)
        for name, arm in summary["arms"].items():
            shown.add_row(name, f"{arm['distance'][0]:.3f}", *(f"{f:.2f}" for f in arm["faithfulness_by_size"][::2]))
        out.print(shown)
        for name, difference in summary["distance"].items():
            out.print(f"{name}: {_interval(difference)}")
        for name, effect in summary["effects"].items():
            out.print(
                f"{name}: predicted and measured correlate by {_interval(effect['correlation'])}, size measured "
                f"{_interval(effect['mean_size_measured'])}"
            )


def _interval(value: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*value)
