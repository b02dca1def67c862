"""The table of claims in results.md and their verdicts in README.md, from the result files."""

import json
from functools import partial
from pathlib import Path

import axbench_page
import nulls_page
import reconstruction_page
import tops_page
import words_page

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def parts() -> dict[str, str]:
    """The generated parts by the name in their markers: all claims, and on each page those it is about."""
    about = {
        "claims": _rows(),
        "claim-detection": [_detection(), _one_region()],
        "claim-probes": [_probes()],
        "claim-ood": [_ood()],
        "claim-tokens": [_tokens(), _agreement()],
        "claim-saturation": [_saturation()],
    }
    lines = ["| the paper (arXiv 2605.14347, its versions) | here |", "|---|---|"]
    return {
        name: "\n".join([*lines, *(f"| {claim} | {found} |" for claim, found, _ in rows)])
        for name, rows in about.items()
    }


def verdicts() -> str:
    """One line for each claim that was tested."""
    lines = ["| claim | verdict |", "|---|---|"]
    return "\n".join([*lines, *(f"| {short} |" for _, _, short in _rows() if short)])


def _rows() -> list[tuple[str, str, str]]:
    """Claim, what was found, and both in one line of the README (none of what could not be tested)."""
    return [
        *[_detection(), *_settings(), _one_region(), _behaviours(), _probes(), _ood(), _tokens(), _agreement()],
        *[_orders(), _saturation()],
    ]


def figure_files() -> dict[Path, str]:
    """There are none."""
    return {}


def draw() -> None:
    """Nothing to draw."""


def _read(name: str) -> dict:
    return json.loads((RESULTS / name).read_bytes())


def _shown(figure: list, form: str = ".3f") -> str:
    value, low, high = (f"{x:{form}}" for x in figure)
    return f"{value} ({low} to {high})"


def _pooled() -> dict[tuple, dict]:
    """The methods of concept detection at the finest percentile."""
    rows = axbench_page.pooled_rows()
    finest = min(row["percentile"] for row in rows if row["percentile"] is not None)
    return {(row["basis"], row["rule"], row["training"]): row for row in rows if row["percentile"] in (None, finest)}


def _detection() -> tuple[str, str, str]:
    rows = _pooled()
    ridge, logistic = rows["exemplar", "ridge", "all"], rows["logistic probe", "", "own"]
    random = next(row for key, row in rows.items() if key[0].startswith("random") and key[1:] == ("ridge", "all"))
    own, mean = rows["exemplar", "ridge", "own"], rows["mean activation", "ridge", "all"]
    words, above = words_page.words_all()
    return (
        "Regions come level with supervised probes in concept detection: .937 against DiffMean .946 (AxBench)",
        f"Ridge regression on regions {_shown(ridge['auroc'])}, {_shown(ridge['above_reference'], '+.3f')} above the "
        f"better supervised probe as AxBench trains it ({logistic['auroc'][0]:.3f}), "
        f"{_shown(ridge['above_same'], '+.3f')} above the better one trained on the same texts. As AxBench trains it: "
        f"{_shown(own['auroc'])}. Words without a model (TF-IDF, the same regression; one site): "
        f"{_shown(words['auroc'])}, regions {_shown(above['auroc'], '+.3f')} above, and "
        f"{_shown(above['hard'], '+.3f')} on hard negatives",
        f"regions together detect concepts | AUROC {ridge['auroc'][0]:.3f} ({own['auroc'][0]:.3f} as AxBench trains "
        f"it), no more than words without a model ({words['auroc'][0]:.3f}), mean activations ({mean['auroc'][0]:.3f}) "
        f"or random exemplars ({random['auroc'][0]:.3f})",
    )


def _settings() -> list[tuple[str, str, str]]:
    """Where a region could win, and whether it does."""
    every = nulls_page.tried()
    won = [f"{of}, {s['setting']}" for of, s in every if s["verdict"] == "win"]
    lost = sum(s["verdict"] == "lose" for _, s in every)
    value = {(of, s["setting"]): {row["arm"]: row["auroc"][0] for row in s["table"]} for of, s in every}
    again, wide = (value["other intents", name] for name in ("one unit, five orders", "one unit, wide"))
    concepts = value["AxBench", "one unit"]

    def rival(of: dict[str, float]) -> str:
        best, name = max((v, name) for name, v in of.items() if name != "regions")
        return f"{best:.3f} ({name})"

    return [
        (
            "Regions tell concepts better than words, activations and other directions",
            f"By .02 or more in {len(won)} of {len(every)} settings ({', '.join(won)}), worse in {lost}. Again, other "
            f"intents: {again['regions']:.3f} against {rival(again)}, wide {wide['regions']:.3f} against {rival(wide)}",
            f"one region tells more than any other one unit | not by the .02 asked: AUROC {again['regions']:.3f} (five "
            f"orders) against {rival(again)} and {again['words']:.3f} (word), by 32 texts; on AxBench "
            f"{concepts['regions']:.3f} against {rival(concepts)}; autoencoders {max(wide.values()):.3f} against "
            f"{wide['regions']:.3f}",
        )
    ]


