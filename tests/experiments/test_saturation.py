"""Growth on a kind of text: exponents of known growth, stops where a build stops, a run on a tiny model."""

import json
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

import exemplar_partitioning as ep
from conftest import sentences
from ep_experiments import saturation
from ep_experiments.record import record
from exemplar_partitioning.cli import app


def births(exponent, n, scale=1.0):
    """K ~ scale N^exponent."""
    k = np.arange(1, int(scale * n**exponent))
    return np.unique(((k / scale) ** (1 / exponent)).astype(np.int64))


@pytest.mark.parametrize("exponent", [0.3, 0.6, 0.9])
def test_the_exponent_of_known_growth(exponent):
    assert saturation.growth(births(exponent, 100_000), 100_000) == pytest.approx(exponent, abs=0.01)


def test_what_does_not_grow_has_exponent_0():
    assert saturation.growth(np.arange(500), 100_000) == pytest.approx(0, abs=1e-9)


def test_a_curve_counts_exemplars_before_each_point():
    found = saturation.curve(np.array([0, 5, 100, 900]), 1000)
    assert found[0] == (100, 2) and found[-1] == (1000, 4)
    assert all(n < m and k <= j for (n, k), (m, j) in pairwise(found))


def test_saturation_is_where_a_build_would_have_stopped():
    window = saturation.WINDOW
    assert saturation.saturated_at(np.array([0, 10, 20]), 21 + window) == 21 + window
    assert saturation.saturated_at(np.array([0, 10, 20]), 20 + window) is None
    assert saturation.saturated_at(np.array([0, 10, 11 + window]), 20 + window) == 11 + window


def test_the_command(tiny_folder, tmp_path):
    domains = []
    for name, texts in (
        ("words", sentences(300, seed=2)),
        ("few", ["the dog sings."] * 10 + ["a fox walks."] * 800),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        domains += ["--domain", f"{name}={tmp_path / name}.jsonl"]
    rest = ["--model", str(tiny_folder), "--percentile", "8,20", "--quick", "--context-size", "32"]
    command = ["experiment", "saturation", *domains, *rest, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "result.json").read_bytes())["results"]
    assert [(row["percentile"], row["domain"]) for row in rows] == [
        (8, "words"),
        (8, "few"),
        (20, "words"),
        (20, "few"),
    ]
    words, few = rows[:2]
    assert words["threshold"] == few["threshold"] and words["k"] > 2 * few["k"]
    assert words["exponent_low"] <= words["exponent"] <= words["exponent_high"]
    assert words["unseen"]["estimate"] > few["unseen"]["estimate"] and few["new_in_last_tenth"] == 0
    with pytest.raises(ep.EPError, match="two or more"):
        CliRunner().invoke(app, [*command[:4], *rest, "--out", str(tmp_path / "out")], catch_exceptions=False)


def test_a_recorded_command_names_no_folder_of_the_machine(tiny_folder):
    info = ep.load_model(tiny_folder).info
    arguments = ["--domain", "a=/home/b/c.jsonl", "/home/d", "e/f", "p=1"]
    assert record("x", arguments, info, seed=0, seconds=1)["command"] == "ep --domain a=c.jsonl d e/f p=1"
