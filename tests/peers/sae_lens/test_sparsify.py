"""sparsify loads our export and encodes as we do."""

import pytest
import torch

pytest.importorskip("sparsify", reason="only `make test-peers` has sparsify")

from sparsify import SparseCoder

from exemplar_partitioning.exchange.export import export


@pytest.fixture(scope="module")
def folder(dictionary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "layers.1"
    export(dictionary, "sparsify", folder)
    return folder


def test_encode_and_decode_agree_and_the_region_of_every_row(dictionary, activations, folder):
    coder = SparseCoder.load_from_disk(folder)
    ours = dictionary.encode(activations)
    with torch.no_grad():
        values_n1, indices_n1, _ = coder.encode(activations)
        decoded_nd = coder.decode(values_n1, indices_n1)
    assert torch.equal(indices_n1[:, 0], dictionary.assign(activations)[0])
    torch.testing.assert_close(values_n1[:, 0], ours.amax(dim=1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(decoded_nd, dictionary.decode(ours), atol=1e-5, rtol=1e-6)


def test_a_folder_of_several_sites_is_read_by_hook_point(folder):
    assert list(SparseCoder.load_many(str(folder.parent), local=True)) == ["layers.1"]
