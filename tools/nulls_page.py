"""Parts of several results pages: what was measured against nulls, from docs/results/*/*.json."""

import json
from collections.abc import Callable
from pathlib import Path

from words_page import interval

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers."""
    files: dict[str, tuple[str, Callable[[dict], str]]] = {
        "families": ("families/smollm2.json", families),
        "few": ("few/smollm2.json", few),
        "units": ("few/units.json", units),
        "few-concepts": ("few/concepts.json", few_concepts),
        "surprise": ("surprise/smollm2.json", surprise),
        "readable": ("readable/smollm2.json", readable),
        "missing-mass": ("missing-mass/smollm2.json", missing_mass),
        "missing-mass-full": ("missing-mass/full.json", missing_mass),
        "blocks": ("missing-mass/blocks.json", blocks),
        "single": ("behaviours-single/refusal.json", single),
        "single-chinese": ("behaviours-single/chinese.json", single),
    }
    made = {
        name: part(json.loads(path.read_bytes()))
        for name, (file, part) in files.items()
        if (path := RESULTS / file).is_file()
    }
    return {"against-nulls": against_nulls(), "all-settings": all_settings()} | made


def figure_files() -> dict[Path, str]:
    """None."""
    return {}


def draw() -> None:
    """Nothing."""


def against_nulls() -> str:
    """Arms of each behaviour against its nulls, on the same prompts, corrected for their number."""
    from ep_experiments.behaviours.scoring import against

    rows = []
    for name in ("refusal", "chinese", "lists"):
        result = json.loads((RESULTS / "behaviours" / f"{name}.json").read_bytes())
        rows += [
            [name, row["arm"], f"{row['rate']:.2f}", row["null"], f"{row['nulls']}",
             f"{row['null_rate']:.2f} ({row['least']:.2f} to {row['most']:.2f})", f"{row['p']:.2g}"]
            for row in against(result["arms"])
        ]  # fmt: skip
    head = "behaviour | taken out | shows it | null | of them | show it (least to most) | p, corrected"
    return table(head, rows)


def families(r: dict) -> str:
    """Probes with tasks of one kind as one witness."""
    shown = []
    for name, what in (("collection", "the packaged tasks"), ("others", "four others")):
        part = r[name]
        where = f"{what}: {part['tasks']} in {part['families']} families"
        shown.append(table(f"{where} | retention (95 %)", [[a["arm"], interval(a["retention"])] for a in part["arms"]]))
        rows = [
            [f"{p['arm']} less {p['null']}", signed([p["difference"], p["low"], p["high"]]), f"{p['p']:.2g}"]
            for p in part["pairs"]
        ]
        shown.append(table("accuracy | difference (95 %) | p, corrected", rows))
    return "\n\n".join(shown)


def tried() -> list[tuple[str, dict]]:
    """Every setting in which regions could have won, in the order of the runs, and the texts it is of."""
    runs = (("few/smollm2.json", "intents"), ("few/units.json", "other intents"), ("few/concepts.json", "AxBench"))
    read = ((of, json.loads((RESULTS / file).read_bytes())["settings"]) for file, of in runs)
    return [(of, setting) for of, settings in read for setting in settings]


def nearest(setting: dict) -> tuple[str, list[float], dict, list[float], str]:
    """A setting's name, regions, the rival they are least above, its value, and by how much."""
    value = {row["arm"]: row["auroc"] for row in setting["table"]}
    rival = min(setting["pairs"], key=lambda pair: pair["difference"])
    unit = ", one unit" if rival["above"].endswith(", one unit") else ""
    apart = signed([rival[key] for key in ("difference", "low", "high")])
    return setting["setting"], value[f"regions{unit}"], rival, value[rival["above"]], apart


