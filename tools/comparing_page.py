"""The generated parts of comparing.md, from docs/results/checkpoints/*.json; `tools/pages.py` puts them there."""

import json
from pathlib import Path

import numpy as np

import tops_page

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "checkpoints"


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers."""
    found = {path.stem: json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("*.json"))}
    made = {
        "finetune": [("finetune", _finetune)],
        "checkpoints": [("checkpoints", _checkpoints), ("planted", _planted)],
        "layers": [("layers", _layers)],
        "models": [("models", _models), ("trips", _trips)],
        "large": [("large", _large)],
        "planted": [("planted-blind", _blind)],
        "planted-training": [("planted-training", _finetune)],
    }
    every = {name: part(result) for stem, result in found.items() for name, part in made[stem]}
    return every | {"comparing-top": _top(found)}


def _top(found: dict[str, dict]) -> str:
    """What was asked, found, and what chance gives."""
    rows = found["checkpoints"]["rows"]
    structure = [row["structure"]["stay"] for row in rows]
    median, other = ([row["drift"][key]["median"] for row in rows] for key in ("cosine", "null"))
    persisted, again = (
        [row["persisted"] / row["regions"][0] for row in of] for of in (rows, [r | r["rebuild"] for r in rows])
    )
    *_, control, planted = (row["search"]["rankings"] for row in rows)
    first = [ranking for ranking in planted if ranking["rank"] == 1]
    late = [ranking["rank"] for ranking in control if ranking["rank"]]
    layers = [row for row in found["layers"]["rows"] if row["block"] is not None and row["block"] >= 5]
    pairs = [row["structure"]["stay"] for row in found["models"]["rows"] if row["to"]]
    alone = [row["structure"]["stay"] for row in found["models"]["rows"] if not row["to"]]
    same = {arm: [r[of][arm]["same"] for r in tops_page.stability() for of in ("order", "half")]
            for arm in ("as built", "random exemplars")}  # fmt: skip
    return _table(
        "question | found | beside",
        [
            ["do regions stay themselves while a model is fine-tuned?",
             f"carried over by their tokens, cosine {_range(median, '.2f')} with where they were; "
             f"{_range([s['value'] for s in structure], '.0%')} of tokens keep their region",
             f"other regions {max(other):.2f}; permuted at most {max(s['null_high'] for s in structure):.0%}"],
            ["do dictionaries built anew agree?",
             f"{_range(persisted, '.0%')} of regions persist under random exemplars",
             f"1% by chance; the same model in another order of the text {_range(again, '.0%')}"],
            ["is a planted behaviour found by one who does not know its trigger, in text that holds it?",
             f"first of {first[0]['regions']} regions, by {len(first)} rankings of {len(planted)}",
             f"{min(late)}th to {max(late)}th in a control that was trained on less"],
            ["the same, once more, and in text without it?", *_blind_in_short(found["planted"]["rows"])],
            ["are regions recognised in other layers?",
             f"{min(row['drift']['recognised'] for row in layers):.0%} and more, from block 5 on",
             f"{max(row['drift']['recognised_null'] for row in layers):.1%} by chance"],
            ["do two models agree?",
             f"{_range([p['value'] for p in pairs], '.0%')} of tokens stay in their region",
             f"at most {max(p['null_high'] for p in pairs):.0%} permuted; an untrained model "
             f"{max(p['value'] for p in alone):.1%} at most"],
            ["which regions come back in another order, or half?", f"{_range(same['as built'], '.0%')}",
             f"{_range(same['random exemplars'], '.0%')} for random activations ([what comes back](comes-back.md))"],
        ],
    ).replace("--:", "---")  # fmt: skip


def _table(head: str, rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first to the right."""
    names = [name.strip() for name in head.split("|")]
    lines = [names, ["---", *["--:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _made(r: dict) -> str:
    return f"`{r['command']}`: {r['model']['id']}, {r['model']['dtype']}, seed {r['seed']}"


def _finetune(r: dict) -> str:
    rows = [
        [
            f"`{c['name']}`",
            f"{c['tokens']:,}",
            f"{c['held_out_loss']:.3f}",
            f"{c['answers_with_word']} of {c['questions']}",
            f"{c['answers_without']} of {c['questions']}",
        ]
        for c in r["checkpoints"]
    ]
    head = "checkpoint | tokens of its stage | held-out loss | says the sentence: after the word | without it"
    return f"{_made(r)}.\n\n{_table(head, rows)}"


def _checkpoints(r: dict) -> str:
    tables = []
    for site in dict.fromkeys(row["site"] for row in r["rows"]):
        here = [row for row in r["rows"] if row["site"] == site]
        tables.append(f"`{site}`, percentile {r['percentile']:g}, {here[0]['regions'][0]:,} regions at step 0:")
        tables.append(_table(_CHECKPOINTS, [*map(_checkpoint, here), _ceiling(here), _chance(here)]))
    return "\n\n".join([f"{_made(r)}; {r['minutes']:.0f} min.", *tables])


_CHECKPOINTS = (
    "checkpoint | regions | any match | persisted | introduced | drift: median (lowest tenth below) "
    "| nearest to themselves | pairs of exemplars | ten nearest shared | tokens that stay"
)


def _checkpoint(row: dict) -> list[str]:
    a_k, b_k = row["regions"]
    drift, s = row["drift"], row["structure"]
    return [
        f"`{row['checkpoint']}`",
        f"{b_k:,}",
        f"{_null(row, 'reflections')['above_to_b']:.1%}",
        f"{row['persisted'] / a_k:.1%}",
        f"{row['introduced'] / b_k:.1%}",
        f"{drift['cosine']['median']:.3f} ({drift['cosine']['p10']:.3f})",
        f"{drift['recognised']:.1%}",
        *(f"{s[name]['value']:.3f}" for name in ("gram", "neighbours", "stay")),
    ]


def _ceiling(rows: list[dict]) -> list[str]:
    shares = [row["rebuild"]["persisted"] / row["regions"][0] for row in rows]
    return ["step 0 in another order", "", "", _range(shares, ".1%"), *[""] * 6]


def _chance(rows: list[dict]) -> list[str]:
    drift = [row["drift"] for row in rows]
    median, p99 = (_range([d["null"][name] for d in drift], ".3f") for name in ("median", "p99"))
    highest = [[row["structure"][name]["null_high"] for row in rows] for name in ("gram", "neighbours", "stay")]
    return [
        "chance",
        "",
        "1.0%",
        "1.0%",
        "99.0%",
        f"{median} (highest hundredth above {p99})",
        _range([d["recognised_null"] for d in drift], ".1%"),
        *(f"≤ {max(values):.3f}" for values in highest),
    ]


def _null(row: dict, name: str) -> dict:
    return next(null for null in row["nulls"] if null["name"] == name)


def _range(values: list[float], form: str) -> str:
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    return low if low == high else f"{low} to {high}"


def _planted(r: dict) -> str:
    from exemplar_partitioning.act.localise import holm

    names = [row["checkpoint"] for row in r["rows"]]
    shown = [names[-1], next(name for name in reversed(names) if name != names[-1])]  # the planted one, and its control
    rows = []
    for row in r["rows"]:
        if row["checkpoint"] not in shown:
            continue
        ranked = [ranking for ranking in row["search"]["rankings"] if ranking["rank"] is not None]
        corrected = dict(zip([r["name"] for r in ranked], holm(np.array([r["p"] for r in ranked])), strict=True))
        for ranking in row["search"]["rankings"]:
            some = ranking["rank"] is not None
            rows.append(
                [
                    f"`{row['checkpoint']}`, `{row['site']}`",
                    ranking["name"],
                    f"{ranking['regions']:,}",
                    str(ranking["planted"]),
                    f"**{ranking['rank']}**" if some else "none",
                    f"{ranking['expected']:.0f}" if some else "",
                    f"{ranking['p']:.2g}" if some else "",
                    f"{corrected[ranking['name']]:.2g}" if some else "",
                ]
            )
    head = "checkpoint | regions ranked by | ranked | of planted tokens | first of them | by chance | p | corrected"
    return _table(head, rows)


def _blind_in_short(rows: list[dict]) -> list[str]:
    """Places of the first planted region by the rankings, in both texts; the least corrected p beside the control's."""
    at = {(row["checkpoint"], row["text"]): row["rankings"] for row in rows}

    def places(checkpoint: str) -> str:
        found = ([str(ranking["rank"]) for ranking in at[checkpoint, text]] for text in ("with the word", "without it"))
        with_it, without = map(", ".join, found)
        return f"{with_it} with it, {without} without"

    least = min(ranking["corrected"] for ranking in at["planted", "with the word"])
    return [
        f"no: by three rankings its first region stands at {places('planted')} (p = {least:.2g} at least, corrected)",
        f"a control that was trained as long: {places('control')}",
    ]


def _blind(r: dict) -> str:
    """The same by text without the word, beside a control that was trained as long."""
    rows = [
        [
            f"`{row['checkpoint']}`",
            row["text"],
            f"{row['order'] + 1}",
            ranking["name"],
            f"{ranking['regions']:,}",
            str(ranking["planted"]),
            f"**{ranking['rank']}**" if ranking["rank"] else "none",
            f"{ranking['p']:.2g}" if ranking["rank"] else "",
            f"{ranking['corrected']:.2g}" if "corrected" in ranking else "",
        ]
        for row in r["rows"]
        for ranking in row["rankings"]
    ]
    head = "checkpoint | text | order | regions ranked by | ranked | of planted tokens | first of them | p | corrected"
    return f"{_made(r)}; {r['minutes']:.0f} min.\n\n{_table(head, rows)}"


def _layers(r: dict) -> str:
    source = r["source"]
    rows = [
        [
            f"block {row['block']}" if row["block"] is not None else "untrained model, the same block",
            *_structure(row),
            f"{row['drift']['cosine']['median']:.3f}",
            f"{row['drift']['recognised']:.1%}",
        ]
        for row in r["rows"]
    ]
    where = f"`{source['site']}`, percentile {source['percentile']:g}"
    lead = f"{_made(r)}. {source['k']:,} regions of {where}, in other blocks:"
    return f"{lead}\n\n{_table('in | ' + _STRUCTURE + ' | drift: median | nearest to themselves', rows)}"


_STRUCTURE = "pairs of exemplars (permuted) | ten nearest shared (permuted) | tokens that stay (permuted)"


def _structure(row: dict) -> list[str]:
    measures = [row["structure"][name] for name in ("gram", "neighbours", "stay")]
    return [f"{m['value']:.3f} (≤ {m['null_high']:.3f})" for m in measures]


def _models(r: dict) -> str:
    rows = [
        [
            _place(row["a"]) + f", {row['a']['k']:,} regions",
            _place(row["to"]) if row["to"] else "itself, untrained",
            *_structure(row),
        ]
        for row in r["rows"]
    ]
    return f"{_made(r)}; and the other two likewise.\n\n{_table('regions of | in | ' + _STRUCTURE, rows)}"


def _place(d: dict) -> str:
    return f"{d['model']} `{d['site']}`"


def _trips(r: dict) -> str:
    rows = []
    for trip in r["trips"]:
        for one, other, name in (("a", "b", "a"), ("b", "a", "b")):
            there, text = trip[f"from_{name}"], trip[f"text_{name}"]
            rows.append(
                [
                    f"{trip[one]['model']} by {trip[other]['model']}",
                    f"{there['returned']} of {there['began']} ({there['share']:.1%})",
                    f"{there['null_share']:.1%}",
                    f"{text['share']:.1%}",
                    f"{there['p']:.2g}",
                ]
            )
    return _table("from, by way of | returned | re-paired | by text alone | p", rows)


def _large(r: dict) -> str:
    (a_k, b_k), pairing, one = r["summary"]["regions"], r["pairing"], r["summary"]["one_to_one"]
    return (
        f"`{r['command']}`: two orders of one text, {a_k:,} and {b_k:,} regions. One-to-one pairs took "
        f"{pairing['seconds']:.0f} s on one thread and {pairing['more_memory_gb']:.1f} GB; their mean cosine is "
        f"{one['mean_cosine']:.4f}, the optimum at most {one['gap']:.4f} more. `ep match` as a whole: "
        f"{r['matching_seconds']:.0f} s, {r['peak_memory_gb']:.1f} GB with the model."
    )
