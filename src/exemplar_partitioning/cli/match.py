"""`ep match`: regions of one dictionary in another of the same width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from . import options

if TYPE_CHECKING:
    import pyarrow as pa

    from ..compare.matching import Matching

_TOKEN = 24  # columns at most


def match(
    a: Annotated[Path, typer.Argument(help="Folder of a build, or of one dictionary.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Folder of the other.", metavar="B")],
    site: Annotated[str | None, typer.Option(help="Which site, where a folder holds several.")] = None,
    percentile: Annotated[str | None, typer.Option(help="Which percentile, where a folder holds several.")] = None,
    site_b: Annotated[str | None, typer.Option(help="Site of B, if another.", show_default=False)] = None,
    percentile_b: Annotated[str | None, typer.Option(help="Percentile of B, if another.", show_default=False)] = None,
    basis: Annotated[str, typer.Option(help="exemplar, or mean: directions to compare.")] = "exemplar",
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text for both models to read: shared members, and the stricter null.", show_default=False),
    ] = None,
    max_tokens: Annotated[str, typer.Option(help="Tokens of it to read.")] = "50_000",
    field: Annotated[str, typer.Option(help="Column or key that holds the text.")] = "text",
    rebuild: Annotated[
        Path | None, typer.Option(help="A built again with another order of its text (--seed).", show_default=False)
    ] = None,
    null: Annotated[
        str | None,
        typer.Option(
            help="What sets the cutoff: reflections, or random exemplars (needs a text).",
            show_default="the stricter there is",
        ),
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(help="Share of matches without correspondence that may be called persisted.")
    ] = 0.01,
    model: Annotated[str | None, typer.Option(help="Where A's model is, if it has moved.", show_default=False)] = None,
    model_b: Annotated[str | None, typer.Option(help="Where B's model is.", show_default=False)] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of each list to print.")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write summary.json and tables to.", show_default=False)
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Tables as CSV instead of parquet.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary and the table as one JSON document.")] = False,
) -> None:
    """Match regions: which persist, which are dropped or introduced, at a cutoff calibrated by a null."""
    from ..compare.matching import Basis, NullName
    from ..compare.matching import match as run

    tokens = options.count(max_tokens)
    first = options.one_dictionary(a, site, percentile)
    second = options.one_dictionary(b, site_b or site, percentile_b or percentile)
    again = options.one_dictionary(rebuild, site, percentile) if rebuild is not None else None
    found = run(
        first,
        second,
        basis=cast(Basis, basis),
        text=options.sources(text),
        model_a=model,
        model_b=model_b,
        field=field,
        max_tokens=tokens,
        rebuild=again,
        null=cast(NullName | None, null),
        false_alarms=false_alarms,
    )
    if out is not None:
        write(out, found.summary(), {"regions": found.table(), "introduced": found.introduced_table()}, csv=csv)
    if as_json:
        typer.echo(json.dumps(found.summary() | {"table": found.table().to_pylist()}, ensure_ascii=False))
    else:
        show(found, top)


def write(out: Path, summary: dict[str, Any], tables: dict[str, pa.Table], *, csv: bool) -> None:
    """summary.json and each table as a file, in a folder that may be there already."""
    import pyarrow.csv
    import pyarrow.parquet

    from ..files import disk_errors, write_new
    from ..folder.dictionary import to_json

    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            if csv:
                pyarrow.csv.write_csv(table, out / f"{name}.csv")
            else:
                pyarrow.parquet.write_table(table, out / f"{name}.parquet")
    write_new(out / "summary.json", to_json(summary))


def show(found: Matching, top: int) -> None:
    """The matching for people."""
    from rich.table import Table

    from ..text.visible import visible
    from .terminal import console, cut

    console, summary, rows = console(), found.summary(), found.table().to_pylist()
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in ("best cosine", "median", "p90", "p99", "cutoff", "above it"):
        table.add_column(name, justify="left" if name == "best cosine" else "right", no_wrap=True)
    for there, back, where in (("to_b", "to_b", "A in B"), ("to_a", "to_a", "B in A")):
        q = summary[f"cosine_{there}"]
        table.add_row(where, *(f"{q[name]:.3f}" for name in ("median", "p90", "p99")), "", "")
        for null in summary["nulls"]:
            q = null[f"cosine_{back}"]
            values = [f"{q[name]:.3f}" for name in ("median", "p90", "p99")]
            table.add_row(f"  {null['name']}", *values, f"{null[f'cutoff_{back}']:.3f}", f"{null[f'above_{back}']:.1%}")
    console.print(
        f"{summary['regions'][0]:,} regions of A, {summary['regions'][1]:,} of B, by {found.basis} directions, each "
        "around its own centre"
    )
    console.print(table)
    pairs = summary["one_to_one"]
    console.print(
        f"one to one: {pairs['pairs']:,} pairs, mean cosine {pairs['mean_cosine']:.3f}"
        + (f", at most {pairs['gap']:.4f} below the optimum" if pairs["gap"] else ", the optimum")
    )
    console.print(
        f"{summary['persisted']:,} persisted, {summary['dropped']:,} dropped, {summary['introduced']:,} introduced, at "
        f"{found.false_alarms:.0%} false alarms under {found.null.name}"
    )
    if "rebuild" in summary:
        r = summary["rebuild"]
        console.print(
            f"in the rebuild of A: median {r['cosine']['median']:.3f}, {r['persisted']:,} persisted, "
            f"{r['lost_though_rebuilt']:,} of them not in B; {r['share_below_lowest']:.1%} of A's regions match B "
            f"worse than {found.false_alarms:.0%} do the rebuild"
        )
    if "text" in summary:
        t = summary["text"]
        console.print(
            f"on {t['aligned']:,} tokens both read ({t['tokens'] - t['aligned']:,} not aligned): covered "
            f"{t['coverage'][0]:.1%} and {t['coverage'][1]:.1%}; best F1 of members {t['mean_best_f1'] or 0:.3f} "
            f"(shuffled {t['mean_best_f1_null']:.3f}), adjusted Rand {t['adjusted_rand']:.3f}"
        )
    listing = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("A", "B", "cosine", "d/theta"):
        listing.add_column(name, justify="right", no_wrap=True)
    if "f1" in rows[0]:
        listing.add_column("F1", justify="right", no_wrap=True)
    listing.add_column("token of A", no_wrap=True)
    listing.add_column("of B", no_wrap=True)
    for row in rows[:top]:
        cells = [
            str(row["region_a"]),
            str(row["region_b"]),
            f"{row['cosine']:.3f}",
            f"{row['distance_in_theta_a']:.2f}",
        ]
        if "f1" in row:
            cells.append("" if row["f1"] is None or row["f1"] != row["f1"] else f"{row['f1']:.2f}")
        listing.add_row(*cells, *(cut(visible(row[f"token_{name}"]), _TOKEN) for name in "ab"))
    console.print(f"\nthe {min(top, len(rows))} most similar:")
    console.print(listing)