def all_settings() -> str:
    """One list of them, and of the three that the table of all arms holds."""
    r = json.loads((RESULTS / "concepts" / "smollm2.json").read_bytes())
    pairs, value = ({row[key]: row for row in r[of]} for of, key in (("pairs", "above"), ("table", "what")))
    rows = []
    for name, kind, training in (("all labelled texts", "auroc", "all"), ("the same, hard negatives", "hard", "all"),
                                 ("labels of one genre", "auroc", "own")):  # fmt: skip
        rivals = {rival: pair[kind] for rival, pair in pairs.items() if rival.endswith(f", {training}")}
        best = min(rivals, key=lambda rival: rivals[rival][0])
        wins, loses = (
            min(v[0] for v in rivals.values()) >= 0.02,
            any(v[0] <= -0.02 and v[2] < 0 for v in rivals.values()),
        )
        rows.append([f"AxBench: {name}", f"{value[f'regions, {training}'][kind][0]:.3f}",
                     f"{best.partition(',')[0]} {value[best][kind][0]:.3f}", signed(rivals[best]),
                     "win" if wins else "lose" if loses else "level"])  # fmt: skip
    for of, setting in tried():
        name, own, rival, best, apart = nearest(setting)
        alone = name in ("another language", "tokens", "carried, concepts", "carried, intents")
        rows.append([name if alone else f"{of}: {name}", f"{own[0]:.3f}", f"{rival['above']} {best[0]:.3f}", apart,
                     setting["verdict"]])  # fmt: skip
    return table("setting | regions | best rival | regions above it (95 %) | by the rule", rows)


def few(r: dict) -> str:
    """Settings in which a region could win."""
    return _settings(r, f"{r['k']:,} regions.")


def units(r: dict) -> str:
    """One unit again: each order's mean, and everything beside it."""
    orders = ", ".join(f"{value:.3f}" for value in r["orders"])
    k = f"{min(r['k']):,} to {max(r['k']):,} regions of {r['activations']:,} activations"
    return _settings(r, f"{k}. Each order of the stream: {orders}.")


def few_concepts(r: dict) -> str:
    """Few labels on AxBench's concepts, and units carried to another dictionary."""
    return _settings(r, f"{r['k']:,} regions; {r['carried_k']:,} of each kind where units are carried.")


def _settings(r: dict, about: str) -> str:
    rows = []
    for setting in r["settings"]:
        name, own, rival, best, apart = nearest(setting)
        cells = [name, interval(own), f"{rival['above']} {best[0]:.3f}", apart, f"{rival['p']:.2g}"]
        rows.append([*cells, f"**{setting['verdict']}**"])
    head = "setting | regions (95 %) | best rival | regions above it (95 %) | p, corrected | by the rule"
    details = [
        table(f"{s['setting']} | AUROC (95 %) | regions above (95 %) | p, corrected", _few_rows(s))
        for s in r["settings"]
    ]
    folded = "\n\n".join(["<details markdown>", "<summary>All arms of each setting</summary>", *details, "</details>"])
    return "\n\n".join([f"{_made(r)}; {about}", table(head, rows), folded])


def _few_rows(setting: dict) -> list[list[str]]:
    pairs = {pair["above"]: pair for pair in setting["pairs"]}
    arms, rows = list(setting["table"]), []
    if beside := setting.get("beside"):
        arms.append(beside)
        pairs[beside["arm"]] = beside
    for row in sorted(arms, key=lambda row: -row["auroc"][0]):
        pair = pairs.get(row["arm"])
        apart = signed([pair[key] for key in ("difference", "low", "high")]) if pair else ""
        rows.append([row["arm"], interval(row["auroc"]), apart, f"{pair['p']:.2g}" if pair else ""])
    return rows


def surprise(r: dict) -> str:
    """Surprise and distance of regions beside the same of what is drawn at random."""
    kinds = list(r["documents"])
    rows = [
        [row["arm"], interval(row["auroc"]), f"{row['draws'][0]:.3f} to {row['draws'][-1]:.3f}",
         signed(row["regions_above"]) if "regions_above" in row else "", *(f"{row['by'][k]:.3f}" for k in kinds)]
        for row in r["rows"]
    ]  # fmt: skip
    documents = ", ".join(f"{count} {kind}" for kind, count in r["documents"].items())
    lead = f"{_made(r)}; {r['built']:,} activations to build from; documents: {documents}."
    return f"{lead}\n\n{table('arm | mean AUROC (95 %) | draws | regions above (95 %) | ' + ' | '.join(kinds), rows)}"


