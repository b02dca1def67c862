"""SAELens reads our export as its own matching-pursuit autoencoder and encodes as we decompose."""

import pytest
import torch

pytest.importorskip("sae_lens", reason="only `make test-peers` has SAELens")

from sae_lens import SAE
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE

from exemplar_partitioning.exchange.export import export


@pytest.mark.parametrize("basis", ["exemplar", "mean"])
@torch.no_grad()
def test_their_encode_is_our_decomposition(dictionary, activations, tmp_path, basis):
    export(dictionary, "saelens", tmp_path / "out", readout="pursuit", k=12, basis=basis)
    sae = SAE.load_from_disk(str(tmp_path / "out"))
    assert isinstance(sae, MatchingPursuitSAE)
    theirs = sae.encode(activations)
    found = dictionary.decompose(activations, 12, method="mp", basis=basis)
    ours = found.dense().to_dense()
    # what rounding makes of an activation that an atom or two explain whole is no code
    real = found.weights.abs().sum(dim=1, keepdim=True) * 1e-5
    same = ((theirs > real) == (ours > real)).all(dim=1)
    assert float(same.float().mean()) > 0.999
    scale = found.weights.max()
    torch.testing.assert_close(ours[same] / scale, theirs[same] / scale, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.reconstruct(), sae.decode(theirs), atol=1e-3, rtol=1e-4)
