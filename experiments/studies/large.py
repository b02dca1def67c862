"""One-to-one matching of two dictionaries of some 20,000 regions: time, memory, and how far from the optimum it may be.

    python -m experiments.studies.large --out dictionaries/large [--percentile 0.2] [--tokens 200000]

Two orders of the packaged text, each a dictionary of its own at a fine percentile.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

from experiments.studies.finetune import RESULTS

import exemplar_partitioning as ep
from ep_experiments.record import record
from exemplar_partitioning.compare.neighbours import one_to_one
from exemplar_partitioning.files import to_json, write_new
from exemplar_partitioning.models.load import load_model


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--source", type=Path, help="text to build on (default: the packaged text)")
    options.add_argument("--out", type=Path, required=True, help="folder for the dictionaries")
    options.add_argument("--percentile", type=float, default=0.2)
    options.add_argument("--tokens", type=int, default=200_000, help="of each build")
    options.add_argument("--batch", type=int, default=16_384, help="activations of a calibration batch")
    options.add_argument("--result", type=Path, default=RESULTS / "large.json")
    given = options.parse_args()
    begun = time.monotonic()
    loaded = load_model(given.model, dtype="bfloat16")
    for seed in (0, 1):
        ep.build(
            loaded,
            given.source,
            out=given.out / f"seed-{seed}",
            percentiles=[given.percentile],
            max_tokens=given.tokens,
            calibration_batch=given.batch,
            seed=seed,
            resume=True,
        )
    a, b = (ep.load(given.out / f"seed-{seed}", percentile=given.percentile) for seed in (0, 1))
    held = peak()
    started = time.monotonic()
    pairs = one_to_one(a.exemplars.numpy(), b.exemplars.numpy())
    pairing, grown = time.monotonic() - started, peak() - held
    started = time.monotonic()
    summary = ep.match(a, b).summary()
    found = record("large", sys.argv[1:], loaded.info, 0, time.monotonic() - begun, study="large")
    kept = ("regions", "nulls", "persisted", "dropped", "introduced", "one_to_one")
    found |= {
        "percentile": given.percentile,
        "tokens": given.tokens,
        "pairing": {"seconds": round(pairing, 1), "more_memory_gb": round(grown, 2), "gap": pairs.gap},
        "matching_seconds": round(time.monotonic() - started, 1),
        "peak_memory_gb": round(peak(), 2),
        "summary": {name: summary[name] for name in kept},
    }
    given.result.parent.mkdir(parents=True, exist_ok=True)
    write_new(given.result, to_json(found))


def peak() -> float:
    """Largest resident memory so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
