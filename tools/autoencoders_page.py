"""The generated parts of autoencoders.md and saturation.md, from docs/results/<part>/*.json."""

import hashlib
import json
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = DOCS / "results"
FIGURES = ("tokens", "saturation")


def found(kind: str) -> dict[str, Path]:
    """Result files of a kind by name."""
    return {path.stem: path for path in sorted((RESULTS / kind).glob("*.json"))}


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers."""
    trained = [json.loads(path.read_bytes()) for path in found("saes").values()]
    made = {"saes": _saes(trained)} if trained else {}
    for kind, part in (("agreement", _agreement), ("tokens", _tokens), ("saturation", _saturation)):
        for name, path in found(kind).items():
            made[f"{kind}-{name}"] = part(json.loads(path.read_bytes()), name)
    return made


def figure_files() -> dict[Path, str]:
    """Every figure, and the digest of what it follows from."""
    from ep_experiments.tokens import plots as budget_plots

    code = Path(budget_plots.__file__).read_bytes()
    return {
        _figure(kind, name): hashlib.sha256(path.read_bytes() + code).hexdigest()
        for kind in FIGURES
        for name, path in found(kind).items()
    }


def draw() -> None:
    """Write the figures."""
    from ep_experiments.tokens.plots import saturation_figure, tokens_figure
    from exemplar_partitioning.show.figures import to_bytes

    digests = figure_files()
    for kind, figure in (("tokens", tokens_figure), ("saturation", saturation_figure)):
        for name, path in found(kind).items():
            file = _figure(kind, name)
            svg = to_bytes(figure(json.loads(path.read_bytes())), "svg")
            file.write_bytes(svg + f"<!-- source sha256 {digests[file]} -->\n".encode())


def _figure(kind: str, name: str) -> Path:
    return DOCS / "figures" / f"{kind}-{name}.svg"


def _made(r: dict) -> str:
    return f"`{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, seed {r['seed']}, {r['minutes']:.0f} min."


def _table(head: str, rows: list[list[str]], words: int = 1) -> str:
    """A Markdown table; all columns but the first few to the right."""
    names = [name.strip() for name in head.split("|")]
    lines = [names, [*["---"] * words, *["--:"] * (len(names) - words)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _saes(rs: list[dict]) -> str:
    first = rs[0]
    about = (
        f"SAELens {first['versions']['sae-lens']}, {first['model']} in {first['dtype']}, {first['site']}, text "
        f"{first['text']}; {first['threads']} thread, seed {first['seed']}."
    )
    rows = [
        [
            r["name"],
            f"{r['width']:,}",
            f"{r['trained_on']:,}",
            f"{r['steps']:,} of {r['batch']}",
            f"{r['lr']:g}",
            f"{r['seconds']:,.0f}",
            f"{r['quality']['explained_variance']:.3f}",
            f"{r['quality']['explained_ordinary']:.3f}",
            f"{r['quality']['l0']:.1f}",
            f"{r['quality']['dead']:.1%}",
            f"{r['difference']:.0e}" if r["difference"] else "0",
        ]
        for r in sorted(rs, key=lambda r: (r["kind"], r["tokens"]))
    ]
    head = (
        "autoencoder | features | activations | steps | lr | seconds | variance explained | without outliers | L0 | "
        "never active | our reader differs by"
    )
    return f"{about}\n\n{_table(head, rows)}"


def _agreement(r: dict, _: str) -> str:
    rows = []
    for result in r["results"]:
        for by, name in (("top", "top 100"), ("members", "members")):
            for of in ("regions", "features"):
                row = result[by][of]
                nulls = [result[by][null][of] for null in ("chance", "chance_same_token")]
                rows.append(
                    [
                        f"percentile {result['dictionary']['percentile']:g}",
                        result["sae"]["name"],
                        name,
                        of,
                        f"{row['units']:,}",
                        f"{row['units'] - row['with_enough_inputs']:,}",
                        f"{row['sharing_nothing']:,}",
                        f"{row['mean_f1']:.3f}",
                        *(f"{row[f'above_{cut}']:.1%}" for cut in (0.3, 0.5, 0.8)),
                        *(f"{null['mean_f1']:.3f}, {null['above_0.5']:.1%}" for null in nulls),
                    ]
                )
            one = result[by]["one_to_one"]
            rows.append(
                [
                    f"percentile {result['dictionary']['percentile']:g}",
                    result["sae"]["name"],
                    name,
                    "one to one",
                    "",
                    "",
                    "",
                    f"{one['mean_f1']:.3f}",
                    *(f"{one[f'above_{cut}']:.1%}" for cut in (0.3, 0.5, 0.8)),
                    "",
                    "",
                ]
            )
    head = (
        "| autoencoder | inputs | best partner of | units | few inputs | sharing nothing | mean F1 | F1 > 0.3 | > 0.5 "
        "| > 0.8 | by chance: mean, > 0.5 | same token: mean, > 0.5"
    )
    return f"{_made(r)} {r['results'][0]['tokens']:,} activations of {r['text']}.\n\n{_table(head, rows, 4)}"


def _tokens(r: dict, name: str) -> str:
    rows = [
        [
            row["name"],
            f"{row['units']:,}",
            f"{row['seconds']:,.0f} ({row['seconds_without_model']:,.1f})",
            f"{row['flops']:.1e} ({row['flops_without_model']:.1e})",
            f"{row['quality']['coverage']:.3f}" if "coverage" in row["quality"] else "",
            f"{row['quality']['explained_variance']:.3f} at {row['quality']['l0']:.0f}",
            f"{row['mean_auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
        ]
        for row in (*r["dictionaries"], *r["autoencoders"])
    ]
    head = (
        "| units | seconds (without the model) | operations (without) | within theta | variance explained at L0 | AUROC"
    )
    about = f"{_made(r)} {len(r['questions'])} tasks; {r['held_out']:,} held-out activations of {r['text']}."
    figure = f"![Detection against tokens and operations](figures/{_figure('tokens', name).name})"
    return "\n\n".join([about, _table(head, rows), _equal(r), _paired(r), figure])


def _equal(r: dict) -> str:
    rows = []
    for row in r["equal_quality"]:
        cells = [row["name"]]
        for of in ("tokens", "flops", "seconds"):
            one = row[of]
            bound = "at least " if one["at_least"] else ""
            shown = "none as good" if one["not_reached"] else f"{bound}{one['times_fewer']:.3g}"
            cells.append(f"{shown} ({one['low']:.3g} to {one['high']:.3g})")
        rows.append([*cells, f"{row['tokens']['share_at_least']:.0%}", f"{row['tokens']['share_not_reached']:.0%}"])
    head = (
        "as good as | times fewer tokens (95 %) | times fewer operations | times fewer seconds | resamples where the "
        "smallest dictionary is as good | where none is"
    )
    return _table(head, rows)


def _paired(r: dict) -> str:
    rows = [
        [f"{row['tokens']:,}", row["name"], f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"]
        for row in r["equal_tokens"]
    ]
    return _table("tokens | autoencoder | AUROC of the dictionary minus its (95 %)", rows, 2)


def _saturation(r: dict, name: str) -> str:
    rows = [
        [
            f"percentile {row['percentile']:g}",
            row["domain"],
            f"{row['activations']:,} of {row['documents']:,} documents",
            f"{row['k']:,}",
            f"{row['exponent']:.2f} ({row['exponent_low']:.2f} to {row['exponent_high']:.2f})",
            f"{row['unseen']['estimate']:.1e} ({row['unseen']['low']:.1e} to {row['unseen']['high']:.1e})",
            f"{row['new_in_last_tenth']:,}",
            f"after {row['saturated_at']:,}" if row["saturated_at"] else "no",
        ]
        for row in r["results"]
    ]
    head = (
        "| text | activations | regions | a of K ~ N^a (95 %) | missing mass (95 %) | new in the last tenth | saturated"
    )
    figure = f"![Regions against activations](figures/{_figure('saturation', name).name})"
    return "\n\n".join([_made(r), _table(head, rows, 2), figure])
