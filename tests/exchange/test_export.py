"""Exports that need no peer to be tried: arithmetic, files, refusals. The others: tests/peers."""

import gzip
import importlib.util
import json
import os
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from annotated import EMPTY, annotated
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.exchange.export import TARGETS, export

WEIGHTS = "sae_weights.safetensors"


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("annotated"), k=150, d=16, percentiles=(2,))[0]


def activations(dictionary, n=500):
    generator = torch.Generator().manual_seed(0)
    return dictionary.center + 30 * torch.randn(n, dictionary.d_model, generator=generator)


def module_in(folder, name, package=None):
    full = f"{package}.{name}" if package else name
    spec = importlib.util.spec_from_file_location(full, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mib_round_trip_loses_nothing(dictionary, tmp_path, dtype):
    export(dictionary, "mib", tmp_path / "mib")
    there, back = module_in(tmp_path / "mib", "ep_featurizer").modules(tmp_path / "mib")
    x_nd = activations(dictionary).to(dtype)
    features_nk, error_nd = there(x_nd)
    assert features_nk.shape == (500, dictionary.k) and features_nk.dtype == dtype
    assert torch.equal(back(features_nk, error_nd), x_nd)
    if dtype == torch.float32:
        torch.testing.assert_close(features_nk, dictionary.encode(x_nd, "signed"), atol=1e-4, rtol=1e-6)
        assert torch.equal(features_nk.argmax(dim=1), dictionary.assign(x_nd)[0])


def test_mib_interchange_moves_an_activation_along_one_exemplar(dictionary, tmp_path):
    export(dictionary, "mib", tmp_path / "mib")
    there, back = module_in(tmp_path / "mib", "ep_featurizer").modules(tmp_path / "mib")
    base_nd, source_nd = activations(dictionary)[:2].split(1)
    (features, error), (other, _) = there(base_nd), there(source_nd)
    features[:, 3] = other[:, 3]
    along = (source_nd - base_nd) @ dictionary.exemplars[3]
    torch.testing.assert_close(back(features, error), base_nd + along * dictionary.exemplars[3], atol=1e-4, rtol=1e-5)


@pytest.fixture(scope="module")
def home(dictionary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "np"
    export(dictionary, "neuronpedia", folder)
    (home,) = folder.glob("*/*")
    assert home.relative_to(folder).parts == ("b", "1-ep-p2")  # letters, digits, hyphens
    return home


class TestNeuronpedia:
    @staticmethod
    def rows(home, kind):
        files = sorted((home / kind).iterdir(), key=lambda file: int(file.name.split(".")[0].split("-")[1]))
        return [json.loads(line) for file in files for line in gzip.open(file, "rt")]

    def test_a_row_per_region_with_what_is_known_of_it(self, dictionary, home):
        rows = self.rows(home, "features")
        assert [row["index"] for row in rows] == [str(i) for i in range(dictionary.k)]
        assert len(list((home / "features").iterdir())) == 2
        evidence = dictionary.annotation
        for row, region, seen in zip(rows, evidence.regions.to_pylist(), evidence.histogram, strict=True):
            assert np.allclose(row["vector"], dictionary.exemplars[region["region"]])
            assert row["pos_str"] == [token["token"] for token in region["lens_top"]]
            assert min(row["pos_values"]) >= 0 >= max(row["neg_values"])
            assert sum(row["freq_hist_data_bar_heights"]) == seen[:40].sum()
            assert row["hookName"] == "blocks.1.hook_resid_post"
        assert sum(row["frac_nonzero"] for row in rows) <= 1

    def test_neighbours_are_the_nearest_other_exemplars(self, dictionary, home):
        row = self.rows(home, "features")[7]
        cosine_k = dictionary.exemplars @ dictionary.exemplars[7]
        expected = [i for i in cosine_k.argsort(descending=True).tolist() if i != 7][:10]
        assert row["topkCosSimIndices"] == expected
        assert np.allclose(row["topkCosSimValues"], cosine_k[expected], atol=1e-6)

    def test_activations_are_cosines_of_the_examples(self, dictionary, home):
        rows = self.rows(home, "activations")
        assert (
            len({row["id"] for row in rows}) == len(rows) == sum(dictionary.annotation.regions["examples"].to_pylist())
        )
        assert not [row for row in rows if row["index"] == str(EMPTY)]
        for row, example in zip(
            [row for row in rows if row["index"] == "7"], dictionary.annotation.examples(7), strict=True
        ):
            assert row["tokens"] == example["tokens"] and row["qualifyingTokenIndex"] == example["at"]
            assert row["values"][example["at"]] == pytest.approx(max(0, 1 - example["distance"]), abs=1e-3)
            assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
            assert row["binMin"] - 1e-9 <= max(0, 1 - example["distance"]) <= row["binMax"] + 1e-9
            assert 0 <= row["binContains"] <= 1

    def test_the_four_descriptions_name_each_other(self, home):
        release, model, sourceset, source = (
            json.loads((home / f"{name}.jsonl").read_text()) for name in ("release", "model", "sourceset", "source")
        )
        assert sourceset["releaseName"] == release["name"] and sourceset["modelId"] == model["id"] == source["modelId"]
        assert source["setName"] == sourceset["name"] and source["id"] == home.name

    def test_dates_are_those_of_the_build(self, tmp_path):
        (d,) = annotated(tmp_path / "b", k=12, percentiles=(2,))
        (tmp_path / "b" / "build.json").write_text('{"finished": "2020-02-02T02:02:02+00:00"}')
        for name in ("now", "later"):
            export(d, "neuronpedia", tmp_path / name)
            os.utime(d.path / "config.json", (0, 0))
        names = sorted(path.relative_to(tmp_path / "now") for path in (tmp_path / "now").rglob("*") if path.is_file())
        for name in names:
            assert (tmp_path / "now" / name).read_bytes() == (tmp_path / "later" / name).read_bytes()
        (model,) = (tmp_path / "now").glob("*/*/model.jsonl")
        assert json.loads(model.read_text())["createdAt"] == "2020-02-02T02:02:02+00:00"

    def test_without_evidence_it_says_how_to_get_it_and_leaves_nothing(self, tmp_path):
        (bare,) = annotated(tmp_path / "bare", percentiles=(2,), annotate=False)
        with pytest.raises(EPError, match="ep annotate"):
            export(bare, "neuronpedia", tmp_path / "np")
        assert not list(tmp_path.glob("*np*"))


@pytest.fixture
def axbench(monkeypatch):
    """Stand-ins for the four names of AxBench and pyvene that the template uses; AxBench is on no package index."""

    class Model:
        def __init__(self, model, tokenizer, layer, **kwargs):
            self.model, self.tokenizer, self.layer, self.device = model, tokenizer, layer, "cpu"

        def make_dataloader(self, examples):
            return examples

    class AdditionIntervention(torch.nn.Module):
        def __init__(self, embed_dim, low_rank_dimension):
            super().__init__()
            self.proj = torch.nn.Linear(embed_dim, low_rank_dimension)

    contents = {
        "pyvene": {"IntervenableConfig": dict, "IntervenableModel": lambda config, model: types.SimpleNamespace(
            config=config, model=model, set_device=lambda device: None)},
        "axbench": {"__path__": []},
        "axbench.models": {"__path__": []},
        "axbench.models.model": {"Model": Model},
        "axbench.models.interventions": {"AdditionIntervention": AdditionIntervention},
        "axbench.utils": {"__path__": []},
        "axbench.utils.model_utils": {"gather_residual_activations": lambda model, _, x: model.hidden[x["input_ids"]]},
    }  # fmt: skip
    for name, attributes in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, name, module)


def test_axbench_keeps_the_region_that_tells_a_concept_apart(dictionary, axbench, tmp_path):
    export(dictionary, "axbench", tmp_path / "ax")
    template = module_in(tmp_path / "ax", "ep_axbench", "axbench.models")
    # Token 1 is the concept: its activation is exemplar 42's. Token 0 is BOS, which must not count.
    generator = torch.Generator().manual_seed(0)
    hidden_vd = dictionary.center + 5 * torch.randn(30, dictionary.d_model, generator=generator)
    hidden_vd[1] = dictionary.center + 20 * dictionary.exemplars[42]
    hidden_vd[0] = dictionary.center + 99 * dictionary.exemplars[7]
    config = types.SimpleNamespace(hidden_size=dictionary.d_model)
    model = types.SimpleNamespace(hidden=hidden_vd, config=config)
    ids_bs = torch.randint(2, 30, (40, 6), generator=generator)
    ids_bs[:, 0] = 0
    ids_bs[:20, 3] = 1
    ids_bs[20:, 5] = 1  # but hidden by the mask
    mask_bs = torch.ones_like(ids_bs)
    mask_bs[20:, 5] = 0
    labels = torch.tensor([1] * 20 + [0] * 20)
    batches = [
        {"input_ids": ids_bs[rows], "attention_mask": mask_bs[rows], "labels": labels[rows]}
        for rows in torch.arange(40).split(7)
    ]
    trained = template.ExemplarPartition(model, None, 1)
    trained.train(batches, prefix_length=1)
    assert trained.regions == [42]
    trained.save(tmp_path)
    trained.save(tmp_path)

    loaded = template.ExemplarPartition(model, None, 1)
    loaded.load(tmp_path, mode="latent")
    assert loaded.regions == [42, 42]  # one for each concept that was trained
    x_nd = activations(dictionary, 20)
    torch.testing.assert_close(loaded.ax(x_nd), dictionary.encode(x_nd, "cosine")[:, [42, 42]], atol=1e-6, rtol=0)
    loaded.load(tmp_path, mode="steering")
    torch.testing.assert_close(loaded.ax.proj.weight[0], dictionary.typical_norm * dictionary.exemplars[42])


def test_auroc_is_that_of_pairs(dictionary, axbench, tmp_path):
    from sklearn.metrics import roc_auc_score

    export(dictionary, "axbench", tmp_path / "ax")
    template = module_in(tmp_path / "ax", "ep_axbench", "axbench.models")
    scores_nk = torch.from_numpy(np.random.default_rng(0).integers(0, 9, size=(40, 5))).float()
    found_k = template.auroc(scores_nk[:15], scores_nk[15:])
    expected_k = [roc_auc_score([1] * 15 + [0] * 25, column) for column in scores_nk.T]
    assert np.allclose(found_k, expected_k)


def test_the_command_writes_what_was_chosen_and_says_how_it_is_loaded(tmp_path):
    fine, coarse = annotated(tmp_path / "two")
    out = tmp_path / "sae"
    arguments = ["export", str(tmp_path / "two"), "--to", "saelens", "--out", str(out), "--percentile", "8"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and f'SAE.load_from_disk("{out}")' in done.output
    assert torch.equal(load_file(out / "sae_weights.safetensors")["W_dec"], coarse.exemplars)
    assert fine.k != coarse.k
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert again.exit_code == 0 and f"{out}: already done" in again.output
    with pytest.raises(EPError, match="exists already"):
        CliRunner().invoke(app, [*arguments[:-1], "2"], catch_exceptions=False)
    assert torch.equal(load_file(out / "sae_weights.safetensors")["W_dec"], coarse.exemplars)


@pytest.mark.parametrize("to", TARGETS)
def test_the_same_dictionary_gives_the_same_files(dictionary, tmp_path, to):
    for name in ("a", "b"):
        export(dictionary, to, tmp_path / name)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_refusals(dictionary, tmp_path):
    with pytest.raises(EPError, match="saelens, sparsify"):
        export(dictionary, "gguf", tmp_path / "x")
    with pytest.raises(EPError, match="several dictionaries fit"):
        annotated(tmp_path / "two")
        arguments = ["export", str(tmp_path / "two"), "--to", "mib", "--out", str(tmp_path / "x")]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "x").exists()


def test_saelens_gets_pursuit_and_means_where_they_have_a_form(dictionary, tmp_path):
    export(dictionary, "saelens", tmp_path / "mp", readout="pursuit", k=8, basis="mean")
    config, weights = json.loads((tmp_path / "mp" / "cfg.json").read_text()), load_file(tmp_path / "mp" / WEIGHTS)
    assert (config["architecture"], config["max_iterations"], config["residual_threshold"]) == (
        "matching_pursuit",
        8,
        0,
    )
    assert not config["stop_on_duplicate_support"] and set(weights) == {"W_dec", "b_dec"}
    assert np.array_equal(weights["W_dec"].numpy(), dictionary.annotation.mean_directions)
    for refused in ({"readout": "pursuit", "k": 17}, {"readout": "dense"}, {"basis": "median"}):
        with pytest.raises(EPError):
            export(dictionary, "saelens", tmp_path / "none", **refused)
    with pytest.raises(EPError, match="only saelens"):
        export(dictionary, "mib", tmp_path / "none", readout="pursuit", k=4)
    assert not (tmp_path / "none").exists()