def _one_region() -> tuple[str, str, str]:
    rows = _pooled()
    best, mean = rows["exemplar", "best", "own"], rows["mean", "best", "own"]
    logistic = rows["logistic probe", "", "own"]
    sae = _autoencoders()
    return (
        "One region, chosen by training AUROC, detects a concept: .832 (exemplar), .937 (mean); SAE-A .911",
        f"Exemplar {_shown(best['auroc'])}, mean of members {_shown(mean['auroc'])}{sae}",
        f"one region detects a concept | AUROC {best['auroc'][0]:.3f}, as one feature of an autoencoder does; "
        f"supervised probes {logistic['auroc'][0]:.3f}",
    )


def _autoencoders() -> str:
    """Beside autoencoders of the same site, by the same rule."""
    r = _read("axbench/smollm2.json")
    finest = min(d["percentile"] for d in r["dictionaries"])
    rows = [x for x in r["rows"] if (x["rule"], x["training"]) == ("best", "own")]
    found = {x["basis"]: sum(x["auroc"]) / len(x["auroc"]) for x in rows if x["basis"] in r["saes"]}
    site = next(x["site"] for x in rows if x["basis"] in r["saes"])
    ours = next(x for x in rows if (x["basis"], x["site"], x["percentile"]) == ("exemplar", site, finest))
    mean = sum(ours["auroc"]) / len(ours["auroc"])
    theirs = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    return f". On {r['model']['id']}, {site}: exemplar {mean:.3f}; autoencoders: {theirs}"


def _behaviours() -> tuple[str, str, str]:
    refusal = _read("behaviours/refusal.json")
    before = refusal["baseline"]["rate"]
    exemplar, null, means = (
        tops_page.rate(refusal, name) for name in ("exemplar", "null region", "difference of means")
    )
    return (
        "Behaviours sit in regions",
        f"In one order refusals fell from {before:.2f} to {exemplar} (null regions {null}, difference of means "
        f"{means}); in {_single()}",
        f"a behaviour sits in a region | no: refusals fell from {before:.2f} to {exemplar} without its exemplar (null "
        f"regions: {null}), but in {_single()}",
    )


def _single() -> str:
    """Exemplars of several orders beside single activations and random regions: what each takes off the log-odds."""
    orders, taken = 0, {}
    for name in ("refusal", "chinese"):
        r = _read(f"behaviours-single/{name}.json")
        tested = [x for x in r["tests"] if x["arm"] == "exemplar"]
        null = {x["null"]: x["null_fall"] for x in tested}
        orders = sum(x["name"] == "exemplar" for x in r["directions"])
        taken[name] = [tested[0]["fall"], null["single activation, showing"], null["random region"]]
    refusal, chinese = ([f"{value:.2f}" for value in of] for of in taken.values())
    return (
        f"{orders} orders exemplars take {refusal[0]} off the log-odds, single activations {refusal[1]}, random "
        f"regions {refusal[2]} (Chinese: {', '.join(chinese)})"
    )


def _orders() -> tuple[str, str, str]:
    share = {arm: [r["order"][arm]["same"] for r in tops_page.stability()] for arm in ("as built", "random exemplars")}
    reach = {arm: f"{min(of):.0%} to {max(of):.0%}" for arm, of in share.items()}
    return (
        "Regions come back in another order",
        f"{reach['as built']} do; of cells around random activations {reach['random exemplars']}",
        f"regions come back in another order of the text | {reach['as built']} do; of cells around random activations "
        f"{reach['random exemplars']}",
    )


