"""The tables of docs/reconstruction.md, its figure and its line of claims, from docs/results/reconstruction/*.json."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULT, FIGURE = DOCS / "results" / "reconstruction" / "full.json", DOCS / "figures" / "reconstruction.svg"
NAMES: dict[str, str] = {
    "exemplars": "exemplars",
    "means": "means of members",
    "random": "activations drawn at random",
    "k-means": "k-means centroids, 10 passes",
    "Gaussian": "Gaussian directions",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "jumprelu": "JumpReLU",
    "frozen": "TopK, frozen random decoder",
}
VARIANTS = {arm: NAMES[arm] for arm in ("exemplars", "means", "random", "k-means")} | {
    "10 k-means passes from means": "10 passes of k-means from means",
    "1 least squares from means": "one least-squares update of the means",
    "3 least squares from means": "three",
    "3 least squares from random": "three, of random activations",
    "second dictionary of what is left": "half, and a second dictionary of what it leaves",
    "ITDA": "ITDA",
    "leader rule on what is left": "leader rule on what pursuit leaves",
}
DIRECTIONS = ("exemplars", "means", "random", "k-means")
FIGURES = ("fvu", "fvu_others", "recovered_zero", "recovered_mean")
MAIN = 15
SITES = {("smollm2", 10): "SmolLM2, block 10", ("smollm2", 20): "block 20", ("gemma3", 12): "Gemma-3-270M, block 12"}
CODES = {"own": "own codes", "pursuit": "pursuit over its decoder"}
SITE_TOKENS = 30_000  # directions are made from there
RATE = 1e-3  # of learning
FEW, KS = 200_000, (1, 2, 4, 8, 16, 32, 64)
_BEST = {100_000: 1e-3, 1_000_000: 1e-3, 5_000_001: 1e-3}  # learning rates: lowest FVU on validation


@cache
def rows() -> list[dict]:
    """Every arm on test."""
    return json.loads(RESULT.read_bytes())["rows"]


def parts() -> dict[str, str]:
    """Generated parts by the names in their markers."""
    return {
        "reconstruction-short": _short(),
        "reconstruction": _arms(),
        "reconstruction-l0": _curve(),
        "reconstruction-ratios": _ratios(),
        "reconstruction-percentiles": _percentiles(),
        "reconstruction-sites": _sites(),
        "reconstruction-site-ratios": _site_ratios(),
        "reconstruction-variants": _variants(),
        "reconstruction-probes": _sparse_probes(),
        "reconstruction-letters": _letters(),
    }


def figure_files() -> dict[Path, str]:
    """The figure, and the digest of what it follows from."""
    from ep_experiments.reconstruction import plots

    return {FIGURE: hashlib.sha256(RESULT.read_bytes() + Path(plots.__file__).read_bytes()).hexdigest()}


def draw() -> None:
    """Write the figure: block 15, one draw of the documents, one seed."""
    from ep_experiments.reconstruction.plots import reconstruction_figure
    from exemplar_partitioning.show.figures import to_bytes

    names = {"random": "random activations"}
    curves = {names.get(arm, arm): pick(arm=arm, tokens=FEW, run=0) for arm in (*DIRECTIONS, "Gaussian")}
    for tokens, shown, codes, how in (
        (100_000, "0.1 M", "pursuit", "pursuit"),
        (5_000_001, "5 M", "pursuit", "pursuit"),
        (5_000_001, "5 M", "own", "own codes"),
    ):
        curves[f"TopK of {shown}, {how}"] = pick(arm="topk", tokens=tokens, codes=codes, order=0, lr=1e-3)
    for rows_ in curves.values():
        rows_.sort(key=lambda row: row["l0"])
    svg = to_bytes(reconstruction_figure(curves), "svg")
    FIGURE.write_bytes(svg + f"<!-- source sha256 {figure_files()[FIGURE]} -->\n".encode())


def pick(**wanted: object) -> list[dict]:
    """Rows with these values."""
    return [row for row in rows() if all(row.get(key) == value for key, value in wanted.items())]


def reach(found: Iterable[dict], figure: str) -> str:
    """Least and largest estimate."""
    values = sorted(row[figure][0] for row in found if figure in row)
    if not values:
        return ""
    ends = [f"{values[0]:.3f}", f"{values[-1]:.3f}"]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def trained(kind: str, tokens: int, codes: str, epochs: int = 1) -> list[dict]:
    """Autoencoders at L0 32; of the learning rates the one that is best on validation."""
    found = pick(arm=kind, tokens=tokens, codes=codes, epochs=epochs, k=None if codes == "own" else 32)
    if kind == "topk" and epochs == 1:
        found = [row for row in found if row["lr"] == _BEST[tokens]]
    if kind == "jumprelu" and found:  # the penalty whose L0 is nearest
        nearest = min(pick(arm=kind, tokens=tokens, codes="own"), key=lambda row: abs(math.log(row["l0"] / 32)))
        found = [row for row in found if row["l0_coefficient"] == nearest["l0_coefficient"]]
    return found


def _short() -> str:
    """The arms that decide, with intervals over documents."""
    shown = {
        "exemplars of 0.2 M tokens": pick(arm="exemplars", tokens=FEW, k=32),
        "means of their members": pick(arm="means", tokens=FEW, k=32),
        "as many activations at random": pick(arm="random", tokens=FEW, k=32),
        "as many Gaussian directions": pick(arm="Gaussian", tokens=FEW, k=32),
        "k-means centroids of the same tokens": pick(arm="k-means", tokens=FEW, k=32),
        "TopK, the same tokens ten times, own codes": trained("topk", FEW, "own", 10),
        "TopK of 5 M tokens, own codes": trained("topk", 5_000_001, "own"),
        "TopK of 5 M tokens, pursuit over its decoder": trained("topk", 5_000_001, "pursuit"),
    }
    lines = ["| L0 32 | FVU, other documents | CE recovered (zero) | (mean) |", "|---|--:|--:|--:|"]
    for name, (first, *_) in shown.items():
        lines.append(f"| {name} | " + " | ".join(_interval(first[figure]) for figure in FIGURES[1:]) + " |")
    return "\n".join(lines)


def _arms() -> str:
    lines = [
        "| what, about 2,300 directions or features, L0 32 | tokens | FVU | FVU, other documents "
        "| CE recovered (zero) | (mean) |",
        "|---|--:|--:|--:|--:|--:|",
    ]

    def add(name: str, tokens: str, found: list[dict]) -> None:
        if found:
            lines.append(f"| {name} | {tokens} | " + " | ".join(reach(found, figure) for figure in FIGURES) + " |")

    for arm in (*DIRECTIONS, "Gaussian"):
        add(NAMES[arm], "0.2 M", pick(arm=arm, tokens=FEW, k=32))
    for codes, how in CODES.items():
        add(f"TopK, {how}", "0.2 M, ten times", trained("topk", FEW, codes, 10))
        for kind in ("topk", "batchtopk", "jumprelu", "frozen"):
            for tokens, shown in ((100_000, "0.1 M"), (1_000_000, "1 M"), (5_000_001, "5 M")):
                add(f"{NAMES[kind]}, {how}", shown, trained(kind, tokens, codes))
    best = trained("topk", 5_000_001, "own")[0]
    means = pick(arm="means", tokens=FEW, k=32)[0]
    intervals = "; ".join(
        f"{name} {_interval(row['fvu_others'])}, CE recovered (zero) {_interval(row['recovered_zero'])}"
        for name, row in (("means", means), ("TopK on 5 M", best))
    )
    return "\n".join([*lines, "", f"Intervals over documents, of FVU on the other documents: {intervals}."])


def _interval(values: list[float]) -> str:
    return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"


def _curve() -> str:
    """FVU of the other documents and CE recovered over k."""
    lines = ["| FVU, other documents / CE recovered (zero) | " + " | ".join(f"L0 {k}" for k in KS) + " |"]
    lines += ["|---|" + "--:|" * len(KS)]
    found = {NAMES[arm]: pick(arm=arm, tokens=FEW, run=0) for arm in (*DIRECTIONS, "Gaussian")}
    for tokens, shown in ((100_000, "0.1 M"), (5_000_001, "5 M")):
        found[f"pursuit over TopK on {shown}"] = pick(arm="topk", tokens=tokens, codes="pursuit", order=0, lr=1e-3)
    for name, of in found.items():
        by = {row["k"]: row for row in of}
        cells = [f"{by[k]['fvu_others'][0]:.3f} / {by[k]['recovered_zero'][0]:.3f}" if k in by else "" for k in KS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratios() -> str:
    """How many times an arm's tokens the autoencoder took, over seeds of it and draws of the documents."""
    lines = ["| TopK on | by | " + " | ".join(NAMES[arm] for arm in DIRECTIONS) + " |"]
    lines += ["|---|---|" + "--:|" * len(DIRECTIONS)]
    found = json.loads(RESULT.read_bytes())["ratios"]
    at = {(row["tokens"], row["codes"], row["by"], row["arm"]): row for row in found}
    for tokens, shown, codes in (
        (100_000, "0.1 M", "own"),
        (1_000_000, "1 M", "own"),
        (5_000_001, "5 M", "own"),
        (100_000, "0.1 M, pursuit over its decoder", "pursuit"),
    ):
        for by, name in (("fvu_others", "FVU, other documents"), ("recovered_zero", "CE recovered")):
            cells = [_ratio(at[tokens, codes, by, arm]) for arm in DIRECTIONS]
            lines.append(f"| {shown} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(found: dict) -> str:
    """Least and largest as measured, and 95 % over documents; bounds where no arm is as good, or the first is."""
    ends = [[f"{beyond} {ratio:.2g}".strip() for ratio, beyond in found[part]] for part in ("estimates", "95 %")]
    if all(beyond == "less than" for _, beyond in found["estimates"]):
        return " and ".join(dict.fromkeys(ends[0]))
    measured, resampled = (" to ".join(dict.fromkeys([part[0], part[-1]])) for part in ends)
    return measured if measured == resampled else f"{measured} ({resampled})"


def _percentiles() -> str:
    """Mean relative error per token at L0 32 by percentile, least and largest of three orders."""
    small = json.loads(RESULT.with_name("small.json").read_bytes())["rows"]
    percentiles = sorted({row["percentile"] for row in small if row["percentile"]})
    lines = ["| percentile | directions | " + " | ".join(NAMES[arm] for arm in DIRECTIONS) + " |"]
    lines += ["|--:|--:|" + "--:|" * len(DIRECTIONS)]
    for percentile in percentiles:
        of = [row for row in small if row["percentile"] == percentile and row["k"] == 32]
        sizes = [row["directions"] for row in of]
        cells = []
        for arm in DIRECTIONS:
            values = [row["relative"] for row in of if row["arm"] == arm]
            cells.append(f"{min(values):.3f} to {max(values):.3f}")
        lines.append(f"| {percentile:g} | {min(sizes):,} to {max(sizes):,} | " + " | ".join(cells) + " |")
    frame = [row for row in small if row["percentile"] is None and row["k"] == 32]
    if frame:
        sizes, values = [row["directions"] for row in frame], [row["relative"] for row in frame]
        cells = f"| | {min(values):.3f} to {max(values):.3f} | | |"
        lines.append(f"| 1, 2 and 4 as one | {min(sizes):,} to {max(sizes):,} {cells}")
    return "\n".join(lines)


def _sparse_probes() -> str:
    """AUROC of few features by arm, with what exemplars are ahead by, and what only re-seeding does."""
    summary = json.loads(RESULT.with_name("sparse.json").read_bytes())["summary"]
    at = {(line["arm"], line["k"]): line for line in summary}
    ks = [k for k in dict.fromkeys(line["k"] for line in summary) if k is not None]
    lines = ["| AUROC (exemplars ahead by) | " + " | ".join(f"k = {k}" for k in ks) + " | all |"]
    lines += ["|---|" + "--:|" * (len(ks) + 1)]
    for arm in dict.fromkeys(line["arm"] for line in summary):
        cells = []
        for k in (*ks, None):
            line = at.get((arm, k), {})
            apart = line.get("exemplars_ahead_by")
            more = f" ({apart['difference']:+.3f}, {apart['low']:+.3f} to {apart['high']:+.3f})" if apart else ""
            cells.append(f"{line['auroc']:.3f}{more}" if line else "")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines.append("| *detectable* | " + " | ".join(f"{at['exemplars', k]['detectable']:.3f}" for k in ks) + " | |")
    return "\n".join(lines)


def _letters() -> str:
    """What features tell of first letters, by arm and percentile."""
    found = json.loads(RESULT.with_name("letters.json").read_bytes())
    lines = ["| features | percentile | number | F1, best | F1, split | split into | absorbed |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|"]
    for line in found["arms"]:
        cells = [f"{line[name][0]:.2f} ({line[name][1]:.2f} to {line[name][2]:.2f})" for name in ("main", "union")]
        percentile = "" if line["percentile"] is None else f"{line['percentile']:g}"
        split, absorbed = line["split"], line["absorbed"]
        cells += [f"{split[0]:.1f}", f"{absorbed[0]:.2f} ({absorbed[1]:.2f} to {absorbed[2]:.2f})"]
        lines.append(f"| {line['arm']} | {percentile} | {line['features']:,} | " + " | ".join(cells) + " |")
    if "reseeded" in found:
        lines += [
            "",
            "| three draws of training tokens, percentile 1 | F1, best | detectable | absorbed | detectable |",
        ]
        lines += ["|---|--:|--:|--:|--:|"]
        for arm, of in found["reseeded"].items():
            cells = [
                f"{_between(of[name]['draws'], '.2f')} | {of[name]['detectable']:.2f}" for name in ("main", "absorbed")
            ]
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def at_sites(**wanted: object) -> list[dict]:
    """Rows of the other sites and of variants, on a processor."""
    return [row for row in _sites_file()["rows"] if all(row.get(key) == value for key, value in wanted.items())]


@cache
def _sites_file() -> dict:
    return json.loads(RESULT.with_name("sites.json").read_bytes())


def _sites() -> str:
    """FVU of the other documents at L0 32, and cross-entropy recovered in order 0, at sites other than block 15."""
    of = [row for row in at_sites(on="test") if row["k"] in (None, 32) and row["layer"] != MAIN and "part" not in row]
    of = sorted((row for row in of if "passes" in row or row["tokens"] == SITE_TOKENS), key=_site_order)
    sites = list(SITES)
    lines = ["| L0 32 | " + " | ".join(f"{SITES[site]} | CE recovered (zero)" for site in sites) + " |"]
    lines += ["|---|" + "--:|--:|" * len(sites)]
    named: dict[str, list[dict]] = {}
    for row in of:
        named.setdefault(_site_arm(row), []).append(row)
    for name, rows_ in named.items():
        cells = []
        for site in sites:
            here = sorted((row for row in rows_ if (row["model"], row["layer"]) == site), key=lambda row: row["order"])
            cells.append(
                reach(here, "fvu_others") if len(here) > 1 else _interval(here[0]["fvu_others"]) if here else ""
            )
            ce = [row for row in here if "recovered_zero" in row]
            cells.append(_interval(ce[0]["recovered_zero"]) if ce else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _site_ratios() -> str:
    """Tokens of a TopK over those of directions, by FVU of the other documents, at sites other than block 15."""
    at = {(row["model"], row["layer"], row["tokens"], row["codes"], row["arm"]): row for row in _sites_file()["ratios"]}
    lines = ["| site | TopK on | " + " | ".join(NAMES[arm] for arm in DIRECTIONS) + " |"]
    lines += ["|---|---|" + "--:|" * len(DIRECTIONS)]
    for site, (codes, how) in itertools.product(SITES, CODES.items()):
        found = [at[key] for arm in DIRECTIONS if (key := (*site, 100_000, codes, arm)) in at]
        if found:
            lines.append(f"| {SITES[site]} | 0.1 M, {how} | " + " | ".join(map(_ratio, found)) + " |")
    return "\n".join(lines)


def _site_order(row: dict) -> tuple:
    arms = [*DIRECTIONS, "Gaussian", "ITDA", "topk", "batchtopk", "frozen"]
    percentile = row["percentile"] or 1
    return "passes" in row, percentile != 1, percentile, arms.index(row["arm"]), row["tokens"], -row.get("passes", 0)


def _site_arm(row: dict) -> str:
    if "passes" not in row:
        at = "" if row["percentile"] in (None, 1) else f", percentile {row['percentile']:g}"
        return f"{NAMES.get(row['arm'], row['arm'])}{at}"
    seen = {1: "the same tokens once", 5: "the same tokens five times"}[row["passes"]]
    if row["tokens"] > SITE_TOKENS:
        seen = f"{row['tokens'] / 1e6:.1g} M tokens" + (f", rate {row['lr']:g}" if row["lr"] != RATE else "")
    return f"{NAMES[row['arm']]}, {seen}, {CODES[row['codes']]}"


def _variants() -> str:
    """What changed directions rebuild at block 15: FVU of the orders, and what they gain on means, paired by order."""
    of = [row for row in at_sites(layer=MAIN, k=32) if "part" in row]
    lines = [
        "| directions, L0 32 | orders | FVU, other documents | less than means by | on validation "
        "| CE recovered (zero) |"
    ]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for large in (False, True):
        rows_ = [row for row in of if (row["part"] == "large") == large]
        at = {(row["arm"], row["on"], row["order"]): row for row in rows_}
        for arm in sorted({row["arm"] for row in rows_}, key=lambda arm: list(VARIANTS).index(arm)):
            orders = [order for order in range(5) if (arm, "test", order) in at and ("means", "test", order) in at]
            found = [at[arm, "test", order] for order in orders]
            gains = [
                [at["means", on, order]["fvu_others"][0] - at[arm, on, order]["fvu_others"][0] for order in orders]
                for on in ("test", "validation")
            ]
            shown = [_between(values, "+.3f") if arm != "means" else "" for values in gains]
            ce = [row for row in found if "recovered_zero" in row]
            name = VARIANTS[arm] + (", 60,000 tokens" if large else "")
            fvu = _between([row["fvu_others"][0] for row in found], ".3f")
            lines.append(
                f"| {name} | {len(orders)} | {fvu} | {shown[0]} | {shown[1]} | "
                f"{_interval(ce[0]['recovered_zero']) if ce else ''} |"
            )
    before = json.loads(RESULT.with_name("variants.json").read_bytes())["rows"]
    for row in before:
        if row["arm"] == "topk":
            lines.append(
                f"| TopK, the same tokens five times, {CODES[row['codes']]} | 1 | {row['fvu_others'][0]:.3f} | | | |"
            )
    return "\n".join(lines)


def _between(values: list[float], form: str) -> str:
    """The mean, with the least and largest where there are several."""
    mean = f"{sum(values) / len(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"
