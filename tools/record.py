"""Record what pages show of a build: `python tools/record.py DIR` writes docs/results/smollm2.json.

DIR is the folder of `ep build --max-tokens 120_000 --keep-activations --out DIR`: clustering is timed on what it kept.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import exemplar_partitioning as ep
from exemplar_partitioning.files import to_json
from exemplar_partitioning.folder.interest import SINGLE_WORD
from exemplar_partitioning.folder.listing import find

RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "smollm2.json"
LISTED = ["--percentile", "4", "--top", "8"]
REGION = ["--percentile", "2", "--top", "3", "--region", "REGION"]  # the one with so many members
RANK = 220


def record(root: Path) -> dict:
    """Everything a reader is shown of the build in `root`, as plain values."""
    build = json.loads((root / "build.json").read_bytes())
    dictionaries = []
    for folder in find(root):
        d = ep.load(folder)
        arrivals = np.sort(d.regions.column("arrivals").to_numpy())[::-1]
        ranks = np.unique(np.geomspace(1, len(arrivals), 60).astype(int))
        config = d.config.model_dump(mode="json")
        dictionaries.append(
            {name: config[name] for name in ("site", "calibration", "build", "text", "versions")}
            | {"model": config["model"]["id"], "dtype": config["model"]["dtype"], "content_id": d.content_id}
            | measured(d, root)
            | {"arrivals_by_rank": [[int(rank), int(arrivals[rank - 1])] for rank in ranks]}
        )
    known = ep.load(root, percentile=2).annotation.regions["members"].to_numpy()
    region = [part.replace("REGION", str(np.argsort(-known, kind="stable")[RANK])) for part in REGION]
    return {
        "command": f"ep build --max-tokens {build['settings']['max_tokens']:_} --out {root.name}",
        "tokens": build["tokens"],
        "seconds": build["seconds_of_last_process"],
        "threads": build["settings"]["threads"],
        "dictionaries": dictionaries,
        "listing": shown(root, LISTED),
        "region": shown(root, region),
    }


def measured(d: ep.StoredDictionary, root: Path) -> dict:
    """What a choice of percentile costs and gives: bytes, processor seconds of clustering, one-word regions."""
    clustering = ep.LeaderClustering(d.center, d.threshold)
    began = time.process_time()
    file = root / "activations" / f"{d.config.site.name}.f32"
    clustering.add(np.memmap(file, np.float32, mode="r").reshape(-1, d.d_model))
    seconds = time.process_time() - began
    return {
        "bytes_of_exemplars": d.exemplars.numpy().nbytes,
        "seconds_to_cluster": seconds,
        "one_word": float(np.nanmean(d.annotation.interest.identity >= SINGLE_WORD)),
    }


def shown(root: Path, options: list[str]) -> str:
    """What `ep show` prints, with its command line."""
    done = subprocess.run(
        [sys.executable, "-m", "exemplar_partitioning", "show", root.name, *options],
        capture_output=True,
        text=True,
        check=True,
        cwd=root.parent,
        env=os.environ | {"COLUMNS": "110"},
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return "\n".join([f"$ ep show {root.name} {' '.join(options)}", *lines]).strip()


if __name__ == "__main__":
    RESULT.write_bytes(to_json(record(Path(sys.argv[1]).resolve())))
