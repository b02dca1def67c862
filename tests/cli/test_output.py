"""What commands print: numbers for people and for programs, and what a shell completes."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from exemplar_partitioning.cli import app
from exemplar_partitioning.cli.output import json_text
from exemplar_partitioning.cli.terminal import fixed, interval

numbers = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


@given(numbers, st.integers(0, 6))
def test_a_number_has_its_digits_and_zero_no_sign(value, digits):
    shown = fixed(value, digits)
    if not math.isfinite(value):
        assert shown == ""
        return
    assert float(shown) == round(value, digits) or abs(value) > 1e15
    assert not shown.startswith("-") or float(shown) < 0


def test_an_interval_without_an_estimate_is_empty():
    assert interval((0.5, -0.001, 0.75)) == "0.50 (0.00-0.75)"
    assert interval((math.nan, 0.0, 1.0)) == "" == fixed(None)


@given(plain)
def test_json_has_null_for_what_is_not_known_and_the_rest_as_it_is(value):
    def same(given, read):
        if isinstance(given, dict):
            return given.keys() == read.keys() and all(same(given[key], read[key]) for key in given)
        if isinstance(given, list):
            return len(given) == len(read) and all(map(same, given, read))
        if isinstance(given, float) and not math.isfinite(given):
            return read is None
        return given == read and type(given) is type(read)

    assert same(value, json.loads(json_text(value)))


@pytest.fixture
def folder(tmp_path):
    for name in ("resid_post.1/p2", "resid_post.1/p2.5", "resid_post.12/p2", "mlp_out_post.1/p10"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")  # names alone are read
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ep show DIR --site ", ["mlp_out_post.1", "resid_post.1", "resid_post.12"]),
        ("ep show DIR --site resid_post.12", ["resid_post.12"]),
        ("ep show DIR --percentile 2", ["2", "2.5"]),
        ("ep match DIR B --site m", ["mlp_out_post.1"]),
        ("ep show nowhere --site ", []),
        ("ep transpo", ["transport"]),
    ],
)
def test_sites_and_percentiles_of_a_folder_are_completed(folder, words, expected):
    words = words.replace("DIR", str(folder))
    asked = {"_EP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    assert CliRunner().invoke(app, [], prog_name="ep", env=asked).output.split() == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_the_shell_is_there(shell, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = CliRunner().invoke(app, ["--show-completion", shell], prog_name="ep")
    assert done.exit_code == 0 and "_EP_COMPLETE" in done.output
