"""Dictionaries of places outside the residual stream, as wide as they are: built, looked at, acted on."""

import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import exemplar_partitioning as ep
from conftest import sentences
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import DataError, EPError, ResourceError
from exemplar_partitioning.files import seal
from exemplar_partitioning.folder.activations import Kept
from exemplar_partitioning.models.hooks import applied

ASKED = {"percentiles": [10], "calibration_batch": 300, "calibration_sample": 900, "context_size": 32}
IDS = torch.tensor([[0, *range(5, 15)]])
SITES = "mlp_act.1,blocks.1.hook_z,model.layers.0.mlp.up_proj:out,resid_post.1"


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return ep.load_model(str(tiny_folder))


@pytest.fixture(scope="module")
def built(loaded, text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("places") / "built"
    ep.build(loaded, [text_file], out=out, sites=SITES, max_tokens=1500, keep_activations="all", **ASKED)
    ep.annotate(out, [text_file], model=loaded, max_tokens=1500)
    return out


@pytest.fixture(scope="module")
def hidden(built):
    return ep.load(built, site="model.layers.1.mlp.down_proj:in")


def test_each_is_as_wide_as_its_place(built, loaded, hidden):
    config = loaded.model.config
    widths = {d.config.site.name: d.d_model for d in map(ep.load, built.glob("*/p10"))}
    assert widths == {
        "mlp_act.1": config.intermediate_size,
        "z.1": config.num_attention_heads * (config.hidden_size // config.num_attention_heads),
        "model.layers.0.mlp.up_proj@out": config.intermediate_size,
        "resid_post.1": config.hidden_size,
    }
    assert hidden.config.width == config.intermediate_size and hidden.config.model.d_model == config.hidden_size
    assert hidden.config.schema_version == "1.1"
    assert ep.load(built, site="resid_post.1").config.schema_version == "1.0"
    assert hidden.config.site.transformer_lens == "blocks.1.mlp.hook_post"
    kept = Kept.beside(built)
    assert kept is not None and kept.spill.widths == widths


def test_an_exemplar_is_what_a_plain_hook_gets_from_its_window(hidden, loaded):
    got = []
    module = loaded.model.get_submodule(hidden.config.site.module_path.removesuffix(":in"))
    handle = module.register_forward_pre_hook(lambda _module, args: got.append(args[0][0, -1]))
    for row in hidden.regions.slice(0, 5).to_pylist():
        with torch.no_grad():
            loaded.model(torch.tensor([row["window_tokens"]]))
    handle.remove()
    u = torch.stack(got) - hidden.center
    u = u / u.norm(dim=1, keepdim=True)
    assert float((u * hidden.exemplars[:5]).sum(dim=1).min()) > 1 - 1e-4


def test_there_is_evidence_and_no_lens_and_it_says_so(built, hidden):
    assert ep.load(built, site="resid_post.1").annotation.region(0)["lens_top"]
    assert not hidden.annotation.region(0)["lens_top"] and hidden.annotation.region(0)["top_tokens"]
    shown = CliRunner().invoke(app, ["show", str(built), "--site", "mlp_act.1", "--region", "0"])
    assert shown.exit_code == 0 and "not the residual stream" in shown.stdout
    assert CliRunner().invoke(app, ["check", str(built)]).exit_code == 0


def test_steering_and_ablating_act_there(hidden, loaded):
    def logits():
        with torch.no_grad():
            return loaded.model(IDS).logits

    step_d = 0.5 * hidden.typical_norm * hidden.exemplars[2]
    with applied(loaded.model, lambda x_nd: x_nd + step_d, "mlp_act.1"):
        expected = logits()
    with ep.steer(loaded, hidden, 2, alpha=0.5):
        torch.testing.assert_close(logits(), expected)
    with ep.ablate(loaded, hidden, [0, 3], around="origin"):
        ablated = logits()
    baked = ep.bake(loaded, hidden, [0, 3])
    with torch.no_grad():
        torch.testing.assert_close(baked(IDS).logits, ablated, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(ablated, logits(), atol=1e-3)
    with ep.steer(loaded, hidden, 2, sites="resid_post.0"), pytest.raises(EPError, match="wide"):
        logits()
    with pytest.raises(EPError, match=r"use ep\.ablate"), ep.ablate_everywhere(loaded, hidden, 0):
        pass


def test_what_comes_out_of_a_matrix_is_baked_into_it(built, loaded):
    d = ep.load(built, site="model.layers.0.mlp.up_proj@out")
    with torch.no_grad():
        with ep.ablate(loaded, d, 1, around="origin"):
            expected = loaded.model(IDS).logits
        torch.testing.assert_close(ep.bake(loaded, d, 1)(IDS).logits, expected, rtol=1e-3, atol=1e-4)


def test_carried_matched_and_exported(built, hidden, loaded, tmp_path):
    carried = ep.transport(hidden, loaded, tmp_path / "carried", site="mlp_act.0")
    assert carried.config.site.name == "mlp_act.0" and carried.d_model == hidden.d_model
    again = ep.transport(hidden, loaded, tmp_path / "again")
    assert np.allclose(again.exemplars, hidden.exemplars, atol=1e-5)
    table = ep.match(hidden, again).table()
    assert table["region_a"].equals(table["region_b"])
    with pytest.raises(EPError, match=r"d_model = 48"):
        ep.match(hidden, ep.load(built, site="resid_post.1"))
    for target in ("saelens", "sparsify", "neuronpedia", "interp-engine", "mib", "saebench"):
        ep.export(hidden, target, tmp_path / target)
    facts = json.loads((tmp_path / "saelens" / "cfg.json").read_text())
    assert facts["d_in"] == hidden.d_model and facts["metadata"]["hook_name"] == "blocks.1.mlp.hook_post"
    assert json.loads((tmp_path / "interp-engine" / "direction_set.json").read_text())["point"] == "mlp_act.1"
    with pytest.raises(EPError, match="axbench"):
        ep.export(hidden, "axbench", tmp_path / "axbench")


@pytest.mark.parametrize("site", SITES.split(","))
def test_measured_and_told_apart_there(built, loaded, site):
    """What evaluates, decomposes, localises and judges text works wherever a dictionary is of."""
    d = ep.load(built, site=site)
    new = [*sentences(200, seed=5)]
    measured = ep.evaluate(d, iter(new), model=loaded, ks=(1, 4), max_tokens=200)
    few, more = (row for row in measured.rows if row.code == "exemplars")
    assert 0 < more.fvu.estimate < few.fvu.estimate and few.ce is not None
    read = ep.read(d, new[0], loaded)
    assert {row.region for row in read} <= set(range(d.k)) and read[0].distance >= 0
    regions = ep.localise(d, loaded, new[:8], [True, False] * 4, chat=False)
    assert sum(each.prompts for each in regions) == 8
    detector = ep.Detector.fit(d, iter(new), loaded, false_alarms=0.2, max_tokens=3000)
    assert len([*detector.score(iter(new[:3]), loaded)]) == 3


def test_it_grows_on_and_given_activations_may_be_of_it(built, hidden, loaded, text_file, tmp_path):
    (_, grown), *_ = ep.extend(hidden.path, [text_file], out=tmp_path / "grown", model=loaded, max_tokens=300)
    assert grown.config.site == hidden.config.site
    x = np.random.default_rng(0).standard_normal((400, hidden.d_model)).astype(np.float32)
    ep.build_from_activations(x, out=tmp_path / "given", site="blocks.1.hook_post", calibration_batch=200)
    given = ep.load(tmp_path / "given", site="mlp_act.1", percentile=10)
    assert given.config.site.width == given.d_model
    ep.annotate(given.path, [text_file], model=loaded, max_tokens=300)  # which has another d_model than the width
    with ep.steer(loaded, given, 0, any_model=True), torch.no_grad():
        loaded.model(IDS)


def test_no_room_for_the_activations_is_said_before_anything_runs(loaded, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ResourceError, match="GB are free there"):
        ep.build(loaded, [text_file], out=tmp_path / "out", sites="mlp_act.*", **ASKED)


def test_a_record_of_another_width_is_damage(built, tmp_path):
    shutil.copytree(built / "mlp_act.1" / "p10", tmp_path / "p10")
    path = tmp_path / "p10" / "config.json"
    path.write_text(path.read_text().replace('"width": ', '"width": 1'))
    seal(path)
    with pytest.raises(DataError, match=r"config\.json says k = \d+, d_model = 1\d+"):
        ep.load(tmp_path / "p10")
