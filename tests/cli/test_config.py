"""Options from a file: what is printed is read again, the command line goes first, unknown keys name the nearest."""

import json
import shutil

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import EPError


def printed(*arguments) -> str:
    done = CliRunner().invoke(app, ["build", *map(str, arguments), "--print-config"])
    assert done.exit_code == 0, done.output
    return done.output


def test_what_is_printed_is_read_again(tmp_path):
    first = printed("--percentile", "3,7", "--max-tokens", "2e6", "--no-bos", "--roles", "user,assistant", "--chat")
    (tmp_path / "run.yaml").write_text(first)
    assert printed("--config", tmp_path / "run.yaml") == first
    values = yaml.safe_load(printed("--config", tmp_path / "run.yaml", "--percentile", "5"))
    assert (values["percentiles"], values["max_tokens"], values["prepend_bos"]) == ([5.0], 2_000_000, False)
    assert values["roles"] == ["user", "assistant"]


def test_a_build_of_a_file(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32))
    run = {"activations": [str(tmp_path / "x.npy")], "percentiles": [20], "out": str(tmp_path / "o"), "annotate": False}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    done = CliRunner().invoke(app, ["build", "--config", str(tmp_path / "run.yaml")])
    assert done.exit_code == 0, done.output
    assert ep.load(tmp_path / "o").config.calibration.percentile == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("percentile: 3", "did you mean percentiles"),
        ("- 3", "holds a list"),
        ("a: [", "cannot be read as YAML"),
        ("sites: [[resid_post.1], [resid_post.77]]", "no block 77"),  # said before the first of a sweep is built
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    done = CliRunner().invoke(app, ["build", "--config", str(tmp_path / "run.yaml")])
    assert isinstance(done.exception, EPError) and message in str(done.exception)


