"""The parts of results.md on tokens needed and on saturation, and their figures.

From docs/results/tokens/*.json and docs/results/saturation/*.json.
"""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOUND = {
    f"{kind}-{path.stem}": path
    for kind in ("tokens", "saturation")
    for path in sorted((HERE / "results" / kind).glob("*.json"))
}


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers."""
    written = {"tokens": _tokens, "saturation": _saturation}
    return {name: written[name.partition("-")[0]](json.loads(path.read_bytes()), name) for name, path in FOUND.items()}


def figure_files() -> dict[Path, str]:
    """Every figure, and the digest of what it follows from."""
    from exemplar_partitioning.experiments import budget_plots

    code = Path(budget_plots.__file__).read_bytes()
    return {_figure(name): hashlib.sha256(path.read_bytes() + code).hexdigest() for name, path in FOUND.items()}


def draw() -> None:
    """Write the figures."""
    from exemplar_partitioning.experiments.budget_plots import saturation_figure, tokens_figure
    from exemplar_partitioning.figures import to_bytes

    drawn = {"tokens": tokens_figure, "saturation": saturation_figure}
    for (file, digest), (name, path) in zip(figure_files().items(), FOUND.items(), strict=True):
        svg = to_bytes(drawn[name.partition("-")[0]](json.loads(path.read_bytes())), "svg")
        file.write_bytes(svg + f"<!-- source sha256 {digest} -->\n".encode())


def _figure(name: str) -> Path:
    return HERE / "figures" / f"{name}.svg"


def _made(r: dict) -> str:
    return f"`{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, seed {r['seed']}, {r['minutes']:.0f} min."


def _tokens(r: dict, name: str) -> str:
    lines = [
        "| | units | tokens | seconds | of them without the model | operations | variance explained | without outliers "
        "| AUROC (95 %) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in (*r["dictionaries"], *r["autoencoders"]):
        ordinary = row["quality"].get("explained_ordinary")
        lines.append(
            f"| {row['name']} | {row['units']:,} | {row['tokens']:,} | {row['seconds']:,.0f} "
            f"| {row['seconds_without_model']:,.0f} | {row['flops']:.2g} | {row['quality']['explained_variance']:.3f} "
            f"| {'' if ordinary is None else f'{ordinary:.3f}'} "
            f"| {row['mean_auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f}) |"
        )
    equal = ["| as good as | tokens | operations | seconds |", "|---|--:|--:|--:|"]
    for row in r["equal_quality"]:
        cells = " | ".join(_times(row[of]) for of in ("tokens", "flops", "seconds"))
        equal.append(f"| {row['name']} | {cells} |")
    same = ["| tokens | autoencoder | a dictionary's AUROC above its own (95 %) |", "|--:|---|--:|"]
    same += [
        f"| {row['tokens']:,} | {row['name']} | {row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) |"
        for row in r["equal_tokens"]
    ]
    about = f"{len(r['questions'])} tasks; {r['held_out']:,} activations of documents that neither side saw."
    figure = f"![Detection against tokens and operations](figures/{_figure(name).name})"
    tables = ("\n".join(lines), figure, _EQUAL, "\n".join(equal), "\n".join(same))
    return "\n\n".join((f"{_made(r)} {about}", *tables))


_EQUAL = (
    "How many times less the smallest dictionary takes that detects as well as an autoencoder, by lines through the "
    "budgets that were tried; with the model's forward pass on both sides. *At least*: the smallest budget tried is as "
    "good already."
)


def _times(of: dict) -> str:
    if of["not_reached"]:
        return f"not reached (in {1 - of['share_not_reached']:.0%} of resamples)"
    bound = "at least " if of["at_least"] else ""
    return f"{bound}{of['times_fewer']:.3g} ({of['low']:.3g} to {of['high']:.3g})"


def _saturation(r: dict, name: str) -> str:
    lines = [
        "| p | text | activations | regions | a of K ~ N^a (95 %) | unseen mass (95 %) | saturated |",
        "|--:|---|--:|--:|--:|--:|---|",
    ]
    for row in r["results"]:
        unseen, at = row["unseen"], row["saturated_at"]
        lines.append(
            f"| {row['percentile']:g} | {row['domain']} | {row['activations']:,} | {row['k']:,} "
            f"| {row['exponent']:.2f} ({row['exponent_low']:.2f} to {row['exponent_high']:.2f}) "
            f"| {unseen['estimate']:.1e} ({unseen['low']:.1e} to {unseen['high']:.1e}) "
            f"| {f'at {at:,}' if at else 'not yet'} |"
        )
    figure = f"![Growth on kinds of text](figures/{_figure(name).name})"
    return "\n\n".join((_made(r), figure, "\n".join(lines)))
