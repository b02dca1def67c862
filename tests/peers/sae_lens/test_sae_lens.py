"""SAELens loads our export and encodes as we do."""

import pytest
import torch

pytest.importorskip("sae_lens", reason="only `make test-peers` has SAELens")

from sae_lens import SAE
from safetensors.torch import load_file

from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.export import export
from exemplar_partitioning.models.architecture import Architecture


@pytest.fixture(scope="module")
def sae(dictionary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "sae"
    how = export(dictionary, "saelens", folder)
    names = {}
    exec(how, names)  # what we tell people to type
    return names["sae"]


def test_encode_and_decode_agree_and_the_region_of_every_row(dictionary, activations, sae):
    ours = dictionary.encode(activations)
    theirs = sae.encode(activations)
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=1e-6)
    assert torch.equal(theirs.argmax(dim=1), dictionary.assign(activations)[0])
    assert (theirs > 0).sum(dim=1).max() == 1
    torch.testing.assert_close(sae.decode(theirs), dictionary.decode(ours), atol=1e-5, rtol=1e-6)


def test_shapes_with_positions(activations, sae):
    assert torch.equal(sae.encode(activations.view(20, 100, -1)).view(2000, -1), sae.encode(activations))


def test_what_it_is_stays_known(dictionary, sae):
    metadata = sae.cfg.metadata
    assert sae.cfg.architecture() == "topk" and sae.cfg.k == 1
    assert metadata.hook_name == "blocks.1.hook_resid_post"
    assert metadata.ep_content_id == dictionary.content_id
    assert metadata.ep_threshold == dictionary.threshold
    assert metadata.context_size == 129


def test_sparsity_is_read(dictionary, sae, tmp_path):
    export(dictionary, "saelens", tmp_path / "sae")
    (frequency_k,) = load_file(tmp_path / "sae" / "sparsity.safetensors").values()
    assert frequency_k.shape == (sae.cfg.d_sae,)
    assert frequency_k.max() <= 0 and frequency_k.min() == pytest.approx(-10)


def test_norms_cannot_be_folded_and_need_not_be(sae):
    with pytest.raises(NotImplementedError):
        sae.fold_W_dec_norm()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(sae.cfg.d_sae))


def test_it_saves_what_it_loaded(sae, tmp_path):
    sae.save_model(tmp_path)
    again = SAE.load_from_disk(str(tmp_path))
    for name, tensor in sae.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_an_old_hooked_transformer_is_refused_with_what_to_do():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    shape = {"n_layers": 1, "d_model": 8, "n_ctx": 8, "d_head": 4, "d_vocab": 11, "act_fn": "relu"}
    with pytest.raises(EPError, match="boot_transformers"):
        Architecture.of(HookedTransformer(HookedTransformerConfig(**shape)))
