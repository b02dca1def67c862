"""Code that comes with a model runs where it was asked for, each time anew; what it built says that it is needed."""

import json

import pytest
from typer.testing import CliRunner

import exemplar_partitioning as ep
from conftest import tiny_llama
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder.model import model_of
from exemplar_partitioning.models.load import load_model
from exemplar_partitioning.ray.identity import identity
from exemplar_partitioning.ray.team import task_of
from exemplar_partitioning.ray.worker import BuildWorker
from exemplar_partitioning.reading import read

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class StrangerConfig(LlamaConfig):
    model_type = "{kind}"

class StrangerForCausalLM(LlamaForCausalLM):
    config_class = StrangerConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.layers[0].register_forward_hook(lambda module, args, out: out * 1.5)
"""


@pytest.fixture(scope="module", params=["stranger", "llama"], ids=["unknown", "known by another class"])
def built(request, text_file, tmp_path_factory):
    """A dictionary of a model that code of its own runs; the model's folder."""
    tmp_path = tmp_path_factory.mktemp("remote")
    folder = tiny_llama(tmp_path / f"model_{request.param}")
    config = json.loads((folder / "config.json").read_text())
    of = {"AutoConfig": "stranger.StrangerConfig", "AutoModelForCausalLM": "stranger.StrangerForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": request.param, "auto_map": of}))
    (folder / "stranger.py").write_text(CODE.format(kind=request.param))
    with pytest.warns(UserWarning, match="Python code that comes with this model may run"):
        loaded = load_model(folder, trust_remote_code=True)
    options = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 3000}
    ep.build(loaded, [text_file], out=tmp_path / "out", sites="resid_post.1", percentiles=[10], **options)
    return loaded, ep.load(tmp_path / "out"), folder


def test_a_dictionary_says_that_the_code_is_needed_again(built):
    loaded, dictionary, folder = built
    assert dictionary.config.model.admission.remote_code
    with pytest.raises(EPError, match=r"--trust-remote-code"):
        model_of(dictionary, str(folder))
    with pytest.warns(UserWarning, match="may run"):
        again = model_of(dictionary, str(folder), trust_remote_code=True)
    first, second = (read([dictionary], each, "the old grey river") for each in (loaded, again))
    assert first == second and any(token.region is not None for token in first[0])


def test_commands_take_the_flag(built):
    _, dictionary, folder = built
    asked = ["show", str(dictionary.path), "--text", "a king", "--model", str(folder), "--json"]
    with pytest.raises(EPError, match="--trust-remote-code"):
        CliRunner().invoke(app, asked, catch_exceptions=False)
    with pytest.warns(UserWarning, match="may run"):
        done = CliRunner().invoke(app, [*asked, "--trust-remote-code"], catch_exceptions=False)
    assert done.exit_code == 0 and json.loads(done.stdout)


def test_workers_may_run_what_their_owner_ran(built):
    loaded, dictionary, _ = built
    task = task_of(loaded, ["resid_post.1"], batch_size=4, context_size=32)
    assert task.remote_code
    worker = BuildWorker()
    with pytest.warns(UserWarning, match="may run"):
        theirs = worker.prepare(task)
    assert theirs["model"] == loaded.info.fingerprint == dictionary.config.model.fingerprint
    assert theirs == identity(loaded, ["resid_post.1"], 4, 32)  # its activations of a batch, too
