"""How much of what a linear probe reads from activations is left in the bare identity of a region?

For every task, logistic regression learns on training rows and is judged on test rows, from:

- `raw`: the activation of the last token, as sae-probes has it; `raw mean`: the mean over the tokens of the text;
- `one-hot`: which region the last token lies in, and nothing else; `share`: the share of tokens in each region; both
  also of all percentiles side by side;
- `exemplar`: the exemplar of the last token's region in place of the activation. It says no more than the one-hot form,
  each region having one, but what is learned of a region then tells of others that lie near it;
- `cosine`: cosines of the last token to all exemplars;
- controls: `majority`; `token` and `words`, the same two forms of token ids in place of regions; `random`, one-hot over
  as many cells around random directions, and `random direction`, that direction in place of the activation;
- `sae top-1`, `sae top-k`: features that differ most between classes of training rows; `sae dense`: all of them;
  `sae one-hot`: which feature is largest.

Retention is the accuracy of an arm over that of the raw one. As guessing retains much of it, it also stands corrected
for chance: what an arm has above the majority class, over what the raw one has.

Shapes: n training rows, t test rows, k regions, d = d_model.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder
from exemplar_partitioning.files import disk_errors, to_json, write_new
from exemplar_partitioning.folder.dictionary import StoredDictionary
from exemplar_partitioning.folder.model import check_model
from exemplar_partitioning.models.loaded import LoadedModel
from exemplar_partitioning.models.sites import resolve_sites

from ..paired import interval, macro_auroc, ratio, resamples
from ..tasks import Task
from .features import Plan, Rows, arms, read_rows
from .logistic import probe

Report = Callable[[str, int, int], None]
"""Takes what is being done, how far it is, and how much there is."""


class Judged(NamedTuple):
    """An arm on test rows. c: inverse strength of the regularisation; None where nothing was learned."""

    against: str
    proba_tc: Float64[np.ndarray, "t c"]
    c: float | None


def run(
    dictionaries: Sequence[StoredDictionary],
    saes: dict[str, SparseAutoencoder],
    loaded: LoadedModel,
    tasks: Iterable[Task],
    plan: Plan,
    out: Path,
    report: Report = lambda *_: None,
    *,
    cache: Path | None = None,
) -> dict[str, Any]:
    """The whole experiment. A task that is done is kept in `out`/tasks, and found there when run again.

    Args:
        dictionaries: of one site; saes: autoencoders of the same site, by name.
        cache: folder for activations, to be used again with other dictionaries.

    Returns plain values: every arm's figures on every task, and pooled over tasks.

    Raises:
        EPError: dictionaries of several sites or of another model, an autoencoder of another width or site, a task
            with too few rows.
    """
    site = _one_site(dictionaries, loaded)
    for name, sae in saes.items():
        check_sae(sae, name, site, loaded)
    settings = _settings(dictionaries, saes, loaded, plan)
    tasks, done = list(tasks), []
    (out / "tasks").mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(tasks):
        report(f"task {task.name}", number, len(tasks))
        file = out / "tasks" / f"{re.sub(r'[^A-Za-z0-9]+', '_', task.name)}.json"
        key = hashlib.sha256(to_json([settings, task.name, task.texts, task.label_n.tolist()])).hexdigest()
        kept = _kept(file, key)
        if kept is None:
            begun = time.monotonic()
            kept = one_task(dictionaries, saes, loaded, site, task, plan, cache)
            kept["seconds"] = round(time.monotonic() - begun, 1)
            with disk_errors(file):
                write_new(file, json.dumps({"key": key} | kept).encode())
        done.append(kept)
    return {
        "plan": asdict(plan),
        "site": site,
        "dictionaries": [_described(d) for d in dictionaries],
        "saes": {name: {"width": sae.W_dec.shape[0], "kind": sae.kind} for name, sae in saes.items()},
        "pooled": pooled(done, plan),
        "tasks": done,
    }


def one_task(
    dictionaries: Sequence[StoredDictionary],
    saes: dict[str, SparseAutoencoder],
    loaded: LoadedModel,
    site: str,
    task: Task,
    plan: Plan,
    cache: Path | None,
) -> dict[str, Any]:
    """One task: its rows, and every arm's figures on the test rows."""
    rows, lost = read_rows(loaded, site, task, plan, cache)
    judged = {("majority", ""): Judged("raw", _majority(rows, len(task.classes)), None)}
    for f in arms(rows, dictionaries, saes, plan):
        proba, c = probe(f.train_nf, rows.label_n, f.test_tf, standardise=f.standardise, seed=plan.seed)
        judged[f.arm, f.detail] = Judged(f.against, proba, c)
    lengths = np.diff(rows.every.start_t)
    return {
        "task": task.name,
        "classes": len(task.classes),
        "train": len(rows.label_n),
        "test": len(rows.label_t),
        "tokens": int(lengths.sum()),
        "cut": int((lengths >= plan.context_size).sum()),
        "dropped": task.dropped | lost,
        "arms": figures(judged, rows.label_t, plan),
    }


