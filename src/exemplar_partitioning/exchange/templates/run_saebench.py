"""Sparse probing with SAEBench on the dictionary in this folder; `load()` gives the object its other evaluations take.

In float32: in bfloat16 about one token in a hundred gets another region.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).resolve().parent


def load(device: str = "cpu") -> Any:
    """The dictionary as a SAELens object."""
    return SAE.load_from_disk(str(HERE), device=device)


def main() -> None:
    """Results go to `results` in this folder, activations to `artifacts`."""
    from sae_bench.evals.sparse_probing import main as probing  # pyright: ignore[reportMissingImports]
    from sae_bench.evals.sparse_probing.eval_config import (  # pyright: ignore[reportMissingImports]
        SparseProbingEvalConfig,
    )

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sae = load(device)
    config = SparseProbingEvalConfig(model_name=sae.cfg.metadata.model_name, llm_dtype="float32", llm_batch_size=32)
    results, artifacts = str(HERE / "results"), str(HERE / "artifacts")
    probing.run_eval(config, [(HERE.name, sae)], device, results, artifacts_path=artifacts)


if __name__ == "__main__":
    main()
