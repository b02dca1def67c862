"""Bring figures and the generated parts of README.md and the pages up to date: `make pages`. `--check` only looks.

Everything comes from committed result files: docs/results/**/*.json and benchmarks/results/*.json.
"""

import hashlib
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DOCS = ROOT / "docs"
RESULT = DOCS / "results" / "smollm2.json"
FIGURE = DOCS / "figures" / "smollm2.svg"
README = ROOT / "README.md"
BENCHMARKS = ROOT / "benchmarks" / "results"
TRIED = {path.stem: path for path in sorted((DOCS / "results" / "behaviours").glob("*.json"))}
# modules beside this one that make parts of pages, and these pages
RESULTS_PARTS = (
    "claims_page",
    "axbench_page",
    "probes_page",
    "ood_page",
    "autoencoders_page",
    "reconstruction_page",
    "words_page",
    "attribution_page",
    "nulls_page",
    "tops_page",
)
RESULTS_PAGES = (
    "results",
    "concept-detection",
    "probes",
    "strange-text",
    "autoencoders",
    "reconstruction",
    "attribution",
    "saturation",
    "behaviours",
    "regions",
    "comes-back",
)
MEASURED = ("extraction", "calibration", "clustering", "large", "whole")
IN_README = (
    "five percentiles (ours) against one (textbook)",
    "p = 1, K = 2,764",
    "five percentiles, fp32",
)  # ends of rows


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
        label = f"percentile {calibration['percentile']:g}  (theta = {calibration['threshold']:.3f})"
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
    lines = [
        "| percentile | theta | regions | activations | missing mass (95 %) | ended by |",
        "|--:|--:|--:|--:|--:|---|",
    ]
    ends = {"saturated": "saturation", "budget": "token budget", "text": "end of text", "unseen": "missing mass"}
    for d in result["dictionaries"]:
        b, c = d["build"], d["calibration"]
        u = b["unseen"]
        lines.append(
            f"| {c['percentile']:g} | {c['threshold']:.4f} | {b['k']:,} | {b['n_activations']:,} "
            f"| {u['estimate']:.1e} ({u['low']:.1e} to {u['high']:.1e}) | {ends[b['stopped']]} |"
        )
    return "\n".join(lines)


def first_build(result: dict) -> str:
    """What the tutorial's build ends with."""
    lines = ["| percentile | theta | regions | missing mass | one word alone |", "|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {d['calibration']['percentile']:g} | {d['calibration']['threshold']:.3f} | {d['build']['k']:,} "
        f"| {d['build']['unseen']['estimate']:.2%} | {d['one_word']:.0%} of regions |"
        for d in result["dictionaries"]
    ]
    return "\n".join(lines)


def choices(result: dict) -> str:
    """What each percentile costs and gives."""
    lines = [
        "| percentile | theta | regions | memory of the exemplars | clustering, one core | missing mass "
        "| one word alone |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {d['calibration']['percentile']:g} | {d['calibration']['threshold']:.3f} | {d['build']['k']:,} "
        f"| {d['bytes_of_exemplars'] / 1e6:.1f} MB | {d['seconds_to_cluster']:.1f} s "
        f"| {d['build']['unseen']['estimate']:.2%} | {d['one_word']:.0%} |"
        for d in result["dictionaries"]
    ]
    return "\n".join(lines)


def benchmarks_table(ends: tuple[str, ...] = ("",)) -> str:
    """The timed rows of the benchmarks whose names end so as a Markdown table, with the machine below."""
    records = [json.loads((BENCHMARKS / f"{name}.json").read_bytes()) for name in MEASURED]
    lines = ["| what | ours | textbook | ratio | peak memory, ours / textbook |", "|---|--:|--:|--:|--:|"]
    for record in records:
        for row in record["rows"]:
            if row["ratio"] is None or row["textbook"] is None or not row["what"].endswith(ends):
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


def draw_arms(name: str) -> None:
    """The figure of an experiment on a behaviour."""
    from ep_experiments.behaviours.plots import arms_figure
    from exemplar_partitioning.show.figures import to_bytes

    svg = to_bytes(arms_figure(json.loads(TRIED[name].read_bytes())), "svg")
    arms_file(name).write_bytes(svg + f"<!-- source sha256 {arms_digest(name)} -->\n".encode())