def figures(
    judged: dict[tuple[str, str], Judged], label_t: Int64[np.ndarray, " t"], plan: Plan
) -> list[dict[str, Any]]:
    """Accuracy, AUROC, retention and corrected retention of every arm, each as [value, low, high].

    The corrected one is None where the raw arm is not surely above the majority class: there is nothing to retain.
    """
    draws_bt = resamples(len(label_t), plan.resamples, plan.seed)
    all_1t = np.ones((1, len(label_t)), np.int64)
    right = {arm: _right(j.proba_tc, label_t) for arm, j in judged.items()}
    guessed_t = right["majority", ""]
    drawn = []
    for (arm, detail), j in judged.items():
        raw_t = right[j.against, ""]
        above = [r.astype(int) - guessed_t for r in (right[arm, detail], raw_t)]
        sure = interval(draws_bt @ above[1])[0] > 0
        drawn.append(
            {
                "arm": arm,
                "detail": detail,
                "accuracy": _with(lambda w, r=right[arm, detail]: w @ r / len(label_t), all_1t, draws_bt),
                "auroc": _with(lambda w, j=j: macro_auroc(j.proba_tc, label_t, w), all_1t, draws_bt),
                "retention": _with(lambda w, r=right[arm, detail], raw=raw_t: ratio(r, raw, w), all_1t, draws_bt),
                "corrected": _with(lambda w, a=above: ratio(a[0], a[1], w), all_1t, draws_bt) if sure else None,
                "against": j.against,
                "c": j.c,
            }
        )
    return drawn


