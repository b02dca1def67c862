"""The same regions in other layers of a model and in other models, beside what chance and untrained weights give.

    python -m experiments.studies.spaces layers prose_web_wiki_news.jsonl.gz --out dictionaries/spaces
    python -m experiments.studies.spaces models prose_web_wiki_news.jsonl.gz --out dictionaries/spaces

Dictionaries are built on the packaged text; agreement is measured on the text given. `untrained` is the same
architecture with random weights: what is left there comes from the tokens themselves, not from what was learnt.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import combinations, permutations
from pathlib import Path

import torch
from experiments.studies.finetune import RESULTS

import exemplar_partitioning as ep
from ep_experiments.record import record
from exemplar_partitioning.compare.common_tokens import Place, common_tokens
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.files import to_json, write_new
from exemplar_partitioning.folder.dictionary import StoredDictionary, load
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.models.loaded import LoadedModel

SIZE = (250, 1000)  # regions wanted of each dictionary; of several percentiles the finest of that size is taken


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["layers", "models"])
    options.add_argument("text", type=Path, help="shared text that all models read")
    options.add_argument("--out", type=Path, required=True, help="folder for the dictionaries")
    options.add_argument("--source", type=Path, help="text to build on (default: the packaged text)")
    options.add_argument("--models", default="smollm2-135m-instruct,gemma-3-270m,qwen2.5-coder-0.5b-instruct")
    options.add_argument("--layers", default="0,5,10,15,20,25,28", help="of the first model")
    options.add_argument("--depth", type=float, default=1 / 2, help="of the dictionaries' layers, as a share of blocks")
    options.add_argument("--percentiles", default="1,2,4,8")
    options.add_argument("--tokens", type=int, default=60_000, help="of a build")
    options.add_argument("--compared", type=int, default=15_000, help="tokens of the shared text")
    options.add_argument("--batch", type=int, default=16_384, help="activations of a calibration batch")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--result", type=Path)
    given = options.parse_args()
    begun = time.monotonic()
    names = given.models.split(",")
    loaded = [load_model(name, dtype="bfloat16") for name in (names[:1] if given.what == "layers" else names)]
    found = record(f"spaces {given.what}", sys.argv[1:], loaded[0].info, given.seed, 0, study="spaces")
    found |= layers(given, loaded[0]) if given.what == "layers" else models(given, loaded)
    found["minutes"] = round((time.monotonic() - begun) / 60, 1)
    result = given.result or RESULTS / f"{given.what}.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    write_new(result, to_json(found))


def layers(given: argparse.Namespace, loaded: LoadedModel) -> dict:
    """One dictionary of one layer in the others, and in a model of random weights."""
    a = built(given, loaded)
    rows = []
    for layer in map(int, given.layers.split(",")):
        rows.append({"block": layer, **elsewhere(given, a, loaded, loaded, f"resid_post.{layer}")})
    rows.append({"block": None, **elsewhere(given, a, loaded, untrained(loaded, given.seed), a.config.site.name)})
    return {"source": described(a), "rows": rows}


def models(given: argparse.Namespace, loaded: list[LoadedModel]) -> dict:
    """One layer of several models: every dictionary in every other model, and round trips."""
    built_in = [built(given, each) for each in loaded]
    rows, trips = [], []
    for i, j in permutations(range(len(loaded)), 2):
        a, b = built_in[i], built_in[j]
        rows.append({"to": described(b), **elsewhere(given, a, loaded[i], loaded[j], b.config.site.name)})
    for a, one in zip(built_in, loaded, strict=True):
        bare = untrained(one, given.seed)
        rows.append({"to": None, **elsewhere(given, a, one, bare, a.config.site.name)})
    for i, j in combinations(range(len(loaded)), 2):
        trip = ep.roundtrip(
            built_in[i],
            built_in[j],
            text=given.text,
            model_a=loaded[i],
            model_b=loaded[j],
            max_tokens=given.compared,
            seed=given.seed,
        )
        trips.append(trip.summary())
    return {"rows": rows, "trips": trips}


def elsewhere(given: argparse.Namespace, a: StoredDictionary, here: LoadedModel, there: LoadedModel, site: str) -> dict:
    """A dictionary's regions at another place: structure beside its permutations, and drift where widths agree."""
    out = given.out / f"{a.config.model.id}-in-{there.info.id}"
    folder = out / site / a.path.name
    b = load(folder) if folder.exists() else ep.transport(a, there, out, site=site, source_model=here)
    tokens = common_tokens(Place.of(a, here), Place.of(b, there), given.text, max_tokens=given.compared)
    same_width = a.d_model == b.d_model
    return {
        "a": described(a),
        "tokens": len(tokens),
        "not_aligned": tokens.read - len(tokens),
        "structure": ep.structure(a, b, tokens).as_json(),
        "drift": ep.drift(a, b).summary() if same_width else None,
    }


def built(given: argparse.Namespace, loaded: LoadedModel) -> StoredDictionary:
    """A layer's dictionary at the finest percentile that has the size wanted."""
    site = f"resid_post.{int(loaded.info.n_layers * given.depth)}"
    percentiles = sorted(map(float, given.percentiles.split(",")))
    ep.build(
        loaded,
        given.source,
        out=given.out / loaded.info.id,
        sites=site,
        percentiles=percentiles,
        max_tokens=given.tokens,
        calibration_batch=given.batch,
        seed=given.seed,
        resume=True,
    )
    found = [ep.load(given.out / loaded.info.id, site=site, percentile=p) for p in percentiles]
    fitting = [d for d in found if SIZE[0] <= d.k <= SIZE[1]]
    if not fitting:
        raise EPError(
            f"no percentile of {given.percentiles} gives {SIZE[0]} to {SIZE[1]} regions, but {[d.k for d in found]}"
        )
    return fitting[0]


def untrained(loaded: LoadedModel, seed: int) -> LoadedModel:
    """The architecture with random weights, as its library begins training with."""
    torch.manual_seed(seed)
    model = type(loaded.model)(loaded.model.config).to(loaded.model.dtype).eval()
    model.name_or_path = "untrained"
    return load_model(model, tokenizer=loaded.tokenizer)


def described(dictionary: StoredDictionary) -> dict:
    """Which dictionary it is."""
    config = dictionary.config
    return {
        "model": config.model.id,
        "site": config.site.name,
        "percentile": config.calibration.percentile,
        "threshold": dictionary.threshold,
        "k": dictionary.k,
    }


if __name__ == "__main__":
    main()
