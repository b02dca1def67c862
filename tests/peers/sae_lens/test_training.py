"""experiments/studies/train_saes.py: SAELens's own trainer on activations that we extracted, and what it saves."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("sae_lens", reason="only `make test-peers` has SAELens")

from experiments.studies import train_saes
from sae_lens import SAE

from ep_experiments.streamed import read_streamed
from exemplar_partitioning.exchange.from_sae import load_sae
from exemplar_partitioning.files import to_json

D, N = 16, 24_000


@pytest.fixture
def activations(tmp_path):
    """Rows made of 3 of 24 directions each, far from the origin, as `ep experiment extract` would write them."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((24, D))
    weights = np.stack([rng.permutation(24) < 3 for _ in range(N)]) * rng.uniform(1, 2, (N, 24))
    x_nd = torch.from_numpy(20 + weights @ directions).float()
    folder = tmp_path / "x"
    folder.mkdir()
    x_nd.numpy().tofile(folder / "x.float32")
    np.zeros(N, np.int32).tofile(folder / "token.int32")
    np.repeat(np.arange(N // 100, dtype=np.uint32), 100).tofile(folder / "document.uint32")
    model = {"id": "none", "dtype": "float32", "fingerprint": "0"}
    windows = {"context_size": 128, "prepend_bos": True}
    record = {"model": model, "windows": windows, "d_model": D, "rows": N, "text": "directions", "seconds": 1.0}
    site = {"site": "resid_post.1", "transformer_lens": "blocks.1.hook_resid_post"}
    (folder / "stream.json").write_bytes(to_json(record | site))
    return folder


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_trained_autoencoders_explain_held_out_activations(activations, tmp_path, monkeypatch, kind):
    command = f"train_saes {activations} --out {tmp_path} --kinds {kind} --tokens 0.02M --width 64 --k 3 --batch 64"
    monkeypatch.setattr("sys.argv", [*command.split(), "--lr", "3e-3"])
    train_saes.main()
    folder = tmp_path / f"{kind}-0.02M"
    record = json.loads((folder / "training.json").read_bytes())
    assert record["trained_on"] == 312 * 64 <= record["tokens"] == 20_000
    assert record["quality"]["explained_variance"] > 0.5 and record["difference"] <= 1e-6
    ours, theirs = load_sae(folder), SAE.load_from_disk(str(folder))
    assert ours.kind == kind and ours.site == "blocks.1.hook_resid_post"
    x_nd = read_streamed(activations).x_nd[:50].float()
    with torch.no_grad():
        torch.testing.assert_close(ours.decode(ours.encode(x_nd)), theirs(x_nd), atol=1e-3, rtol=1e-5)
    if kind == "topk":
        assert record["quality"]["l0"] <= 3
