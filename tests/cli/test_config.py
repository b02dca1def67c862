"""Options from a file: what is printed is read again, the command line goes first, unknown keys name the nearest."""

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
    [("percentile: 3", "did you mean percentiles"), ("- 3", "holds a list"), ("a: [", "cannot be read as YAML")],
)
def test_files_that_are_none(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    done = CliRunner().invoke(app, ["build", "--config", str(tmp_path / "run.yaml")])
    assert isinstance(done.exception, EPError) and message in str(done.exception)
