"""The generated part of strange-text.md, and its figure, from docs/results/ood/*.json."""

import hashlib
import json
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOUND = {path.stem: path for path in sorted((DOCS / "results" / "ood").glob("*.json"))}
LEVELS = ("document", "token")


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers."""
    return {f"ood-{name}": _part(json.loads(path.read_bytes()), name) for name, path in FOUND.items()}


def figure_files() -> dict[Path, str]:
    """Every figure, and the digest of what it follows from."""
    from ep_experiments.ood import plots as ood_plots

    code = Path(ood_plots.__file__).read_bytes()
    return {_figure(name): hashlib.sha256(path.read_bytes() + code).hexdigest() for name, path in FOUND.items()}


def draw() -> None:
    """Write the figures."""
    from ep_experiments.ood.plots import ood_figure
    from exemplar_partitioning.show.figures import to_bytes

    for (file, digest), path in zip(figure_files().items(), FOUND.values(), strict=True):
        svg = to_bytes(ood_figure(json.loads(path.read_bytes())), "svg")
        file.write_bytes(svg + f"<!-- source sha256 {digest} -->\n".encode())


def _figure(name: str) -> Path:
    return DOCS / "figures" / f"ood-{name}.svg"


def _part(r: dict, name: str) -> str:
    made = (
        f"`{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, {r['suites'][0]['dictionaries'][0]['site']}, "
        f"seed {r['seed']}, {r['minutes']:.0f} min."
    )
    figure = f"![Mean AUROC against memory](figures/{_figure(name).name})"
    return "\n\n".join([made, figure, *(_suite(suite) for suite in r["suites"])])


def _suite(suite: dict) -> str:
    d, stored = suite["documents"], suite["stored"]
    regions = ", ".join(f"{x['k']:,} regions at percentile {x['percentile']:g}" for x in suite["dictionaries"])
    about = (
        f"**Ordinary text: {suite['about']}.** {d['build']:,} documents ({stored['activations']:,} activations) to "
        f"build from: {regions}; {d['fit']} to fit detectors on, {d['held_out']} held out."
    )
    return "\n\n".join([about, *(_aurocs(suite, level) for level in LEVELS), _against_knn(suite), _alarms(suite)])


def _aurocs(suite: dict, level: str) -> str:
    tasks = suite["tasks"]
    head = [f"AUROC per {level}", "MB", "us/token", *(task["name"] for task in tasks)]
    rows = []
    for name, cost in sorted(suite["methods"].items(), key=lambda method: (not method[1]["ours"], method[0])):
        values = [task["methods"][name][level]["auroc"][0] for task in tasks]
        shown = f"**{name}**" if cost["ours"] else name
        memory = f"{cost['bytes'] / 1e6:,.2f}" if cost["bytes"] else "the model"
        rows.append([shown, memory, f"{cost['microseconds_a_token']:,.0f}", *(f"{v:.3f}" for v in values)])
    return _table(head, rows)


def _against_knn(suite: dict) -> str:
    """The finest dictionary's surprise beside the better k-NN, task by task."""
    ours = f"surprise, p = {suite['dictionaries'][0]['percentile']:g}"
    knn = [name for name in suite["methods"] if name.startswith("k-NN")]
    ratio = suite["methods"][knn[0]]["bytes"] / suite["methods"][ours]["bytes"]
    head = [f"{ours}: {ratio:.0f} times less memory"]
    head += [f"{what} per {level}" for level in LEVELS for what in ("AUROC minus k-NN (95 %)", "FPR95", "of k-NN")]
    rows = []
    for task in suite["tasks"]:
        row = [task["name"]]
        for level in LEVELS:
            found = {name: task["methods"][name][level] for name in (ours, *knn)}
            best = max(knn, key=lambda name: found[name]["auroc"][0])
            row += [_interval(found[ours]["minus_knn"]), *(f"{found[name]['fpr95'][0]:.2f}" for name in (ours, best))]
        rows.append(row)
    return _table(head, rows)


def _alarms(suite: dict) -> str:
    names = ["held out", *(task["name"] for task in suite["tasks"])]
    head = ["flagged by the detector", *(("new ordinary text" if name == "held out" else name) for name in names)]
    rows = []
    for fitted in suite["detector"]:
        cells = [fitted["flagged"][name] for name in names]
        share = [f"{c['flagged'] / c['documents']:.3f}" for c in cells]
        share[0] += f" ({cells[0]['low']:.3f} to {cells[0]['high']:.3f})"
        rows.append([f"documents, at {fitted['rate']:g}", *share])
        rows.append([f"tokens, at {fitted['rate']:g}", *(f"{c['flagged_tokens']:.3f}" for c in cells)])
    return _table(head, rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _interval(figure: list) -> str:
    value, low, high = figure
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