def _probes() -> tuple[str, str, str]:
    r = _read("probes/smollm2.json")
    finest = f"p {min(d['percentile'] for d in r['dictionaries']):g}"
    rows = {(row["arm"], row["detail"]): row for row in r["pooled"]}
    one, random = rows["one-hot", finest], rows["random", finest]
    return (
        "The identity of the region keeps 97 % (later: 91 % on test sets at percentile 1) of a probe's accuracy",
        f"{_shown(one['retention'], '.0%')} at percentile {finest[2:]}, and {_shown(one['corrected'], '.0%')} of what "
        f"is above guessing; as many random cells keep {random['retention'][0]:.0%} and {random['corrected'][0]:.0%}",
        f"a region's number keeps a probe's accuracy | {one['corrected'][0]:.0%} of what is above guessing, no more "
        "than random cells keep",
    )


def _ood() -> tuple[str, str, str]:
    r = _read("ood/smollm2.json")
    suite = r["suites"][0]
    finest = f"p = {suite['dictionaries'][0]['percentile']:g}"
    tasks = [task for task in suite["tasks"] if not task["name"].startswith("control")]

    def mean(name: str) -> float:
        return sum(task["methods"][name]["document"]["auroc"][0] for task in tasks) / len(tasks)

    knn = max((name for name in suite["methods"] if name.startswith("k-NN")), key=mean)
    ratio = suite["methods"][knn]["bytes"] / suite["methods"][f"surprise, {finest}"]["bytes"]
    return (
        "Activations farther than theta from all exemplars are a free out-of-distribution signal (later withdrawn)",
        f"Mean AUROC per document over {len(tasks)} tasks: beyond theta {mean(f'beyond, {finest}'):.3f}, distance "
        f"{mean(f'distance, {finest}'):.3f}, surprise {mean(f'surprise, {finest}'):.3f}; {knn} on all activations "
        f"{mean(knn):.3f} with {ratio:.0f} times the memory",
        f"distance tells strange text | {mean(f'distance, {finest}'):.3f}; the surprise of tokens "
        f"{mean(f'surprise, {finest}'):.3f}, near k-NN's {mean(knn):.3f} at 1/{ratio:.0f} of its memory; random "
        "activations in place of exemplars do as well",
    )


def _tokens() -> tuple[str, str, str]:
    level = [
        f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) at {row['tokens']:,} tokens each from "
        f"{row['name']}"
        for row in _read("tokens/smollm2.json")["equal_tokens"]
        if row["tokens"] == 5_000_000
    ]
    trained, pick = reconstruction_page.trained, reconstruction_page.pick
    same, dictionary = trained("topk", 200_000, "own", 10), pick(arm="exemplars", tokens=200_000, k=32)
    random = pick(arm="random", tokens=200_000, k=32)
    fewer, more = (trained("topk", tokens, "own") for tokens in (100_000, 5_000_001))
    reach = partial(reconstruction_page.reach, figure="recovered_zero")
    return (
        "Dictionaries need about 1,000 times fewer tokens than autoencoders",
        f"Not so. CE recovered at L0 32, block 15 of SmolLM2: exemplars of 200,000 tokens with pursuit "
        f"{reach(dictionary)}, as many random activations {reach(random)}, a TopK autoencoder of the same tokens, seen "
        f"ten times, {reach(same)}, of 100,000 tokens {reach(fewer)}, of 5 million {reach(more)}. "
        f"Detection by the best unit differs by {'; '.join(level)}",
        f"1,000 times fewer tokens than autoencoders | no: one that sees the same tokens rebuilds better (CE recovered "
        f"{reach(same)} against {reach(dictionary)})",
    )


def _agreement() -> tuple[str, str, str]:
    regions = _read("agreement/smollm2.json")["results"][0]["top"]
    row, null = regions["regions"], regions["chance_same_token"]["regions"]
    return (
        "A fifth of regions have a matching feature of an autoencoder (F1 > 0.5)",
        f"{row['above_0.5']:.0%}, and {null['above_0.5']:.0%} when inputs with the same token are exchanged",
        f"regions agree with features of autoencoders | {row['above_0.5']:.0%} do (F1 > .5), {null['above_0.5']:.0%} "
        "by the token alone",
    )


def _saturation() -> tuple[str, str, str]:
    rows = _read("saturation/smollm2.json")["results"]
    saturated = sum(row["saturated_at"] is not None for row in rows)
    within = f"{max(row['activations'] for row in rows):,} activations"
    return (
        "Dictionaries saturate on every kind of text",
        f"{saturated} of {len(rows)} did within {within}, too few to test it",
        f"dictionaries saturate | {saturated} of {len(rows)} did within {within}" if saturated else "",
    )
