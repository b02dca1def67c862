"""Bring figures and the generated parts of README.md up to date: `make pages`. `--check` only looks.

Everything comes from committed result files: docs/results/smollm2.json and benchmarks/results/*.json.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULT = HERE / "results" / "smollm2.json"
FIGURE = HERE / "figures" / "smollm2.svg"
README = ROOT / "README.md"
BENCHMARKS = ROOT / "benchmarks" / "results"
MEASURED = ("extraction", "calibration", "clustering", "large", "whole")


def source_digest() -> str:
    """What the figure follows from: its data and this script."""
    return hashlib.sha256(RESULT.read_bytes() + Path(__file__).read_bytes()).hexdigest()


def draw(result: dict) -> None:
    """Growth of the dictionaries along the stream, and the sizes of their regions."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "ep", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    figure, (growth, sizes) = plt.subplots(1, 2, figsize=(8.4, 3.1), layout="constrained")
    colours = plt.get_cmap("viridis")
    dictionaries = result["dictionaries"]
    for i, d in enumerate(dictionaries):
        colour = colours(0.85 * i / max(1, len(dictionaries) - 1))
        calibration, build = d["calibration"], d["build"]
        n, k = zip(*build["growth"], strict=True)
        label = f"p = {calibration['percentile']:g}  (theta = {calibration['threshold']:.3f})"
        growth.plot(n, k, marker=".", ms=3, lw=1.4, color=colour, label=label)
        if build["stopped"] == "saturated":
            growth.plot(n[-1], k[-1], marker="s", ms=5, color=colour)
        rank, arrivals = zip(*d["arrivals_by_rank"], strict=True)
        sizes.plot(rank, arrivals, lw=1.4, color=colour)
    growth.set(xscale="log", yscale="log", xlabel="activations streamed", ylabel="regions")
    growth.set_title("Growth along the stream (square: saturated)", fontsize=9, loc="left")
    growth.legend(frameon=False, fontsize=7.5, loc="upper left", bbox_to_anchor=(0, 1.0))
    growth.set_ylim(top=growth.get_ylim()[1] * 6)
    sizes.set(xscale="log", yscale="log", xlabel="region, by size", ylabel="arrivals")
    sizes.set_title("Sizes of the regions", fontsize=9, loc="left")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None, "Description": f"source sha256 {source_digest()}"})


def dictionaries_table(result: dict) -> str:
    """The dictionaries of the build as a Markdown table."""
    lines = ["| p | theta | regions | activations | unseen mass (95 %) | ended by |", "|--:|--:|--:|--:|--:|---|"]
    ends = {"saturated": "saturation", "budget": "token budget", "text": "end of text", "unseen": "unseen mass"}
    for d in result["dictionaries"]:
        b, c = d["build"], d["calibration"]
        u = b["unseen"]
        lines.append(
            f"| {c['percentile']:g} | {c['threshold']:.4f} | {b['k']:,} | {b['n_activations']:,} "
            f"| {u['estimate']:.1e} ({u['low']:.1e} to {u['high']:.1e}) | {ends[b['stopped']]} |"
        )
    return "\n".join(lines)


def benchmarks_table() -> str:
    """Every timed row of the benchmarks as a Markdown table, with the machine below."""
    records = [json.loads((BENCHMARKS / f"{name}.json").read_bytes()) for name in MEASURED]
    lines = ["| what | ours | textbook | ratio | peak memory, ours / textbook |", "|---|--:|--:|--:|--:|"]
    for record in records:
        for row in record["rows"]:
            if row["ratio"] is None or row["textbook"] is None:
                continue
            memory = [f"{gb:.2f}" for gb in row["memory"].values() if gb is not None]
            lines.append(
                f"| {record['benchmark']}: {row['what']} | {row['ours']['median_s']:,.1f} s "
                f"| {row['textbook']['median_s']:,.1f} s | **{row['ratio']:.1f}x** "
                f"| {' / '.join(memory) + ' GB' if memory else ''} |"
            )
    machine = records[0]["environment"]
    lines += [
        "",
        f"{machine['cores']} cores {machine['cpu']}, bf16 units: {machine['bfloat16_units']}; "
        f"torch {machine['torch']}. `python -m benchmarks` measures on yours.",
    ]
    return "\n".join(lines)


def parts(result: dict) -> dict[str, str]:
    """The generated parts of the README by the name in their markers."""
    first = result["dictionaries"][0]
    minutes = result["seconds"] / 60
    return {
        "show": f"```console\n{result['listing']}\n```",
        "region": f"```console\n{result['region']}\n```",
        "dictionaries": f"`{result['command']}`: {first['model']} ({first['dtype']}), {first['site']['name']}, "
        f"{result['tokens']:,} tokens of {first['text']['source']} in {minutes:.0f} minutes on "
        f"{result['threads']} cores.\n\n{dictionaries_table(result)}",
        "benchmarks": benchmarks_table(),
    }


def filled(readme: str, result: dict) -> str:
    """The README with its generated parts as they should be."""
    for name, text in parts(result).items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        assert pattern.search(readme), f"README.md has no part {name}"
        readme = pattern.sub(lambda match, text=text: match[1] + text + "\n" + match[2], readme)
    return readme


def stale() -> list[str]:
    """What is not as the result files say."""
    result = json.loads(RESULT.read_bytes())
    found = []
    if not FIGURE.is_file() or source_digest() not in FIGURE.read_text():
        found.append(str(FIGURE.relative_to(ROOT)))
    if filled(README.read_text(), result) != README.read_text():
        found.append("README.md")
    return found


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale())}; run `make pages`" if stale() else 0)
    loaded = json.loads(RESULT.read_bytes())
    draw(loaded)
    README.write_text(filled(README.read_text(), loaded))
