"""`ep transport`: the regions of a dictionary in another model, layer or checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .output import print_json
from .terminal import console, counted, fixed, table

if TYPE_CHECKING:
    from ..folder.dictionary import StoredDictionary


def transport(
    a: options.FolderA,
    *,
    model: Annotated[str, typer.Option(help="Model to carry it to: packaged name, path or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for the dictionary there.")],
    to_site: Annotated[
        str | None, typer.Option("--to-site", "-s", help="Site in that model.", show_default="of the same name")
    ] = None,
    site: options.Site = None,
    percentile: options.Percentile = None,
    text: options.Text = None,
    max_tokens: options.MaxTokens = 50_000,
    field: options.Field = "text",
    keep_center: Annotated[
        bool, typer.Option("--keep-center", help="Keep A's centre and threshold, for checkpoints of one model.")
    ] = False,
    source_model: Annotated[str | None, typer.Option(help="Where A's own model is, if it has moved.")] = None,
    trust_remote_code: options.RemoteCode = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Embed A's exemplars with another model: the same regions there, how far they moved, whether they still agree."""
    from ..compare.common_tokens import common_tokens, places
    from ..compare.structure import drift, structure
    from ..compare.transport import transport as run
    from ..folder.model import model_of
    from ..folder.origin import read_origin
    from ..models.load import load_model

    source = options.chosen_dictionary(a, site, percentile)
    loaded = load_model(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    own = model_of(source, source_model, device=device, trust_remote_code=True) if trust_remote_code else source_model
    carried = run(source, loaded, out, site=to_site, source_model=own, keep_center=keep_center)
    common = None
    if text:
        first, second = places(source, carried, own, loaded, device=device)
        common = common_tokens(first, second, options.sources(text), field=field, max_tokens=max_tokens)
    outcome: dict[str, Any] = {"path": str(carried.path), "origin": read_origin(carried)}
    outcome["structure"] = structure(source, carried, common).as_json() if source.k >= 3 else None
    outcome["drift"] = drift(source, carried).summary() if source.d_model == carried.d_model else None
    if as_json:
        print_json(outcome)
    else:
        _show(source, carried, outcome)


def _show(source: StoredDictionary, carried: StoredDictionary, outcome: dict[str, Any]) -> None:

    out, origin = console(), outcome["origin"]
    out.print(
        f"{counted(carried.k, 'region')} of {source.config.model.id} {source.config.site.name} now in {outcome['path']}"
    )
    out.print(
        f"centre and theta {carried.threshold:.4f} (there {source.threshold:.4f}): {origin['centre_and_threshold']}"
    )
    if origin["tokenizer"] == "another":
        out.print(
            f"another tokenizer: tokens that begin at another character {len(origin['split']):,}, that were part of a "
            f"character {len(origin['cut']):,}"
        )
    agreement = table("agreement", ">value", ">permuted", ">highest", ">p")
    names = {
        "gram": "cosines of pairs of exemplars (Pearson)",
        "neighbours": "ten nearest exemplars shared",
        "stay": "tokens that stay in their region",
    }
    for key, name in names.items():
        measure = outcome["structure"] and outcome["structure"][key]
        if measure:
            values = measure if isinstance(measure, dict) else vars(measure)
            agreement.add_row(name, *(fixed(values[part]) for part in ("value", "null_mean", "null_high", "p")))
    if agreement.row_count:
        out.print(agreement)
    if outcome["drift"]:
        d = outcome["drift"]
        of, common, null = d["cosine"], d["cosine_common_centre"], d["null"]
        out.print(
            f"drift: cosine of a region's exemplar here and there, median {of['median']:.3f}, the lowest tenth below "
            f"{of['p10']:.3f}; "
            + (f"around one centre {common['median']:.3f}; " if common else "")
            + f"of different regions {null['median']:.3f}, the highest hundredth above {null['p99']:.3f}; "
            f"{d['recognised']:.1%} nearest to themselves (chance {d['recognised_null']:.2%})"
        )
