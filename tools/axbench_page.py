"""The generated part of concept-detection.md, and its figure, from docs/results/axbench/*.json."""

import hashlib
import json
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOUND = sorted((DOCS / "results" / "axbench").glob("*.json"))
FIGURE = DOCS / "figures" / "axbench.svg"


def parts() -> dict[str, str]:
    """The generated part by the name in its markers; none before there are results."""
    if not (results := _results()):
        return {}
    written = (_made, _short, _pooled, lambda _: _figure(), _resolutions, _places, _paper)
    return {"axbench": "\n\n".join(write(results) for write in written)}


def figure_files() -> dict[Path, str]:
    """The figure, and the digest of what it follows from."""
    if not FOUND:
        return {}
    from ep_experiments.axbench import plots as axbench_plots
    from ep_experiments.axbench import pooled as axbench_pooled

    code = [Path(module.__file__).read_bytes() for module in (axbench_plots, axbench_pooled)]
    return {FIGURE: hashlib.sha256(b"".join([*(path.read_bytes() for path in FOUND), *code])).hexdigest()}


def draw() -> None:
    """Write the figure."""
    from ep_experiments.axbench.plots import axbench_figure
    from exemplar_partitioning.show.figures import to_bytes

    for file, digest in figure_files().items():
        svg = to_bytes(axbench_figure(_results()), "svg")
        file.write_bytes(svg + f"<!-- source sha256 {digest} -->\n".encode())


@cache
def _results() -> list[dict]:
    return [json.loads(path.read_bytes()) for path in FOUND]


@cache
def pooled_rows() -> list[dict]:
    """Every method over all results; once, for all tables that show some of it."""
    from ep_experiments.axbench.pooled import pooled

    return pooled(_results())


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
    return ", ".join(
        f"{d['k']:,} (percentile {d['percentile']:g})" for d in result["dictionaries"] if d["site"] == site
    )