def given(tmp_path, **options):
    """A file of activations, and options of a build on it."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32))
    run = {"activations": [str(tmp_path / "x.npy")], "percentiles": [20], "out": str(tmp_path / "o"), "annotate": False}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run | options))
    return CliRunner().invoke(app, ["build", "--config", str(tmp_path / "run.yaml")])


def rebuilt(*arguments):
    return CliRunner().invoke(app, ["rebuild", *map(str, arguments)])


def test_every_folder_keeps_what_made_it_and_is_rebuilt(tmp_path):
    assert given(tmp_path).exit_code == 0
    done = rebuilt(tmp_path / "o", "--verify", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout[done.stdout.index("{\n") :])["same"]
    np.save(tmp_path / "x.npy", np.load(tmp_path / "x.npy") * [1, 1, 1, 1, 1, 1, 1, 1.001])
    done = rebuilt(tmp_path / "o", "--out", tmp_path / "again")
    assert done.exit_code == 1 and "differs first: activations/p20/exemplars.safetensors" in done.stdout
    assert ep.load(tmp_path / "again").k and not list(tmp_path.glob("ep-rebuild-*"))
    (tmp_path / "o" / "run.yaml").unlink()
    assert "holds no run.yaml" in str(rebuilt(tmp_path / "o", "--verify").exception)


def test_builds_in_python_keep_what_made_them_too(tiny_folder, text_file, tmp_path):
    model = ep.load_model(tiny_folder, dtype="bfloat16")
    options = {"sites": iter(["resid_post.0"]), "percentiles": iter([20]), "max_tokens": 2000, "annotate": True}
    ep.build(model, [text_file], out=tmp_path / "o", **options)
    kept = yaml.safe_load((tmp_path / "o" / "run.yaml").read_text())
    assert (kept["model"], kept["dtype"], kept["text"]) == (str(tiny_folder), "bfloat16", [str(text_file)])
    assert (kept["sites"], kept["percentiles"], kept["annotate"]) == (["resid_post.0"], [20.0], True)
    done = rebuilt(tmp_path / "o", "--verify")
    assert done.exit_code == 0, done.output
    ep.build(model.model, ["One text."] * 40, out=tmp_path / "p", percentiles=[20])
    assert "model was given in Python (LlamaForCausalLM)" in str(rebuilt(tmp_path / "p", "--verify").exception)
    written = (tmp_path / "p" / "run.yaml").read_text()
    assert "text: !python 'list of 40'" in written
    (tmp_path / "p" / "run.yaml").write_text(written.replace("!python 'LlamaForCausalLM'", str(tiny_folder)))
    assert "text was given in Python" in str(rebuilt(tmp_path / "p", "--verify").exception)


def test_activations_in_python_keep_what_is_known_of_them(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32))
    known = {"model": "org/encoder", "site": "image", "max_tokens": 200, "annotate": True}
    ep.build_from_activations(str(tmp_path / "x.npy"), out=tmp_path / "o", percentiles=[20], **known)
    done = rebuilt(tmp_path / "o", "--out", tmp_path / "again")
    assert done.exit_code == 0, done.output
    assert ep.load(tmp_path / "again").config.model.id == "org/encoder"
    ep.build_from_activations(np.load(tmp_path / "x.npy"), out=tmp_path / "p", percentiles=[20])
    assert "activations was given in Python (ndarray of 300)" in str(rebuilt(tmp_path / "p", "--verify").exception)


def test_lists_of_values_are_a_sweep(tmp_path):
    done = given(tmp_path, percentiles=[[10, 20], [30]], max_tokens=[100, 300])
    assert done.exit_code == 0, done.output
    names = [f"max_tokens={n},percentiles={p}" for n in (100, 300) for p in ("10+20", "30")]
    assert [run["folder"] for run in json.loads((tmp_path / "o" / "runs.json").read_text())["runs"]] == names
    for name, n in zip(names, (100, 100, 300, 300), strict=True):
        assert {ep.load(path).config.build.n_activations for path in (tmp_path / "o" / name).glob("*/*")} == {n}
    assert rebuilt(tmp_path / "o" / names[1], "--verify").exit_code == 0
    again = given(tmp_path, percentiles=[[10, 20], [30]])
    assert again.exit_code == 0, again.output  # other names
    assert "exists already" in str(given(tmp_path, percentiles=[[10, 20], [30]]).exception)


@pytest.mark.parametrize(
    "option", ["--chat", "--positions=last", "--pool=mean", "--documents=3", "--estimate", "--seed=1"]
)
def test_options_that_mean_nothing_to_activations_are_refused(tmp_path, option):
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    done = CliRunner().invoke(app, ["build", "--activations", str(tmp_path / "x.npy"), option])
    assert done.exit_code == 2 and option.partition("=")[0] in done.output


def test_models_in_a_row_are_built_on_the_same_tokens(tiny_folder, text_file, tmp_path):
    for name in ("step-2", "step-10"):
        shutil.copytree(tiny_folder, tmp_path / name)
    options = ["--site", "resid_post.1", "--percentile", "20", "--max-tokens", "3000", "--no-annotate"]
    models = [part for name in ("step-2", "step-10") for part in ("--model", str(tmp_path / name))]
    done = CliRunner().invoke(app, ["build", str(text_file), *models, *options, "--out", str(tmp_path / "row")])
    assert done.exit_code == 0, done.output
    row = ep.row([ep.load(tmp_path / "row" / name) for name in ("step-2", "step-10")])
    assert row.steps[0].persisted_k.all() and (row.begins[1] == 0).all()
    told = CliRunner().invoke(app, ["match", str(tmp_path / "row"), "--row", "--json"])
    assert [each["name"] for each in json.loads(told.stdout)["rows"]] == ["step-2", "step-10"]
    file = tmp_path / "step-10" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    file.write_text(json.dumps(tokenizer))
    again = CliRunner().invoke(app, ["build", str(text_file), *models, *options, "--out", str(tmp_path / "other")])
    assert "into different tokens" in str(again.exception) and not (tmp_path / "other").exists()
