"""Evaluation on a real tiny model: what is spliced, what is counted, and what must come out at the ends."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import exemplar_partitioning as ep
from conftest import sentences
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.evaluating.held_out import held_out
from exemplar_partitioning.evaluating.result import Bootstrap
from exemplar_partitioning.evaluating.splice import Spliced


@pytest.fixture(scope="module")
def built(tiny_folder, text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    options = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 4000}
    ep.build(str(tiny_folder), [text_file], out=folder / "out", sites="resid_post.1", percentiles=[10], **options)
    fresh = folder / "fresh.jsonl"
    fresh.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(400, seed=77)))
    return ep.load(folder / "out"), ep.load_model(str(tiny_folder)), fresh


def test_rebuilt_whole_changes_nothing_and_less_is_worse(built):
    d, loaded, fresh = built
    found = ep.evaluate(d, [fresh], model=loaded, ks=[1, 4, 16, d.d_model], max_tokens=1500)
    mine, null = ([row for row in found.rows if row.code == code] for code in ("exemplars", "random activations"))
    assert [row.k for row in mine] == [row.k for row in null] == [1, 4, 16, 24]
    for rows in (mine, null):
        fvu = [row.fvu.estimate for row in rows]
        assert fvu == sorted(fvu, reverse=True) and fvu[-1] < 0.15
        assert all(row.fvu.low <= row.fvu.estimate <= row.fvu.high for row in rows)
        assert all(0 < row.live <= 1 and row.l0 <= row.k and row.features == d.k for row in rows)
        kl = [row.kl for row in rows]
        assert kl[-1] < kl[0] / 3
    assert found.ce_zero > found.ce_clean
    assert 1400 < found.tokens <= 1500 and found.documents > 10


def test_splicing_the_activations_themselves_is_the_model_as_it_is(built):
    d, loaded, fresh = built
    text = held_out(d, loaded, [fresh], max_tokens=300)
    with torch.inference_mode():
        for passage in text.passages[:4]:
            ids = torch.from_numpy(passage.window.ids.astype(np.int64))
            expected = torch.nn.functional.cross_entropy(
                loaded.model(ids[None]).logits[0, 1:-1], ids[2:], reduction="sum"
            )
            spliced = Spliced(loaded, "resid_post.1", passage)
            assert passage.text_s.tolist() == list(range(1, len(ids)))  # all but the BOS
            assert spliced.ce() == pytest.approx(float(expected), rel=1e-5)
            ce, kl = spliced.with_rows(passage.x_sd)
            assert ce == pytest.approx(spliced.ce(), rel=1e-5) and abs(kl) < 1e-3
            ce, kl = spliced.with_rows(passage.x_sd.flip(0))
            assert kl > 1e-2


def test_nulls_and_evaluation_share_no_document(built):
    d, loaded, fresh = built
    text = held_out(d, loaded, [fresh], max_tokens=600)
    rows = {row.numpy().tobytes() for row in text.x_nd}
    assert len(text.pool_nd) >= 2 * d.k
    assert len(text.x_nd) == len(text.document_n) and text.document_n.max() + 1 == len(np.unique(text.document_n))
    first = {passage.window.document for passage in text.passages}
    again = held_out(d, loaded, [fresh], max_tokens=300)
    assert {passage.window.document for passage in again.passages} <= first
    assert len(rows & {row.numpy().tobytes() for row in text.pool_nd}) < len(rows) / 2  # same words may begin documents


def test_an_autoencoder_is_read_by_the_same_code(built, tmp_path):
    d, loaded, fresh = built
    generator = torch.Generator().manual_seed(0)
    w_dec = torch.nn.functional.normalize(torch.randn(60, 24, generator=generator), dim=1)
    weights = {"W_dec": w_dec, "W_enc": w_dec.T.contiguous(), "b_enc": torch.zeros(60), "b_dec": d.center}
    save_file(weights, tmp_path / "sae_weights.safetensors")
    config = {"architecture": "topk", "k": 6, "metadata": {"hook_name": "blocks.1.hook_resid_post"}}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    sae = ep.load_sae(tmp_path)
    found = ep.evaluate(d, [fresh], model=loaded, sae=sae, ks=[4], max_tokens=500, splice=False)
    codes = [row.code for row in found.rows]
    assert codes == ["exemplars", "random activations", "SAE", "SAE decoder"] and found.rows[2].k is None
    assert found.rows[2].l0 <= 6 and found.rows[2].ce is None and found.rows[3].features == 60
    stranger = dataclasses.replace(loaded, info=dataclasses.replace(loaded.info, weights="0" * 64))
    with pytest.raises(EPError, match="is not the model that"):
        ep.evaluate(d, [fresh], model=stranger)
    with pytest.raises(EPError, match="the same site"):
        ep.evaluate(d, [fresh], model=loaded, sae=dataclasses.replace(sae, site="blocks.2.hook_resid_post"))
    narrow = {name: getattr(sae, name)[..., :9] for name in ("W_dec", "b_dec")}
    with pytest.raises(EPError, match="width 9"):
        ep.evaluate(d, [fresh], model=loaded, sae=dataclasses.replace(sae, **narrow, W_enc=sae.W_enc[:9]))


def test_intervals_cover_what_documents_drawn_anew_give():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        below = rng.integers(5, 50, size=40).astype(float)
        above = below * rng.normal(0.5, 0.2, size=40)
        interval = Bootstrap(40, seed).ratio(above, below)
        covered += interval.low <= 0.5 <= interval.high
    assert 50 <= covered <= 60


def test_command_prints_draws_and_refuses(built, tiny_folder, tmp_path):
    d, loaded, fresh = built
    asked = ["evaluate", str(d.path), str(fresh), "-k", "1,4", "--max-tokens", "400", "--model", str(tiny_folder)]
    table = CliRunner().invoke(app, [*asked, "--figure", str(tmp_path / "curve.svg")], catch_exceptions=False)
    assert table.exit_code == 0 and "random activations" in table.output and "CE/zero" in table.output
    assert "<svg" in (tmp_path / "curve.svg").read_text()
    scope = tmp_path / "layer_1" / "width_48" / "average_l0_24"  # as Gemma Scope lays them out; it rebuilds exactly
    scope.mkdir(parents=True)
    both = np.concatenate([np.eye(24), -np.eye(24)]).astype(np.float32)
    zeros = {"b_enc": np.zeros(48), "b_dec": np.zeros(24), "threshold": np.zeros(48)}
    np.savez(
        scope / "params.npz", W_enc=both.T, W_dec=both, **{name: x.astype(np.float32) for name, x in zeros.items()}
    )
    plain = CliRunner().invoke(app, [*asked, "--no-splice", "--json", "--sae", str(scope)], catch_exceptions=False)
    record = json.loads(plain.stdout)
    assert [row["k"] for row in record["rows"]] == [1, 4, 1, 4, None, 1, 4] and record["ce_clean"] is None
    assert record["rows"][4]["l0"] == 24 and record["rows"][4]["fvu"]["estimate"] < 1e-9
    with pytest.raises(EPError, match="give more documents"):
        ep.evaluate(d, [fresh], model=loaded, max_tokens=10**7)
    with pytest.raises(EPError, match="from 1 to 24, the smaller of d_model and regions; got 99"):
        ep.evaluate(d, [fresh], model=loaded, ks=[4, 99])
    with pytest.raises(EPError, match="Run `ep annotate"):
        ep.evaluate(d, [fresh], model=loaded, basis="mean")
    with pytest.raises(EPError, match=r"\.svg"):
        CliRunner().invoke(app, [*asked, "--figure", "curve.xyz"], catch_exceptions=False)
