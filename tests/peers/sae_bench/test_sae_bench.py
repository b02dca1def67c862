"""SAEBench takes our export where it takes an autoencoder, and runs its core evaluation on it."""

import runpy

import pytest
import torch

pytest.importorskip("sae_bench", reason="only `make test-peers` has SAEBench")

from datasets import Dataset
from sae_bench.evals.core import main as core
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.sae_bench_utils.general_utils import check_decoder_norms, load_and_format_sae
from sae_lens import SAE
from sae_lens.training.activations_store import ActivationsStore
from transformer_lens import HookedTransformer, HookedTransformerConfig

from exemplar_partitioning.exchange.export import export


@pytest.fixture(scope="module")
def sae(dictionary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "bench"
    export(dictionary, "saebench", folder)
    loaded = runpy.run_path(str(folder / "run_saebench.py"))["load"]()
    _, formatted, _ = load_and_format_sae("ep", loaded, "cpu")
    return formatted


def test_the_object_has_what_the_evaluations_use(dictionary, activations, sae):
    assert check_decoder_norms(sae.W_dec.data)
    assert sae.cfg.hook_layer == 1 and sae.cfg.hook_name == "blocks.1.hook_resid_post"
    assert sae.cfg.model_name == dictionary.config.model.id
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (dictionary.d_model, dictionary.k)
    torch.testing.assert_close(sae.encode(activations), dictionary.encode(activations), atol=1e-6, rtol=1e-6)
    assert torch.equal(sae.encode(activations).argmax(dim=1), dictionary.assign(activations)[0])


def test_weight_metrics(sae):
    metrics = core.get_featurewise_weight_based_metrics(sae)
    assert len(metrics["encoder_decoder_cosine_sim"]) == sae.cfg.d_sae
    assert min(metrics["encoder_decoder_cosine_sim"]) > 0.9999


@pytest.fixture(scope="module")
def pursuit(dictionary, tmp_path_factory):
    """Read by SAELens, as SAEBench reads any autoencoder of it."""
    folder = tmp_path_factory.mktemp("export") / "pursuit"
    export(dictionary, "saelens", folder, readout="pursuit", k=8)
    return load_and_format_sae("ep", SAE.load_from_disk(str(folder)), "cpu")[1]


@pytest.mark.parametrize(("name", "l0"), [("sae", 1), ("pursuit", 8)])
def test_core_evaluation_on_a_tiny_model(dictionary, name, l0, request):
    sae = request.getfixturevalue(name)
    shape = {"n_layers": 2, "d_model": dictionary.d_model, "n_ctx": 129, "d_head": 16, "d_vocab": 50, "act_fn": "gelu"}
    model = HookedTransformer(HookedTransformerConfig(**shape, seed=0))
    tokens = torch.randint(0, 50, (200, 129), generator=torch.Generator().manual_seed(0))
    store = ActivationsStore(
        model=model,
        dataset=Dataset.from_dict({"tokens": tokens.tolist()}),
        streaming=False,
        hook_name=sae.cfg.hook_name,
        hook_head_index=None,
        context_size=129,
        d_in=dictionary.d_model,
        n_batches_in_buffer=2,
        total_training_tokens=10_000,
        store_batch_size_prompts=4,
        train_batch_size_tokens=256,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        disable_concat_sequences=False,
    )
    config = CoreEvalConfig(
        batch_size_prompts=4,
        n_eval_reconstruction_batches=2,
        n_eval_sparsity_variance_batches=2,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    metrics, _ = core.run_evals(sae, store, model, config)
    assert 0 < metrics["sparsity"]["l0"] <= l0
    assert "kl_div_score" in metrics["model_behavior_preservation"]