def arms_file(name: str) -> Path:
    return FIGURE.parent / f"{name}.svg"


def arms_digest(name: str) -> str:
    """What the figure of an experiment follows from."""
    from ep_experiments.behaviours import plots

    return hashlib.sha256(TRIED[name].read_bytes() + Path(plots.__file__).read_bytes()).hexdigest()


def arms_table(result: dict) -> str:
    """What every arm of an experiment did on test prompts."""
    b = result["baseline"]
    lines = [
        "| on test prompts | where | shows it (95 %) | removed | p | other prompts | unique words | perplexity |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
        f"| no intervention | | {_interval(b)} | | | {result['baseline_others']['rate']:.2f} "
        f"| {b['unique_words']:.2f} | 1.00 |",
    ]
    arms: dict[str, list[dict]] = {}
    for arm in result["arms"]:
        arms.setdefault(arm["name"], []).append(arm)
    lines += [_arm(*rows) if len(rows) == 1 else _arms(name, rows) for name, rows in arms.items()]
    return "\n".join(lines)


def _arm(arm: dict) -> str:
    where = ", ".join(
        [arm[key] if key == "site" else f"percentile {arm[key]:g}" for key in ("site", "percentile") if key in arm]
        + ([f"region {', '.join(map(str, arm['regions']))}"] if "regions" in arm else [])
    )
    return (
        f"| {arm['name']} | {where} | {_interval(arm)} | {arm['removed']:.0%} | {arm['paired']['p']:.1g} "
        f"| {arm['others_rate']:.2f} | {arm['unique_words']:.2f} | {arm['perplexity_ratio']:.2f} |"
    )


def _arms(name: str, arms: list[dict]) -> str:
    """Several of a kind: means, and from where to where the rates reach."""

    def mean(key: str) -> float:
        return sum(arm[key] for arm in arms) / len(arms)

    rates = [arm["rate"] for arm in arms]
    reach = f"{mean('rate'):.2f} (each {min(rates):.2f} to {max(rates):.2f})"
    return (
        f"| {name}, mean of {len(arms)} | | {reach} | {mean('removed'):.0%} | "
        f"| {mean('others_rate'):.2f} | {mean('unique_words'):.2f} | {mean('perplexity_ratio'):.2f} |"
    )


def induced_table(result: dict) -> str:
    """What adding directions did to other prompts."""
    lines = ["| added at its site | alpha | shows it (95 %) | unique words |", "|---|--:|--:|--:|"]
    lines += [
        f"| {row['name']} | {row['alpha']:g} | {_interval(row)} | {row['unique_words']:.2f} |"
        for row in result["induced"]
    ]
    return "\n".join(lines)


def _interval(row: dict) -> str:
    return f"{row['rate']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def behaviour(name: str) -> str:
    """One experiment: where its figures come from, its table, its figure."""
    r = json.loads(TRIED[name].read_bytes())
    p = r["prompts"]
    sizes = ", ".join(f"{p[part]['showing']} + {p[part]['others']} {part}" for part in ("train", "validation", "test"))
    tried = len({(row["site"], row.get("percentile")) for row in r["sweep"]})
    return "\n\n".join(
        (
            f"`{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, seed {r['seed']}, {r['minutes']:.0f} min.",
            f"Prompts: {p['sources']['showing']} against {p['sources']['others']}, tested on {p['sources']['test']}: "
            f"{sizes}; {p['near_duplicates_dropped']} near-duplicates left out. Of the answers to training prompts, "
            f"{r['training']['showing']} of {r['training']['prompts']} show it. {len(r['sweep'])} candidates at "
            f"{tried} sites and resolutions were tried on the validation prompts.",
            arms_table(r),
            f"![Share of test prompts under every arm](figures/{name}.svg)",
            "Brought about in the other prompts by adding the direction, alpha chosen on validation prompts:",
            induced_table(r),
        )
    )


def judge() -> str:
    """How the judge of refusals agrees with people."""
    j = json.loads(TRIED["refusal"].read_bytes())["judge"]
    return (
        f"On {j['answers']} answers labelled by people (PyRIT 1.1.0), the judge agrees on {j['agree']}: it calls "
        f"{j['false_alarms']} of {j['not_refusals']} other answers refusals, and finds {j['found']} of {j['refusals']} "
        "refusals."
    )


