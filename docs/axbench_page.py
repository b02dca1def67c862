"""The part of results.md on concept detection, and its figure, from docs/results/axbench/*.json."""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOUND = sorted((HERE / "results" / "axbench").glob("*.json"))
FIGURE = HERE / "figures" / "axbench.svg"


def parts() -> dict[str, str]:
    """The generated part by the name in its markers; none before there are results."""
    if not (results := _results()):
        return {}
    return {"axbench": "\n\n".join((_made(results), _pooled(results), _figure(), _places(results), _paper(results)))}


def figure_files() -> dict[Path, str]:
    """The figure, and the digest of what it follows from."""
    if not FOUND:
        return {}
    from exemplar_partitioning.experiments import axbench_plots, axbench_pooled

    code = [Path(module.__file__).read_bytes() for module in (axbench_plots, axbench_pooled)]
    return {FIGURE: hashlib.sha256(b"".join([*(path.read_bytes() for path in FOUND), *code])).hexdigest()}


def draw() -> None:
    """Write the figure."""
    from exemplar_partitioning.experiments.axbench_plots import axbench_figure
    from exemplar_partitioning.figures import to_bytes

    for file, digest in figure_files().items():
        svg = to_bytes(axbench_figure(_results()), "svg")
        file.write_bytes(svg + f"<!-- source sha256 {digest} -->\n".encode())


def _results() -> list[dict]:
    return [json.loads(path.read_bytes()) for path in FOUND]


def _made(results: list[dict]) -> str:
    lines = [
        f"- `{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, {', '.join(r['plan']['sites'])}, seed "
        f"{r['seed']}; {r['text']['activations']:,} activations of {r['text']['source']}; regions at "
        + "; ".join(f"{site}: {_sizes(r, site)}" for site in r["plan"]["sites"])
        + f"; {r['minutes']:.0f} min from cached activations."
        for r in results
    ]
    sets = "; ".join(
        f"{s['name']}: {len(s['concepts'])} concepts, {s['texts']:,} texts, {s['tokens']:,} tokens, {s['cut']} texts "
        f"reach token {results[0]['plan']['context_size']}"
        for s in results[0]["sets"]
    )
    return f"{sets} (counted for {results[0]['model']['id']}).\n\n" + "\n".join(lines)


def _sizes(result: dict, site: str) -> str:
    return ", ".join(f"{d['k']:,} (p {d['percentile']:g})" for d in result["dictionaries"] if d["site"] == site)


def _pooled(results: list[dict]) -> str:
    from exemplar_partitioning.experiments.axbench_pooled import methods, pooled, reference

    best = reference(methods(results))[0]
    lines = [
        "Mean over concepts, models and sites; intervals by resampling concepts (95 %).",
        "",
        f"| features | rule | p | AUROC | against negatives | against hard negatives | above {best} |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in sorted(pooled(results), key=lambda row: -row["auroc"][0]):
        percentile = "" if row["percentile"] is None else f"{row['percentile']:g}"
        above = "" if row["basis"] == best else _interval(row["above_reference"], "+.3f")
        lines.append(
            f"| {row['basis']} | {row['rule']} | {percentile} | {_interval(row['auroc'])} | {row['negative'][0]:.3f} "
            f"| {row['hard'][0]:.3f} | {above} |"
        )
    return "\n".join(lines)


def _interval(figure: list[float], form: str = ".3f") -> str:
    value, low, high = (f"{x:{form}}" for x in figure)
    return f"{value} ({low} to {high})"


def _figure() -> str:
    return f"![Mean AUROC of every method over concepts](figures/{FIGURE.name})"


_SHOWN = (
    ("exemplar", "best"),
    ("mean", "best"),
    ("exemplar", "five best"),
    ("exemplar", "profile"),
    ("k-means", "profile"),
    ("random exemplars", "profile"),
    ("DiffMean", ""),
    ("logistic probe", ""),
    ("LAT", ""),
)


def _places(results: list[dict]) -> str:
    """Every model and site: means of the chief methods at the finest percentile, and of every autoencoder."""
    lines = []
    for r in results:
        finest = min(d["percentile"] for d in r["dictionaries"])
        for site in r["plan"]["sites"]:
            here = {
                (x["basis"], x["rule"]): x for x in r["rows"] if x["site"] == site and x["percentile"] in (None, finest)
            }
            cells = [_mean(here[key]["auroc"]) if key in here else "" for key in _SHOWN]
            lines.append(f"| {r['model']['id']}, {site}, p {finest:g} | " + " | ".join(cells) + " |")
    head = " | ".join(", ".join(filter(None, key)) for key in _SHOWN)
    saes = [
        f"| {r['model']['id']}, {x['site']} | {x['basis']} | {x['k']:,} | {x['rule']} | {_mean(x['auroc'])} "
        f"| {_mean(x['hard'])} |"
        for r in results
        for x in r["rows"]
        if x["basis"] in r["saes"]
    ]
    table = "\n".join([f"| at | {head} |", "|---" + "|--:" * len(_SHOWN) + "|", *lines])
    if not saes:
        return table
    autoencoders = "\n".join(
        ["| at | autoencoder | features | rule | AUROC | hard |", "|---|---|--:|---|--:|--:|", *saes]
    )
    return f"{table}\n\n{autoencoders}"


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3f}" if known else ""


def _paper(results: list[dict]) -> str:
    """The paper's order of methods, beside ours."""
    from exemplar_partitioning.experiments.axbench_pooled import pooled

    finest = min(d["percentile"] for d in results[0]["dictionaries"])
    found = {(row["basis"], row["rule"]): row for row in pooled(results) if row["percentile"] in (None, finest)}
    published = [
        ("exemplar", "contrast", ".881"),
        ("exemplar", "best", ".832"),
        ("mean", "best", ".937"),
        ("DiffMean", "", ".946"),
        ("logistic probe", "", ".946"),
        ("LAT", "", ".809"),
    ]
    lines = ["| | the paper, AxBench (Gemma-2-2B, block 20, Concept500) | here |", "|---|--:|--:|"]
    for basis, rule, value in published:
        if (basis, rule) not in found:
            continue
        lines.append(
            f"| {', '.join(filter(None, (basis, rule)))} | {value} | {_interval(found[basis, rule]['auroc'])} |"
        )
    return "\n".join(lines)