def _pooled(results: list[dict]) -> str:
    """Every method at the finest percentile, best first, with the texts it was trained on."""
    from ep_experiments.axbench.pooled import methods, reference, shown

    found = methods(results)
    best = {trained_on: reference(found, trained_on)[0] for trained_on in ("own", "all")}
    finest = min(d["percentile"] for d in results[0]["dictionaries"])
    lines = [
        f"Mean over concepts, models and sites, at percentile {finest:g}; intervals by resampling concepts (95 %). "
        "*Own*: trained as AxBench trains, on the concept's texts and the negative texts of its genre. *All*: the "
        f"texts of the set's other concepts are negative, too. Differences are paired: with {best['own']} of AxBench's "
        f"training, and with the better of DiffMean and the logistic probe on the same texts ({best['own']} for own, "
        f"{best['all']} for all).",
        "",
        f"| features | rule | trained on | AUROC | against negatives | hard negatives | above {best['own']}, own "
        "| above the better probe on the same texts |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in shown(pooled_rows(), finest):
        lines.append(
            f"| {row['basis']} | {row['rule']} | {row['training']} | {_interval(row['auroc'])} "
            f"| {row['negative'][0]:.3f} | {row['hard'][0]:.3f} | {_interval(row['above_reference'], '+.3f')} "
            f"| {_interval(row['above_same'], '+.3f')} |"
        )
    return "\n".join(lines)


CHOSEN = ("exemplar", "ridge", "all")  # by cross-validation on training texts of one site


def _short(results: list[dict]) -> str:
    """What the table says of the readout that was chosen, and of the one best region."""
    finest = min(d["percentile"] for d in results[0]["dictionaries"])
    rows = {(r["basis"], r["rule"], r["training"]): r for r in pooled_rows() if r["percentile"] in (None, finest)}
    chosen, one = rows[CHOSEN], rows["exemplar", "best", "own"]
    beside = ("k-means", "random exemplars", "mean activation")
    same = {basis: _interval(rows[basis, *CHOSEN[1:]]["auroc"]) for basis in beside}
    lines = [
        f"- **Ridge on regions** (chosen on training texts): {_interval(chosen['auroc'])}; "
        f"{_interval(chosen['above_reference'], '+.3f')} above the better supervised probe as AxBench trains it, "
        f"{_interval(chosen['above_same'], '+.3f')} above the better one that saw the same texts.",
        f"- The same regression on as many k-means centroids: {same['k-means']}; on random exemplars: "
        f"{same['random exemplars']}; on mean activations: {same['mean activation']}.",
        f"- **One region**, the best by training AUROC: {_interval(one['auroc'])}, "
        f"{_interval(one['above_reference'], '+.3f')} above the better probe; trained against the other concepts, too: "
        f"{_interval(rows['exemplar', 'best', 'all']['auroc'])}.",
    ]
    return "\n".join(lines)


def _resolutions(results: list[dict]) -> str:
    """Mean AUROC over percentiles, of exemplars and of means of members."""
    rows = {(r["basis"], r["rule"], r["training"], r["percentile"]): r["auroc"] for r in pooled_rows()}
    percentiles = sorted({key[3] for key in rows if key[3] is not None})
    lines = ["| features | rule | trained on | " + " | ".join(f"percentile {p:g}" for p in percentiles) + " |"]
    lines.append("|---|---|---" + "|--:" * len(percentiles) + "|")
    for basis in ("exemplar", "mean"):
        for rule, trained_on in (("best", "own"), ("five best", "own"), ("profile", "all"), ("ridge", "all")):
            cells = (_interval(rows[basis, rule, trained_on, p]) for p in percentiles)
            lines.append(f"| {basis} | {rule} | {trained_on} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(figure: list[float], form: str = ".3f") -> str:
    value, low, high = (f"{x:{form}}" for x in figure)
    return f"{value} ({low} to {high})"


def _figure() -> str:
    return f"![Mean AUROC of every method over concepts](figures/{FIGURE.name})"


_SHOWN = (
    ("exemplar", "best", "own"),
    ("mean", "best", "own"),
    ("exemplar", "five best", "own"),
    ("DiffMean", "", "own"),
    ("logistic probe", "", "own"),
    ("exemplar", "best", "all"),
    ("exemplar", "ridge", "all"),
    ("k-means", "ridge", "all"),
    ("random exemplars", "ridge", "all"),
    ("mean activation", "ridge", "all"),
    ("DiffMean", "", "all"),
    ("logistic probe", "", "all"),
)


def _places(results: list[dict]) -> str:
    """Every model and site: means of the chief methods at the finest percentile, and of every autoencoder."""
    lines = []
    for r in results:
        finest = min(d["percentile"] for d in r["dictionaries"])
        for site in r["plan"]["sites"]:
            here = {
                (x["basis"], x["rule"], x["training"]): x
                for x in r["rows"]
                if x["site"] == site and x["percentile"] in (None, finest)
            }
            cells = [_mean(here[key]["auroc"]) if key in here else "" for key in _SHOWN]
            lines.append(f"| {r['model']['id']}, {site} | " + " | ".join(cells) + " |")
    head = " | ".join(", ".join(filter(None, key)) for key in _SHOWN)
    table = "\n".join([f"| at | {head} |", "|---" + "|--:" * len(_SHOWN) + "|", *lines])
    return "\n\n".join(filter(None, (table, _autoencoders(results))))


def _autoencoders(results: list[dict]) -> str:
    """Autoencoders beside exemplars of the same site, under the same rules."""
    from ep_experiments.axbench.detect import summary

    lines = []
    for r in results:
        finest = min(d["percentile"] for d in r["dictionaries"])
        rows = {
            (x["site"], x["basis"], x["rule"], x["training"]): x for x in r["rows"] if x["percentile"] in (None, finest)
        }
        for rule, texts in (
            ("best", "own"),
            ("best", "all"),
            ("five best", "own"),
            ("five best", "all"),
            ("ridge", "all"),
        ):
            for (site, basis, *method), x in rows.items():
                if basis in r["saes"] and method == [rule, texts]:
                    ours = rows[site, "exemplar", rule, texts]
                    pairs = zip(ours["auroc"], x["auroc"], strict=True)
                    above = _interval(list(summary([a - b for a, b in pairs])), "+.3f")
                    lines.append(
                        f"| {r['model']['id']}, {site} | {rule}, {texts} | {ours['k']:,} exemplars: "
                        f"{_mean(ours['auroc'])} | {basis}, {x['k']:,} | {_mean(x['auroc'])} | {above} |"
                    )
    head = "| at | rule, trained on | regions | autoencoder | AUROC | regions minus autoencoder (95 %) |"
    return "\n".join([head, "|---|---|---|---|--:|--:|", *lines]) if lines else ""


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3f}" if known else ""


def _paper(results: list[dict]) -> str:
    """The paper's order of methods, beside ours."""
    finest = min(d["percentile"] for d in results[0]["dictionaries"])
    found = {
        (row["basis"], row["rule"]): row
        for row in pooled_rows()
        if row["percentile"] in (None, finest) and row["training"] == "own"
    }
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
