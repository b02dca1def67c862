"""Generated parts of scaling.md, speed.md and errors.md, from benchmarks/results: machines, peers, faults."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def scaling_parts() -> dict[str, str]:
    """By the names in their markers."""
    return {"ray": _ray(), "long": _long(), "paper": _on_paper()}


def speed_parts() -> dict[str, str]:
    return {
        "stages": _stages(),
        "peers": _peers(),
        "floor": _floor(),
        "decomposition": _decomposition(),
        "gpu": _gpu(),
        "bfloat16": _bfloat16(),
    }


def errors_parts() -> dict[str, str]:
    return {"faults": _faults(), "lasting": _lasting()}


def _read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_bytes())


def _made(record: dict) -> str:
    """How figures came about."""
    e = record["environment"]
    threads = "1 thread" if e["threads"] == 1 else f"{e['threads']} threads"
    return (
        f"`{record['command']}`, seed {record['seed']}; {e['cores']} cores {e['cpu']}, {threads}, bf16 units: "
        f"{e['bfloat16_units']}; torch {e['torch']}; commit {e['commit']}."
    )


def _ray() -> str:
    """The same bytes, and what it costs."""
    ray, hosts = _read("ray"), _read("hosts")
    parts: dict[str, list[dict]] = {}
    for row in ray["rows"]:
        part, what = row["what"].split(": ", 1)
        parts.setdefault(part, []).append(row | {"what": what})
    lines = [_made(ray), "", "| build | sha256 of all its files |", "|---|---|"]
    lines += [f"| {row['what']} | {row['found']['sha256']} |" for row in [*parts["identity"], *hosts["rows"]]]
    (silent,) = (row["found"]["longest silence, s"] for row in hosts["rows"] if "workers lost" in row["found"])
    lines += [
        "",
        f"The last two are of `{hosts['command']}`, with a tiny model: hosts are network namespaces, and the link of "
        f"one goes down for good while chunks are proposed. The build went on without it after {silent:.0f} s.",
    ]
    for row in parts["traffic"]:
        lines += ["", f"| {row['what']} | |", "|---|--:|"]
        lines += [f"| {name} | {_number(value)} |" for name, value in row["found"].items()]
    if lag := parts.get("lag"):
        lines += ["", "| rows that a snapshot does not cover | share | become exemplars |", "|---|--:|--:|"]
        found = ((row["what"], row["found"]) for row in lag)
        lines += [f"| {what} | {each['rows proposed']} | {each['became exemplars']} |" for what, each in found]
    if overhead := parts.get("overhead"):
        lines += ["", "| time | on Ray | one process | ratio | processor s on Ray | processor s, one process |"]
        lines += ["|---|--:|--:|--:|--:|--:|"]
        for row in overhead:
            both = [row[side]["median_s"] for side in ("ours", "textbook")]
            cpu = [row["found"][f"processor s, {name}"] for name in ("workers", "one process")]
            busy = " (others used the machine)" * (row["ours"]["disturbed"] or row["textbook"]["disturbed"])
            times = f"{both[0]:.0f} s | {both[1]:.0f} s | {both[0] / both[1]:.2f}"
            lines.append(f"| {row['what']}{busy} | {times} | {cpu[0]:.0f} | {cpu[1]:.0f} |")
    return "\n".join(lines)


def _long() -> str:
    """Ten million activations from disk."""
    record = _read("long")
    *marks, whole = record["rows"]
    names = list(marks[0]["found"])
    lines = [_made(record), "", f"| after | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    lines += [f"| {row['what']} | {' | '.join(_number(row['found'][name]) for name in names)} |" for row in marks]
    lines += ["", "; ".join(f"{name}: {_number(value)}" for name, value in whole["found"].items()) + "."]
    return "\n".join(lines)


def _peers() -> str:
    """What a user might take instead: time, memory, and how well rows held out are stood for."""
    record = _read("peers")
    lines = [_made(record), "", "| side by side | ours | other | other / ours | memory, MB |", "|---|--:|--:|--:|--:|"]
    for row in record["rows"]:
        if row["ratio"] is not None:
            sides = [row[side]["median_s"] for side in ("ours", "textbook")]
            memory = " / ".join(f"{1000 * gb:,.0f}" for gb in row["memory"].values() if gb is not None)
            lines.append(f"| {row['what']} | {sides[0]:.2f} s | {sides[1]:.2f} s | **{row['ratio']:.2f}** | {memory} |")
    lines += ["", "| held-out rows | K | mean cosine | FVU at l0 1 | within theta |", "|---|--:|--:|--:|--:|"]
    for row in record["rows"]:
        if "cosine" in (found := row["found"]) and " against " not in row["what"]:
            values = f"{found['K']:,} | {found['cosine']:.3f} | {found['FVU']:.3f} | {found['coverage']:.3f}"
            lines.append(f"| {row['what']} | {values} |")
    return "\n".join(lines)


def _floor() -> str:
    """What clustering in small batches takes, beside the passes that it cannot do without."""
    record, names = _read("floor"), ("ours", "procedure", "centre and norm", "product")
    lines = [_made(record), "", f"| microseconds a row | {' | '.join(names)} | procedure / the last two |"]
    lines.append("|---|" + "--:|" * 5)
    for row in record["rows"]:
        values = " | ".join(f"{row['found'][f'{name}, us a row']:.2f}" for name in names)
        lines.append(f"| {row['what']} | {values} | **{row['found']['procedure / floor']:.1f}** |")
    return "\n".join(lines)


def _stages() -> str:
    """Where the seconds of `make demo` go."""
    record = _read("stages")
    whole, *stages = record["rows"]
    busy = "; others used the machine meanwhile" * whole["ours"]["disturbed"]
    lines = [
        _made(record).removesuffix(".") + f"{busy}.",
        "",
        "| stage | processor | share | clock |",
        "|---|--:|--:|--:|",
    ]
    for row in [*stages, whole]:
        spent = row["found"]["processor s"]
        share = spent / whole["found"]["processor s"]
        lines.append(f"| {row['what']} | {spent:.1f} s | {share:.1%} | {row['ours']['median_s']:.1f} s |")
    return "\n".join(lines)


def _decomposition() -> str:
    """Rows a second of a core, in both ways there are, beside scikit-learn."""
    record = _read("decomposition")
    lines = [_made(record), ""]
    lines += ["| | rows a second of a core | scikit-learn | ratio | memory |", "|---|--:|--:|--:|--:|"]
    for row in record["rows"]:
        mine, theirs = row["found"]["rows per second of a core"], row["found"]["of the textbook"]
        memory = f"{row['memory']['ours_gb']:.2f} GB"
        lines.append(f"| {row['what']} | {mine:,} | {theirs:,.0f} | **{row['ratio']:.0f}x** | {memory} |")
    return "\n".join(lines)


def _gpu() -> str:
    """What was measured on a GPU."""
    record = _read("gpu")
    rows = [(row["what"], row["ours"]["median_s"], row["found"]) for row in record["rows"]]
    lines = [f"{record['data']['device']}; {_made(record)}", ""]
    lines += ["| of 16,256 activations | seconds | |", "|---|--:|---|"]
    for what, seconds, found in rows:
        lines.append(f"| {what} | {seconds:.3f} | {'; '.join(f'{n} {_number(v)}' for n, v in found.items())} |")
    return "\n".join(lines)


# What is not measured here but published or assumed: the data sheet of the H100 SXM (dense bfloat16), the share of it
# that large models reach, and what an hour costs to rent.
_PEAK, _REACHED, _DOLLARS = 989e12, 0.4, 2.5
_TOKENS, _SUM_K, _CALIBRATING = 1e9, 40_000, 212_992
_MODELS = (  # parameters outside the embedding, blocks, width: published
    ("Gemma-2-2B", 2.0e9, 26, 2304),
    ("Llama-3-70B", 68.5e9, 80, 8192),
)


def _on_paper() -> str:
    """The cost model for large models: time, money and bytes of a billion tokens."""
    gpu = {row["what"].split(":")[0]: row["found"] for row in _read("gpu")["rows"]}
    search = gpu["clustering"]["GFLOP/s of the search"] * 1e9
    lines = [
        "| model, sites | extraction, GPU h | clustering as measured, h | at the product's speed, h | dollars "
        "| kept to calibrate, GB | exemplars, GB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, parameters, blocks, d in _MODELS:
        for what, sites, share in (("one, half way up", 1, 0.5), (f"all {blocks}", blocks, 1.0)):
            extraction = 2 * parameters * share * _TOKENS / (_PEAK * _REACHED) / 3600
            flop = 2 * _TOKENS * _SUM_K * d * sites
            fast = flop / (_PEAK * _REACHED) / 3600
            gb = [rows * d * 4 * sites / 1e9 for rows in (_CALIBRATING, _SUM_K)]
            lines.append(
                f"| {name}, {what} | {extraction:,.1f} | {flop / search / 3600:,.0f} | {fast:,.1f} "
                f"| {(extraction + fast) * _DOLLARS:,.0f} | {gb[0]:,.0f} | {gb[1]:,.1f} |"
            )
    return "\n".join(lines)


_CHANGES = {
    "founded by the same token": "regions founded by the same token",
    "regions that return": "regions that return, F1 of members above 1/2",
    "activations in those": "activations in those",
    "activations with the same leader": "activations with the same leader",
    "supports shared": "regions of a decomposition (8 steps) shared, Jaccard index",
    "largest change of FVU": "change of FVU, the largest of 1, 8, 32 steps",
    "change of AUROC of a concept": "change of a concept's AUROC",
    "change of mean AUROC": "change of the mean AUROC",
}


def _bfloat16() -> str:
    """What a forward pass in bfloat16 changes, beside what another order does."""
    record = json.loads((ROOT / "docs" / "results" / "bfloat16" / "smollm2.json").read_bytes())
    of = record["results"]
    lines = [f"`{record['command']}`: {record['model']['id']}, seed {record['seed']}.", ""]
    names = [f"percentile {each['percentile']:g}: {what}" for each in of for what in ("bfloat16", "another order")]
    lines += [f"| mean (least to largest) of pairs | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for name, what in _CHANGES.items():
        cells = [_range(each[side][name]) for each in of for side in ("bfloat16", "order")]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    for each in of:
        (exact, coarse), apart = each["AUROC"], each["AUROC, bfloat16 less float32"]
        fvu = [sum(side) / len(side) for side in each["FVU"]["8"]]
        fixed = each["one dictionary, activations of both"]
        score = f"{sum(exact) / len(exact):.3f} and {sum(coarse) / len(coarse):.3f}"
        shift, least, most = (f"{apart[name]:+.3f}" for name in ("difference", "low", "high"))
        lines += [
            "",
            f"Percentile {each['percentile']:g}, float32 and bfloat16, means over orders: FVU at 8 steps {fvu[0]:.3f} "
            f"and {fvu[1]:.3f}; AUROC over {record['concepts']} concepts {score} (apart by {shift}, 95% "
            f"{least} to {most}). Read by one float32 dictionary, {fixed['regions kept']:.1%} of the activations keep "
            f"their region in bfloat16, and their decompositions share {fixed['supports shared']:.1%}.",
        ]
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"


_AT_WRITES = {"kill": "killed", "full": "full disk", "interrupt": "interrupted"}


def _kind_of_fault(what: str) -> str:
    """In brackets behind it: how many files, verbs or jobs."""
    part, _, rest = what.partition(": ")
    if part != "points":
        return what if part in ("tampered", "ray") else part
    fault = rest.rpartition(", ")[2]
    if fault in _AT_WRITES:
        return f"verbs, {_AT_WRITES[fault]} at their writes"
    return "verbs, what they stand on removed" if fault.endswith("removed") else f"verbs, {fault}"


def _faults() -> str:
    """What was tried, survived, refused, or came out wrong."""
    record = _read("faults")
    names = ("tried", "survived", "refused clearly", "read as it stands", "wrong")
    rows = [(row["what"], row["found"]) for row in record["rows"]]
    groups: dict[str, list[dict[str, int]]] = {}
    for what, found in rows:
        groups.setdefault(_kind_of_fault(what), []).append(found)
    short = list[tuple[str, dict[str, int]]]()
    for kind, each in groups.items():
        title = f"{kind} ({len(each)})" if len(each) > 1 else kind
        short.append((title, {name: sum(found.get(name, 0) for found in each) for name in names}))

    def table(rows: list[tuple[str, dict[str, int]]]) -> list[str]:
        cells = [[what, *(f"{found.get(name, 0):,}" for name in names)] for what, found in rows]
        head = [f"| fault | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
        return head + [f"| {' | '.join(row)} |" for row in cells]

    lines = [_made(record), "", *table([*short, ("**all**", record["data"])]), ""]
    lines += ["<details markdown>", "<summary>Each of them</summary>", "", *table(rows), "", "</details>"]
    return "\n".join(lines)


def _lasting() -> str:
    """Memory and descriptors at points of long work."""
    record = _read("lasting")
    lines = [_made(record), "", "| work | on the way |", "|---|---|"]
    for row in record["rows"]:
        found = "; ".join(f"{name}: {_number(value)}" for name, value in row["found"].items())
        lines.append(f"| {row['what'].partition(': ')[2]} | {found} |")
    return "\n".join(lines)


def _number(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
