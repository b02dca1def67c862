"""Our readers of other people's autoencoders encode as SAELens and sparsify themselves do."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("sae_lens", reason="only `make test-peers` has SAELens and sparsify")

from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.loading import pretrained_sae_loaders as loaders
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

from exemplar_partitioning.exchange.from_sae import load_sae

D, F = 32, 200
SHAPE = {"d_in": D, "d_sae": F, "device": "cpu", "dtype": "float32"}
CLASSES = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "standard, not centred": (StandardSAE, StandardSAEConfig, {"apply_b_dec_to_input": False}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 7}),
    "topk, rescaled": (TopKSAE, TopKSAEConfig, {"k": 7, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
}


def randomised(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def activations():
    return 3 * torch.randn(500, D, generator=torch.Generator().manual_seed(1))


def agree(ours, theirs):
    x_nd = activations()
    features_nf = theirs.encode(x_nd)
    torch.testing.assert_close(ours.encode(x_nd), features_nf, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(ours.encode(x_nd)), theirs.decode(features_nf), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
@torch.no_grad()
def test_saelens(tmp_path, name):
    sae_class, config_class, options = CLASSES[name]
    sae = randomised(sae_class(config_class(**SHAPE, **options)))
    sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    sae.save_model(tmp_path)
    ours = load_sae(tmp_path)
    agree(ours, SAE.load_from_disk(str(tmp_path)))
    assert ours.site == "blocks.3.hook_resid_post"


@torch.no_grad()
def test_a_batchtopk_checkpoint_is_what_saelens_makes_of_it_for_inference(tmp_path):
    training = randomised(BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**SHAPE, k=7)))
    training.topk_threshold = torch.tensor(1.5, dtype=torch.double)
    training.save_model(tmp_path / "training")
    training.save_inference_model(tmp_path / "inference")
    theirs = SAE.load_from_disk(str(tmp_path / "inference"))
    agree(load_sae(tmp_path / "inference"), theirs)
    agree(load_sae(tmp_path / "training"), theirs)


@torch.no_grad()
def test_sparsify(tmp_path):
    coder = randomised(SparseCoder(D, SparseCoderConfig(num_latents=F, k=7)))
    coder.save_to_disk(tmp_path / "layers.3")
    ours, x_nd = load_sae(tmp_path / "layers.3"), activations()
    values, indices, _ = SparseCoder.load_from_disk(tmp_path / "layers.3").encode(x_nd)
    expected_nf = torch.zeros(len(x_nd), F).scatter_(1, indices, values)
    torch.testing.assert_close(ours.encode(x_nd), expected_nf, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(expected_nf), coder.decode(values, indices), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("generation", [1, 2])
@torch.no_grad()
def test_gemma_scope(tmp_path, monkeypatch, generation):
    """Files as on the hub, given to SAELens' own loader in place of a download."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"w_enc": (D, F), "b_enc": (F,), "w_dec": (F, D), "b_dec": (D,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["threshold"] = torch.rand(F, generator=generator)
    monkeypatch.setattr(
        loaders,
        "hf_hub_download",
        lambda *args, filename=None, **_: str(tmp_path / (filename or args[1].split("/")[-1])),
    )
    if generation == 1:
        renamed = {name.replace("w_", "W_"): tensor.numpy() for name, tensor in tensors.items()}
        np.savez(tmp_path / "params.npz", **renamed)
        config, state, _ = loaders.gemma_2_sae_huggingface_loader(
            "google/gemma-scope-2b-pt-res", "layer_3/width_16k/average_l0_59"
        )
    else:
        save_file(tensors, tmp_path / "params.safetensors")
        described = {
            "architecture": "jump_relu",
            "model_name": "gemma-3-270m",
            "hf_hook_point_in": "model.layers.3.output",
        }
        (tmp_path / "config.json").write_text(json.dumps(described))
        monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)
        config, state, _ = loaders.gemma_3_sae_huggingface_loader(
            "google/gemma-scope-2-270m-pt", "resid_post/layer_3_width_16k_l0_medium"
        )
    theirs = SAE.load_from_disk(tmp_path, converter=lambda *_, **__: (config | {"d_in": D, "d_sae": F}, state))
    ours = load_sae(tmp_path)
    assert not ours.centred and not theirs.cfg.apply_b_dec_to_input
    agree(ours, theirs)
