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
    alone = ~tied(dictionary, activations, basis, steps=12)
    assert int((~alone).sum()) < 10  # of 2,000
    # what rounding makes of an activation that an atom or two explain whole is no code
    real = found.weights.abs().sum(dim=1, keepdim=True) * 1e-5
    assert bool(((theirs > real) == (ours > real))[alone].all())
    scale = found.weights.max()
    torch.testing.assert_close(ours[alone] / scale, theirs[alone] / scale, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.reconstruct()[alone], sae.decode(theirs)[alone], atol=1e-3, rtol=1e-4)


def tied(dictionary, activations, basis, *, steps):
    """Rows where at some step two directions are as good as each other, but for rounding."""
    w_kd = torch.as_tensor(dictionary.exemplars if basis == "exemplar" else dictionary.mean_directions).double()
    left_nd = (activations - dictionary.center).double()
    length_n, tied_n = left_nd.norm(dim=1), torch.zeros(len(left_nd), dtype=torch.bool)
    for _ in range(steps):
        top = (left_nd @ w_kd.T).topk(2, dim=1)
        tied_n |= (top.values[:, 0] - top.values[:, 1] < 3e-6 * length_n) & (top.values[:, 0] > 1e-5 * length_n)
        left_nd -= top.values[:, :1] * w_kd[top.indices[:, 0]]
    return tied_n