def results_pages() -> list[ModuleType]:
    """The modules that make the parts of the pages on results, each with parts(), figure_files() and draw()."""
    return [_module(name) for name in RESULTS_PARTS]


def _module(name: str) -> ModuleType:
    """A module beside this one."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    return import_module(name)


def parts(result: dict) -> dict[str, str]:
    """What a build shows: parts by the name in their markers."""
    first = result["dictionaries"][0]
    minutes = result["seconds"] / 60
    return {
        "show": f"```console\n{result['listing']}\n```",
        "region": f"```console\n{result['region']}\n```",
        "dictionaries": f"`{result['command']}`: {first['model']} ({first['dtype']}), {first['site']['name']}, "
        f"{result['tokens']:,} tokens of {first['text']['source']} in {minutes:.0f} minutes on "
        f"{result['threads']} cores.\n\n{dictionaries_table(result)}",
    }


def pages() -> dict[Path, dict[str, str]]:
    """Every page with generated parts, and these by the names in their markers."""
    machines = _module("machines_page")
    made = {name: text for module in results_pages() for name, text in module.parts().items()}
    written = {DOCS / f"{page}.md": (DOCS / f"{page}.md").read_text() for page in RESULTS_PAGES}
    found = {
        file: {name: text for name, text in made.items() if f"<!-- {name} -->" in page}
        for file, page in written.items()
    }
    assert {name for here in found.values() for name in here} == made.keys(), "a generated part has no page"
    return found | {
        README: {"verdicts": _module("claims_page").verdicts(), "speed": benchmarks_table(IN_README)},
        DOCS / "look.md": parts(json.loads(RESULT.read_bytes())),
        DOCS / "how-to" / "choose.md": {"choices": choices(json.loads(RESULT.read_bytes()))},
        DOCS / "tutorial.md": {"first-build": first_build(json.loads(RESULT.read_bytes()))},
        DOCS / "speed.md": {"benchmarks": benchmarks_table(), **machines.speed_parts()},
        DOCS / "behaviours.md": found[DOCS / "behaviours.md"]
        | {name: behaviour(name) for name in TRIED}
        | {"judge": judge()},
        DOCS / "comparing.md": _module("comparing_page").parts(),
        DOCS / "scaling.md": machines.scaling_parts(),
        DOCS / "errors.md": machines.errors_parts(),
        DOCS / "reference" / "command-line.md": {"verbs": _module("commands_page").listing()},
        DOCS / "reference" / "building.md": {
            f"keywords-{name}": _module("commands_page").keywords(name)
            for name in ("build", "build_from_activations", "annotate")
        },
    }


def spelled(text: str) -> str:
    """Result files shorten percentiles to `p 2` or `p = 2`; a page, where p is a p-value, does not."""
    return re.sub(r"(?<![\w-])p (?:= )?(\d+)(?![\d.])", r"percentile \1", text)


def filled(file: Path, parts: dict[str, str]) -> str:
    """A page with its generated parts as they should be."""
    page = file.read_text()
    for name, text in parts.items():
        text = text if "```" in text else spelled(text)
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        assert pattern.search(page), f"{file.name} has no part {name}"
        page = pattern.sub(lambda match, text=text: match[1] + text + "\n" + match[2], page)
    return page


def stale() -> list[str]:
    """What is not as the result files say."""
    found = [str(file.relative_to(ROOT)) for file, made in pages().items() if filled(file, made) != file.read_text()]
    if not FIGURE.is_file() or source_digest() not in FIGURE.read_text():
        found.append(str(FIGURE.relative_to(ROOT)))
    figures = {file: digest for module in results_pages() for file, digest in module.figure_files().items()}
    found += [
        str(file.relative_to(ROOT))
        for file, digest in figures.items()
        if not file.is_file() or digest not in file.read_text()
    ]
    found += [
        str(arms_file(name).relative_to(ROOT))
        for name in TRIED
        if not arms_file(name).is_file() or arms_digest(name) not in arms_file(name).read_text()
    ]
    return found


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale())}; run `make pages`" if stale() else 0)
    draw(json.loads(RESULT.read_bytes()))
    for file, made in pages().items():
        file.write_text(filled(file, made))
    for name in TRIED:
        draw_arms(name)
    for module in results_pages():
        module.draw()
