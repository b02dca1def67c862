"""Train autoencoders of SAELens on activations that `ep experiment extract` kept, beside dictionaries of the same.

    make .venvs/sae_lens/.ready
    .venvs/sae_lens/bin/python -m experiments.studies.train_saes ACTIVATIONS --out DIR [--tokens 0.1M,1M]

SAELens's own trainer, on one pass over the first so many activations in random order; nothing is repeated. The
decoder's bias begins at their mean, since the few steps there are would be spent on finding it, and the factor that
SAELens scales activations by is such that their mean distance from it is the square root of their width. Each is saved
as SAELens saves it, in DIR/<kind>-<tokens>, with training.json beside.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import (
    SAE,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer

from ep_experiments.streamed import Streamed, read_streamed
from ep_experiments.tokens.budgets import autoencoder_flops, autoencoder_quality
from exemplar_partitioning.exchange.from_sae import load_sae
from exemplar_partitioning.files import to_json

SEED = 0
SAMPLE = 40  # batches whose lengths and mean are looked at before training
CHECKED = 1024  # activations on which our reader is compared with SAELens


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("activations", type=Path)
    options.add_argument("--out", type=Path, required=True, help="folder for the autoencoders")
    options.add_argument("--kinds", default="topk,jumprelu")
    options.add_argument("--tokens", default="0.1M,1M", help="activations to train on, in millions")
    options.add_argument("--width", type=int, default=3072, help="features")
    options.add_argument("--k", type=int, default=32, help="features active at once")
    options.add_argument("--batch", type=int, default=512)
    options.add_argument("--lr", type=float, default=1e-3)
    options.add_argument("--l0-coefficient", type=float, default=1.0, help="of a JumpReLU's sparsity loss")
    options.add_argument("--held-out", type=int, default=30_000, help="activations to measure on")
    given = options.parse_args()
    streamed = read_streamed(given.activations)
    for tokens in given.tokens.split(","):
        for kind in given.kinds.split(","):
            name = f"{kind}-{tokens}"
            if (given.out / name / "training.json").is_file():
                continue
            result = one(streamed, kind, round(float(tokens.removesuffix("M")) * 1e6), given, given.out / name)
            (given.out / name / "training.json").write_bytes(to_json(result))
            sys.stdout.write(f"{name} {result['quality']} {result['seconds']} s\n")


def one(streamed: Streamed, kind: str, tokens: int, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train one, save it, read it back and measure it."""
    rows = streamed.training(tokens)
    begun = time.process_time()
    sae, steps = trained(streamed, rows, kind, given)
    seconds = time.process_time() - begun
    sae.save_inference_model(folder)
    held_out = streamed.rows(np.flatnonzero(streamed.held_out)[: given.held_out])
    ours = load_sae(folder)
    return {
        "name": folder.name,
        "kind": kind,
        "width": given.width,
        "k": given.k if kind == "topk" else None,
        "tokens": tokens,
        "trained_on": steps * given.batch,
        "steps": steps,
        "batch": given.batch,
        "lr": given.lr,
        "l0_coefficient": given.l0_coefficient if kind == "jumprelu" else None,
        "seed": SEED,
        "seconds": round(seconds, 1),
        "flops": autoencoder_flops(steps * given.batch, streamed.x_nd.shape[1], given.width),
        "threads": torch.get_num_threads(),
        "quality": autoencoder_quality(ours, held_out),
        "difference": difference(folder, held_out[:CHECKED]),
        "model": streamed.record["model"]["id"],
        "dtype": streamed.record["model"]["dtype"],
        "site": streamed.record["site"],
        "text": Path(streamed.record["text"]).name,
        "versions": {name: version(name) for name in ("sae-lens", "torch", "numpy")},
    }


def trained(streamed: Streamed, rows: np.ndarray, kind: str, given: argparse.Namespace) -> tuple[TrainingSAE[Any], int]:
    """An autoencoder after one pass over some rows, and its steps."""
    torch.manual_seed(SEED)
    steps = len(rows) // given.batch
    sae = untrained(streamed, kind, steps, given)
    config = SAETrainerConfig(
        total_training_samples=steps * given.batch,
        train_batch_size_samples=given.batch,
        lr=given.lr,
        lr_end=given.lr,
        lr_warm_up_steps=max(steps // 20, 1),
        lr_decay_steps=steps // 5,
        dead_feature_window=steps // 10,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(config, sae, batches(streamed, rows, given.batch))
    sample_nd = torch.cat(list(itertools.islice(batches(streamed, rows, given.batch), SAMPLE)))
    mean_d = sample_nd.mean(dim=0)
    trainer.activation_scaler.scaling_factor = float(sae.cfg.d_in**0.5 / (sample_nd - mean_d).norm(dim=1).mean())
    with torch.no_grad():
        sae.b_dec.copy_(trainer.activation_scaler(mean_d))
    return trainer.fit(), steps


def untrained(streamed: Streamed, kind: str, steps: int, given: argparse.Namespace) -> TrainingSAE[Any]:
    """As SAELens's documentation sets them up."""
    record = streamed.record
    common = {
        "d_in": streamed.x_nd.shape[1],
        "d_sae": given.width,
        "normalize_activations": "expected_average_only_in",
        "metadata": SAEMetadata(
            model_name=record["model"]["id"],
            hook_name=record["transformer_lens"],
            context_size=record["windows"]["context_size"],
            prepend_bos=record["windows"]["prepend_bos"],
        ),
    }
    if kind == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=given.k, **common))
    return JumpReLUTrainingSAE(
        JumpReLUTrainingSAEConfig(
            jumprelu_sparsity_loss_mode="tanh",
            jumprelu_bandwidth=2.0,
            jumprelu_init_threshold=0.1,
            jumprelu_ste_to_input=True,
            pre_act_loss_coefficient=3e-6,
            l0_coefficient=given.l0_coefficient,
            l0_warm_up_steps=steps // 2,
            **common,
        )
    )


def batches(streamed: Streamed, rows: np.ndarray, size: int) -> Iterator[torch.Tensor]:
    """The rows in random order, each once."""
    order = np.random.default_rng(SEED).permutation(rows)
    for start in range(0, len(rows) - size + 1, size):
        yield streamed.rows(order[start : start + size])


def difference(folder: Path, x_nd: torch.Tensor) -> float:
    """How far our reader's features are from SAELens's, as a share of the largest."""
    with torch.no_grad():
        theirs_nf = SAE.load_from_disk(str(folder)).encode(x_nd)
    gap = float((load_sae(folder).encode(x_nd) - theirs_nf).abs().max() / theirs_nf.abs().max().clamp(min=1e-9))
    if not gap <= 1e-6:
        raise SystemExit(f"our reader and SAELens differ by {gap:.1e} on {folder}")
    return float(f"{gap:.1e}")


if __name__ == "__main__":
    main()