def pooled(tasks: Sequence[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Every arm over all tasks: mean accuracy and AUROC, and ratios of means; intervals by resampling the tasks.

    corrected: accuracy above the majority class over that of the raw arm.  auroc_corrected: likewise above one half.
    """
    draws_bt, all_1t = resamples(len(tasks), plan.resamples, plan.seed), np.ones((1, len(tasks)), np.int64)
    rows = [{(a["arm"], a["detail"]): a for a in task["arms"]} for task in tasks]

    def values(arm: tuple[str, str], figure: str) -> Float64[np.ndarray, " t"]:
        return np.array([row[arm][figure][0] for row in rows])

    lines = []
    guessed_t = values(("majority", ""), "accuracy")
    for (arm, detail), first in rows[0].items():
        raw = (first["against"], "")
        accuracy_t, raw_t = values((arm, detail), "accuracy"), values(raw, "accuracy")
        auroc_t, raw_auroc_t = values((arm, detail), "auroc"), values(raw, "auroc")
        compared = {
            "retention": (accuracy_t, raw_t),
            "corrected": (accuracy_t - guessed_t, raw_t - guessed_t),
            "auroc_corrected": (auroc_t - 0.5, raw_auroc_t - 0.5),
        }
        lines.append(
            {"arm": arm, "detail": detail, "against": first["against"], "tasks": len(tasks)}
            | {
                name: _with(lambda w, v=value_t: w @ v / len(tasks), all_1t, draws_bt)
                for name, value_t in (("accuracy", accuracy_t), ("auroc", auroc_t))
            }
            | {name: _with(lambda w, p=pair: ratio(p[0], p[1], w), all_1t, draws_bt) for name, pair in compared.items()}
        )
    return lines


def to_lines(result: dict[str, Any]) -> bytes:
    """A result as JSON with a task, and a pooled arm, a line."""
    long = {name: result[name] for name in ("pooled", "tasks")}
    head = json.dumps({k: v for k, v in result.items() if k not in long}, indent=1, ensure_ascii=False)
    rows = {name: ",\n".join(json.dumps(row, ensure_ascii=False) for row in value) for name, value in long.items()}
    lists = ",\n".join(f'"{name}": [\n{text}\n]' for name, text in rows.items())
    return f"{head[:-2]},\n{lists}\n}}\n".encode()


def check_sae(sae: SparseAutoencoder, name: str, site: str, loaded: LoadedModel) -> None:
    """Raise EPError unless an autoencoder fits the model's width and, where its files name one, the site."""
    width = sae.W_enc.shape[0]
    if width != loaded.info.d_model:
        raise EPError(f"{name} takes activations of {width} numbers, {loaded.info.id} has {loaded.info.d_model}")
    if sae.site is not None and str(resolve_sites(sae.site, loaded.architecture)[0]) != site:
        raise EPError(f"{name} was trained at {sae.site}, the dictionaries are of {site}; give one of the same site")


def _one_site(dictionaries: Sequence[StoredDictionary], loaded: LoadedModel) -> str:
    sites = sorted({d.config.site.name for d in dictionaries})
    if len(sites) != 1:
        raise EPError(
            f"dictionaries of {', '.join(sites) or 'no site'}: probes look at one site; choose it with --site"
        )
    for d in dictionaries:
        record = d.config.model
        if record.dtype == loaded.info.dtype:
            check_model(d, loaded)
        elif (record.tokenizer_hash, record.d_model) != (loaded.info.tokenizer_hash, loaded.info.d_model):
            raise EPError(f"{loaded.info.id} is not the model that {d.path} was built from ({record.id})")
    return sites[0]


def _majority(rows: Rows, classes: int) -> Float64[np.ndarray, "t c"]:
    share_c = np.bincount(rows.label_n, minlength=classes) / len(rows.label_n)
    return np.tile(share_c, (len(rows.label_t), 1))


def _right(proba_tc: Float64[np.ndarray, "t c"], label_t: Int64[np.ndarray, " t"]) -> Bool[np.ndarray, " t"]:
    return proba_tc.argmax(axis=1) == label_t


def _with(
    statistic: Callable[[Int64[np.ndarray, "b n"]], Float64[np.ndarray, " b"]],
    all_1n: Int64[np.ndarray, "1 n"],
    draws_bn: Int64[np.ndarray, "b n"],
) -> list[float | None]:
    """[value, low, high] of a statistic of weights; None where it is not defined."""
    every = (float(statistic(all_1n)[0]), *interval(statistic(draws_bn)))
    return [round(value, 4) if np.isfinite(value) else None for value in every]


def _settings(
    dictionaries: Sequence[StoredDictionary], saes: dict[str, SparseAutoencoder], loaded: LoadedModel, plan: Plan
) -> dict[str, Any]:
    """Everything that a task's figures follow from, but for the task."""
    digests = {name: hashlib.sha256(sae.W_enc.numpy().tobytes()).hexdigest() for name, sae in saes.items()}
    return {
        "model": loaded.info.fingerprint,
        "dictionaries": [d.content_id for d in dictionaries],
        "saes": digests,
        "plan": asdict(plan),
    }


def _kept(file: Path, key: str) -> dict[str, Any] | None:
    """What an earlier run found of the same task in the same settings."""
    try:
        result = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return {k: v for k, v in result.items() if k != "key"} if result.get("key") == key else None


def _described(dictionary: StoredDictionary) -> dict[str, Any]:
    c = dictionary.config
    return {
        "percentile": c.calibration.percentile,
        "threshold": round(c.calibration.threshold, 4),
        "k": dictionary.k,
        "activations": c.build.n_activations,
        "dtype": c.model.dtype,
        "text": c.text.source,
        "content_id": dictionary.content_id,
    }
