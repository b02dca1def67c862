"""The generated parts of probes.md, and its figure, from docs/results/probes/*.json."""

import hashlib
import json
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOUND = {path.stem: path for path in sorted((DOCS / "results" / "probes").glob("*.json"))}


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers."""
    return {f"probes-{name}": _part(name) for name in FOUND}


def figure_files() -> dict[Path, str]:
    """Every figure, and the digest of what it follows from."""
    from ep_experiments.probes import plots as probe_plots

    code = Path(probe_plots.__file__).read_bytes()
    return {_figure(name): hashlib.sha256(FOUND[name].read_bytes() + code).hexdigest() for name in _drawn()}


def _drawn() -> list[str]:
    """Results of several tasks; of one there is little to draw."""
    return [name for name, path in FOUND.items() if len(json.loads(path.read_bytes())["tasks"]) > 1]


def draw() -> None:
    """Write the figures."""
    from ep_experiments.probes.plots import probes_figure
    from exemplar_partitioning.show.figures import to_bytes

    for (file, digest), name in zip(figure_files().items(), _drawn(), strict=True):
        svg = to_bytes(probes_figure(json.loads(FOUND[name].read_bytes())), "svg")
        file.write_bytes(svg + f"<!-- source sha256 {digest} -->\n".encode())


def _figure(name: str) -> Path:
    return DOCS / "figures" / f"probes-{name}.svg"


def _part(name: str) -> str:
    r = json.loads(FOUND[name].read_bytes())
    dictionaries = ", ".join(f"{d['k']:,} at percentile {d['percentile']:g}" for d in r["dictionaries"])
    tasks, first = r["tasks"], r["dictionaries"][0]
    return "\n\n".join(
        (
            f"`{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, {r['site']}, seed {r['seed']}. Regions of "
            f"other text ({_names(first['text'])}): {dictionaries}. "
            f"{len(tasks)} task{'s' * (len(tasks) > 1)}, {sum(t['train'] for t in tasks):,} training and "
            f"{sum(t['test'] for t in tasks):,} test rows, {sum(t['tokens'] for t in tasks):,} tokens; "
            f"{sum(t['cut'] for t in tasks):,} texts were read up to token {r['plan']['context_size']}; "
            f"{_dropped(tasks)}.",
            _table(r),
            *(
                [f"![Retention over percentiles, and accuracy task by task](figures/{_figure(name).name})"]
                * (len(tasks) > 1)
            ),
        )
    )


def _names(sources: str) -> str:
    return ", ".join(source.split("/")[-1] for source in sources.split(", "))


def _dropped(tasks: list[dict]) -> str:
    reasons: dict[str, int] = {}
    for task in tasks:
        for reason, count in task["dropped"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    return "left out: " + (", ".join(f"{count:,} rows ({reason})" for reason, count in reasons.items()) or "nothing")


def _table(result: dict) -> str:
    lines = [
        "| on test rows | | accuracy (95 %) | AUROC (95 %) | retention (95 %) | above chance (95 %) |",
        "|---|---|--:|--:|--:|--:|",
    ]
    rows = result["pooled"] if len(result["tasks"]) > 1 else result["tasks"][0]["arms"]  # of one: over its test rows
    order = sorted(rows, key=lambda row: _ORDER.index(row["arm"]) if row["arm"] in _ORDER else len(_ORDER))
    for row in order:
        figures = (_interval(row[name]) for name in ("accuracy", "auroc", "retention", "corrected"))
        lines.append(f"| {row['arm']} | {row['detail']} | {' | '.join(figures)} |")
    return "\n".join(lines)


_ORDER = (
    *("majority", "raw", "raw mean", "one-hot", "exemplar", "share", "cosine"),
    *("random", "random direction", "token", "words"),
)


def _interval(figure: list | None) -> str:
    if figure is None or None in figure:
        return ""
    value, low, high = figure
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