def readable(r: dict) -> str:
    """Detection scores of labels beside nulls."""
    rows = [
        [f"{row['percentile']:g}", row["arm"], f"{row['k']:,}", f"{row['scored']:,}", interval(row["score"]),
         "" if row["arm"] == "regions" else signed(row["regions_above"]), f"{row['one_form']:.0%}"]
        for row in r["rows"]
    ]  # fmt: skip
    head = "percentile | clusters | k | scored | detection score (95 %) | regions above (95 %) | one word form"
    return f"{_made(r)}; {r['activations']:,} activations, {r['held_out']:,} held out.\n\n{table(head, rows)}"


def missing_mass(r: dict) -> str:
    """Estimates beside the truth, in three orders of one corpus."""
    rows = [
        [row["arm"], f"{row['percentile']:g}", f"{row['n']:,}", f"{row['k']:,}",
         f"{row['estimate']:.2g} ({row['low']:.2g} to {row['high']:.2g})",
         f"{row['blocks_low']:.2g} to {row['blocks_high']:.2g}", f"{row['recent']:.2g}", f"{row['truth']:.2g}",
         f"{row['truth'] / row['estimate']:.1f}" if row["estimate"] else "", "yes" if row["warned"] else "no"]
        for row in r["results"]
    ]  # fmt: skip
    head = (
        "order | percentile | activations | regions | missing mass (95 %) | by blocks | born in the last window | "
        "of what follows, uncovered | truth / estimate | warned"
    )
    lead = f"{_made(r)}; {r['windows']:,} windows of {len(r['sources'])} sources."
    return f"{lead}\n\n{table(head, rows)}"


def blocks(r: dict) -> str:
    """Estimates where what follows are other documents, by the unit of their interval."""
    rows = [
        [f"{row['percentile']:g}", row["unit"], f"{row['estimate']:.3g}", f"{row['half']:.2g}", f"{row['truth']:.3g}",
         f"{row['ratio']:.2f}", f"{row['covers']:.0%}"]
        for row in r["results"]
    ]  # fmt: skip
    lead = f"{_made(r)}; {r['draws']} draws of half of {r['documents']} documents, {r['activations']:,} activations."
    head = "percentile | unit | estimate | half its interval | truth | truth / estimate | intervals that hold it"
    return f"{lead}\n\n{table(head, rows)}"


def single(r: dict) -> str:
    """A behaviour by regions beside single activations."""
    of: dict[str, list[dict]] = {}
    for row in r["directions"]:
        of.setdefault(row["name"], []).append(row)
    directions = []
    for name, rows in of.items():
        fall, cosine = ([row[key] if key == "cosine" else row[key][0] for row in rows] for key in ("fall", "cosine"))
        directions.append([
            name, f"{len(rows)}", *(f"{sum(x) / len(x):+.2f} ({min(x):+.2f} to {max(x):+.2f})" for x in (cosine, fall)),
            f"{signed(rows[0]['fall'], '+.2f')} on {rows[0]['prompts']}",
        ])  # fmt: skip
    tested = [
        [row["arm"], f"{row['fall']:+.2f}", row["null"], f"{row['null_fall']:+.2f}",
         signed([row["difference"], row["low"], row["high"]], "+.2f"), f"{row['p']:.2g}",
         f"{row['reached']} of {row['members']}"]
        for row in r["tests"]
    ]  # fmt: skip
    p = r["prompts"]
    lead = f"{_made(r)}. {p['train']} training prompts, {p['shown']} show it; log-odds {r['plain']:.2f} as it is."
    head = "taken out | of them | cosine with the axis (each) | fall of the log-odds (each) | the first (95 %)"
    versus = "arm | falls by | null | falls by | difference (95 %) | p, corrected | of the null fall as far"
    return "\n\n".join([lead, table(head, directions), table(versus, tested)])


def _made(r: dict) -> str:
    return f"`{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, seed {r['seed']}, {r['minutes']:.0f} min"


def table(head: str, rows: list[list[str]]) -> str:
    """A Markdown table; figures to the right."""
    names = [name.strip() for name in head.split(" | ")]
    right = [all(row[i][:1] in "+-0123456789" for row in rows) for i in range(len(names))]
    lines = [names, ["--:" if figures else "---" for figures in right], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def signed(values: list[float], form: str = "+.3f") -> str:
    """A difference with its interval."""
    return interval(values, form)
