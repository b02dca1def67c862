"""Autoencoders trained side by side have the losses of SAELens' own trainer, step by step."""

import pytest
import torch

pytest.importorskip("sae_lens", reason="only `make test-peers` has SAELens")

import sae_lens
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from ep_experiments.reconstruction.autoencoders import Recipe, Training

WIDTH, FEATURES, BATCH, STEPS, K, RATE, PENALTY = 24, 96, 64, 120, 4, 3e-3, 0.3


def theirs(kind, training, batches):
    common = {"d_in": WIDTH, "d_sae": FEATURES, "normalize_activations": "expected_average_only_in"}
    torch.manual_seed(5)
    if kind == "topk":
        sae = sae_lens.TopKTrainingSAE(sae_lens.TopKTrainingSAEConfig(k=K, **common))
    elif kind == "batchtopk":
        sae = sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(k=K, **common))
    else:
        config = sae_lens.JumpReLUTrainingSAEConfig(
            jumprelu_sparsity_loss_mode="tanh",
            jumprelu_bandwidth=2.0,
            jumprelu_init_threshold=0.1,
            jumprelu_ste_to_input=True,
            pre_act_loss_coefficient=3e-6,
            l0_coefficient=PENALTY,
            l0_warm_up_steps=STEPS // 2,
            **common,
        )
        sae = sae_lens.JumpReLUTrainingSAE(config)
    config = SAETrainerConfig(
        total_training_samples=BATCH * STEPS,
        train_batch_size_samples=BATCH,
        lr=RATE,
        lr_end=RATE,
        lr_warm_up_steps=STEPS // 20,
        lr_decay_steps=STEPS // 5,
        dead_feature_window=STEPS // 10,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(config, sae, iter(batches))
    trainer.activation_scaler.scaling_factor = training.scale
    with torch.no_grad():
        sae.b_dec.copy_(training.b_dec[0, 0])
    return trainer


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_losses(kind):
    torch.manual_seed(9)
    x = torch.relu(torch.randn(BATCH * STEPS, 200) - 2) @ torch.randn(200, WIDTH) + 3 * torch.randn(WIDTH)
    recipe = Recipe(kind, RATE, k=K, l0_coefficient=PENALTY, seed=5)
    training = Training([recipe], x, FEATURES, STEPS)
    trainer = theirs(kind, training, x.split(BATCH))
    near = (
        1e-5 if kind != "jumprelu" else 2e-3
    )  # a JumpReLU's loss jumps where rounding puts a value across a threshold
    for batch in x.split(BATCH):
        expected = float(trainer.step(batch).loss)
        trainer.n_training_steps += 1
        assert float(training.step(batch[None])[0]) == pytest.approx(expected, rel=near)
