"""The generated part of attribution.md and its figure, from docs/results/attribution/smollm2.json."""

import hashlib
import json
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULT, FIGURE = DOCS / "results" / "attribution" / "smollm2.json", DOCS / "figures" / "attribution.svg"
SHOWN = (1, 4, 16, 64, 256)


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers."""
    r = json.loads(RESULT.read_bytes())
    d, families = r["dictionary"], r["summary"]
    kept = ", ".join(f"{s['prompts']} of {name}" for name, s in families.items() if name != "all")
    about = (
        f"`{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, {d['site']}, {d['k']:,} regions at percentile "
        f"{d['percentile']:g}, {r['k']} for a token, seed {r['seed']}; {families['all']['prompts']} prompts, {kept}."
    )
    return {"attribution": "\n\n".join((about, _curves(r), _effects(families), _families(families)))}


def figure_files() -> dict[Path, str]:
    """The figure, and the digest of what it follows from."""
    from ep_experiments.attribution import plots

    return {FIGURE: hashlib.sha256(RESULT.read_bytes() + Path(plots.__file__).read_bytes()).hexdigest()}


def draw() -> None:
    """Write the figure."""
    from ep_experiments.attribution.plots import attribution_figure
    from exemplar_partitioning.show.figures import to_bytes

    svg = to_bytes(attribution_figure(json.loads(RESULT.read_bytes())), "svg")
    FIGURE.write_bytes(svg + f"<!-- source sha256 {figure_files()[FIGURE]} -->\n".encode())


def _curves(r: dict) -> str:
    arms, at = r["summary"]["all"]["arms"], [r["sizes"].index(n) for n in SHOWN]
    lines = [
        "| nodes | distance from the whole | left without them | " + " | ".join(f"f({n})" for n in SHOWN) + " |",
        "|---|--:|--:|" + "--:|" * len(SHOWN),
    ]
    for name, arm in arms.items():
        f = " | ".join(f"{arm['faithfulness_by_size'][i]:.2f}" for i in at)
        lines.append(f"| {name} | {_interval(arm['distance'])} | {_interval(arm['completeness'])} | {f} |")
    lines += ["", "| difference of distances, paired by prompt | |", "|---|--:|"]
    lines += [f"| {name} | {_interval(value)} |" for name, value in r["summary"]["all"]["distance"].items()]
    return "\n".join(lines)


def _effects(families: dict) -> str:
    lines = [
        "| effects of the 20 largest | predicted and measured correlate by | mean size of what is measured |",
        "|---|--:|--:|",
    ]
    for name, effect in families["all"]["effects"].items():
        lines.append(f"| {name} | {_interval(effect['correlation'])} | {_interval(effect['mean_size_measured'])} |")
    return "\n".join(lines)


def _families(families: dict) -> str:
    arms = list(families["all"]["arms"])
    lines = ["| distance from the whole | " + " | ".join(arms) + " |", "|---|" + "--:|" * len(arms)]
    for name, family in families.items():
        if name != "all":
            cells = " | ".join(_interval(family["arms"][arm]["distance"]) for arm in arms)
            lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _interval(value: list[float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*value)
