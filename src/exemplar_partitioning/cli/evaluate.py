"""`ep evaluate`: how well a dictionary rebuilds activations, in the currency of sparse autoencoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.measure import Measurement

from . import options
from .chosen import Chosen, of_dictionary
from .output import print_json
from .terminal import console, counted, table

if TYPE_CHECKING:
    from ..evaluating.result import Evaluation, Interval

_WIDTH = 200  # of the table at most; it is not cut where a terminal is narrower


@of_dictionary
def evaluate(
    chosen: Chosen,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Text the dictionary was not built from: files, folders, globs, hf:owner/dataset.",
            show_default="the packaged text after the part that it was built from",
        ),
    ] = None,
    *,
    sae: Annotated[
        Path | None,
        typer.Option(help="An autoencoder to compare with: its folder, of SAELens, sparsify or Gemma Scope."),
    ] = None,
    k: Annotated[str, typer.Option("-k", "--k", help="Regions for one activation, separated by commas.")] = (
        "1,2,4,8,16,32,64"
    ),
    basis: options.Basis = "exemplar",
    method: options.Method = "omp",
    max_tokens: options.MaxTokens = 8_192,
    no_splice: Annotated[
        bool, typer.Option("--no-splice", help="Do not let the model go on from rebuilt activations.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw error and cross-entropy against L0: a .svg, .png or .pdf file.")
    ] = None,
    field: options.Field = "text",
    seed: Annotated[int, typer.Option(min=0, help="Of the null and the intervals.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Rebuild held-out activations from several regions, and let the model go on from the rebuilt ones.

    As many random activations in place of the exemplars stand beside it, and an autoencoder if one is given.
    """
    from ..evaluating.run import evaluate as run
    from ..exchange.from_sae import load_sae
    from ..files import disk_errors, write_new
    from .display import steps

    dictionary = chosen.dictionary
    if figure is not None:
        from ..show.evaluation import check_drawing

        check_drawing(figure)
        with disk_errors(figure):
            figure.parent.mkdir(parents=True, exist_ok=True)
    with steps() as report:
        result = run(
            dictionary,
            options.sources(text),
            model=chosen.reader,
            sae=load_sae(sae) if sae is not None else None,
            ks=[options.count(part.strip()) for part in k.split(",")],
            basis=basis,
            method=method,
            max_tokens=max_tokens,
            splice=not no_splice,
            field=field,
            seed=seed,
            report=report,
        )
    if figure is not None:
        from ..show.evaluation import curves
        from ..show.figures import to_bytes

        write_new(figure, to_bytes(curves(result), figure.suffix[1:]))
    if as_json:
        print_json(result.as_json())
        return
    _print(result)


def _print(result: Evaluation) -> None:
    spliced = result.ce_clean is not None
    names = ["code", ">k", ">features", ">L0", ">FVU", ">FVU'", ">cosine", ">live"]
    shown = table(*names, *([">CE", ">KL", ">CE/zero %", ">CE/mean %"] if spliced else []))
    for row in result.rows:
        cells = [row.code, "" if row.k is None else str(row.k), f"{row.features:,}", f"{row.l0:.1f}"]
        cells += [_interval(row.fvu, 1), _interval(row.fvu_without_outliers, 1)]
        cells += [f"{row.cosine:.3f}", f"{row.live:.0%}"]
        if row.ce is not None and row.ce_recovered_zero and row.ce_recovered_mean:
            cells += [f"{row.ce:.3f}", f"{row.kl:.3f}"]
            cells += [_interval(row.ce_recovered_zero, 100), _interval(row.ce_recovered_mean, 100)]
        shown.add_row(*cells)
    out = console()
    shown.width = Measurement.get(out, out.options.update(max_width=_WIDTH), shown).maximum
    out.print(shown, soft_wrap=True)
    models = (
        f"\nCE of the model as it is {result.ce_clean:.3f}, with zeros {result.ce_zero:.3f}, with the mean "
        f"{result.ce_mean:.3f} nats a token; recovered is the share of the way back from there."
        if spliced
        else ""
    )
    held = f"{counted(result.tokens, 'token')} of {counted(result.documents, 'document')}"
    left_out = counted(result.outlier_coordinates, "coordinate")
    out.print(
        f"\n{held} of {result.text}; in brackets 95 % over documents.\n"
        f"FVU' leaves out {left_out} of outlying variance.{models}",
        soft_wrap=True,
        highlight=False,
    )


def _interval(value: Interval, scale: float) -> str:
    digits = 3 if scale == 1 else 1
    low, high = value.low * scale, value.high * scale
    return f"{value.estimate * scale:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
