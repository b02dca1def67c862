"""`ep match`: regions of one dictionary in another of the same width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Column, Table

from ..demo.dictionary import packaged
from ..text.visible import visible
from . import options
from .output import print_json, write_tables
from .terminal import console, counted, cut, fixed, table

if TYPE_CHECKING:
    from ..compare.matching import Matching

_TOKEN = 24  # columns at most


def match(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of builds or dictionaries: A and B, or the row; demo: the packaged one.",
            metavar="A B",
            callback=lambda paths: [packaged(path) for path in paths],
        ),
    ],
    *,
    row: Annotated[
        bool,
        typer.Option(
            "--row",
            help="Follow regions along all folders given, in order, each matched with the next; of one folder that "
            "holds builds, along these.",
        ),
    ] = False,
    neighbours: Annotated[
        bool,
        typer.Option(
            "--neighbours",
            help="Follow regions from block to block of one build, at one percentile; --site may be a glob.",
        ),
    ] = False,
    site: options.Site = None,
    percentile: options.Percentile = None,
    site_b: options.SiteB = None,
    percentile_b: options.PercentileB = None,
    basis: options.Basis = "exemplar",
    text: options.Text = None,
    max_tokens: options.MaxTokens = 50_000,
    field: options.Field = "text",
    rebuild: Annotated[Path | None, typer.Option(help="A built again with another order of its text (--seed).")] = None,
    null: Annotated[
        Literal["reflections", "random exemplars"] | None,
        typer.Option(
            help="What sets the cutoff: reflections, or random exemplars (needs a text).",
            show_default="the stricter there is",
        ),
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(help="Share of matches without correspondence that may be called persisted.")
    ] = 0.01,
    model: options.ModelA = None,
    model_b: options.ModelB = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of each list to print.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder to write summary.json and tables to.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Tables as CSV instead of parquet.")] = False,
    as_json: options.Json = False,
) -> None:
    """Match regions: which persist, which are dropped or introduced, at a cutoff calibrated by a null."""
    if csv and out is None:
        raise typer.BadParameter("--csv says how tables are written; add --out")
    if row or neighbours:
        along = _blocks if neighbours else _along
        along(folders, site, percentile, false_alarms=false_alarms, out=out, csv=csv, as_json=as_json)
        return
    if len(folders) != 2:
        raise typer.BadParameter(f"two folders are matched, A and B; got {len(folders)}. A row of them is --row")
    a, b = folders
    from ..compare.matching import match as run

    first = options.chosen_dictionary(a, site, percentile)
    second = options.chosen_dictionary(b, site_b or site, percentile_b or percentile)
    again = options.chosen_dictionary(rebuild, site, percentile) if rebuild is not None else None
    matching = run(
        first,
        second,
        basis=basis,
        text=options.sources(text),
        model_a=model,
        model_b=model_b,
        field=field,
        max_tokens=max_tokens,
        rebuild=again,
        null=null,
        false_alarms=false_alarms,
    )
    if out is not None:
        write_tables(
            out, matching.summary(), {"regions": matching.table(), "introduced": matching.introduced_table()}, csv=csv
        )
    if as_json:
        print_json(matching.summary() | {"table": matching.table().to_pylist()})
    else:
        show(matching, top)


def _blocks(
    folders: list[Path], site: str | None, percentile: float | None, *, false_alarms: float, **told: Any
) -> None:
    from ..compare.row import row
    from ..folder.dictionary import load
    from ..folder.listing import layers
    from .match_row import tell

    if len(folders) != 1:
        raise typer.BadParameter(f"the blocks of one build are neighbours; got {len(folders)} folders")
    chosen = [load(folder) for folder in layers(folders[0], site, percentile)]
    tell(row(chosen, false_alarms=false_alarms), **told)


def _along(
    folders: list[Path], site: str | None, percentile: float | None, *, false_alarms: float, **told: Any
) -> None:
    from ..compare.row import row
    from ..folder.listing import builds
    from .match_row import tell

    if len(folders) == 1:
        folders = builds(folders[0])
    chosen = [options.chosen_dictionary(folder, site, percentile) for folder in folders]
    tell(row(chosen, [folder.name for folder in folders], false_alarms=false_alarms), **told)


def show(matching: Matching, top: int) -> None:
    """The matching for people."""
    out, summary = console(), matching.summary()
    out.print(
        f"{counted(summary['regions'][0], 'region')} of A, {summary['regions'][1]:,} of B, by {matching.basis} "
        "directions, each around its own centre"
    )
    out.print(_cosines(summary))
    for sentence in _sentences(matching, summary):
        out.print(sentence)
    rows = matching.table().slice(0, top).to_pylist()
    out.print(f"\nthe {len(rows):,} most similar:")
    out.print(_pairs(rows))


def _cosines(summary: dict[str, Any]) -> Table:
    """The best cosine of each region in the other dictionary, and under each null."""
    names = {"median": "median", "p90": "top 10%", "p99": "top 1%"}
    heads = (f">{head}" for head in (*names.values(), "cutoff", "above it"))
    shown = table(Column("best cosine", no_wrap=True), *heads)
    for side, direction in (("to_b", "A in B"), ("to_a", "B in A")):
        cosine = summary[f"cosine_{side}"]
        shown.add_row(direction, *(fixed(cosine[name]) for name in names), "", "")
        for null in summary["nulls"]:
            cosine = null[f"cosine_{side}"]
            limit, above = fixed(null[f"cutoff_{side}"]), f"{null[f'above_{side}']:.1%}"
            shown.add_row(f"  {null['name']}", *(fixed(cosine[name]) for name in names), limit, above)
    return shown


def _sentences(matching: Matching, summary: dict[str, Any]) -> Iterator[str]:

    pairs = summary["one_to_one"]
    optimum = f"at most {pairs['gap']:.4f} below the optimum" if pairs["gap"] else "the optimum"
    yield f"one to one: {counted(pairs['pairs'], 'pair')}, mean cosine {fixed(pairs['mean_cosine'])}, {optimum}"
    yield (
        f"{summary['persisted']:,} persisted, {summary['dropped']:,} dropped, {summary['introduced']:,} introduced, at "
        f"{matching.false_alarms:.0%} false alarms under {matching.null.name}"
    )
    if "rebuild" in summary:
        r = summary["rebuild"]
        yield (
            f"in the rebuild of A: median {fixed(r['cosine']['median'])}, {r['persisted']:,} persisted, "
            f"{r['lost_though_rebuilt']:,} of them not in B; {r['share_below_lowest']:.1%} of A's regions match B "
            f"worse than {matching.false_alarms:.0%} do the rebuild"
        )
    if "text" in summary:
        t = summary["text"]
        yield (
            f"on {t['aligned']:,} tokens both read ({t['tokens'] - t['aligned']:,} not aligned): covered "
            f"{t['coverage'][0]:.1%} and {t['coverage'][1]:.1%}; best F1 of members {fixed(t['mean_best_f1'] or 0)} "
            f"(shuffled {fixed(t['mean_best_f1_null'])}), adjusted Rand {fixed(t['adjusted_rand'])}"
        )


def _pairs(rows: list[dict[str, Any]]) -> Table:

    with_text = bool(rows) and "f1" in rows[0]
    tokens = (Column(name, no_wrap=True) for name in ("token of A", "of B"))
    shown = table(">A", ">B", ">cosine", ">d/theta", *([">F1"] if with_text else []), *tokens)
    for row in rows:
        figures = [fixed(row["cosine"]), fixed(row["distance_in_theta_a"], 2)]
        if with_text:
            figures.append(fixed(row["f1"], 2))
        read = (cut(visible(row[f"token_{name}"]), _TOKEN) for name in "ab")
        shown.add_row(str(row["region_a"]), str(row["region_b"]), *figures, *read)
    return shown
