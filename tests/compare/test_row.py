"""Dictionaries in a row: lines against a slow oracle, a planted row, and `ep match --row` on builds."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.show.figures import to_bytes
from exemplar_partitioning.show.persistence import persistence


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "120"})


def unit(rng, k, d=16):
    x = rng.standard_normal((k, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Three dictionaries of 60 directions; 40 of the first are in the second, 30 of these in the third."""
    out, rng = tmp_path_factory.mktemp("row"), np.random.default_rng(0)
    first = unit(rng, 60)
    second = np.concatenate([first[:40], unit(rng, 20)])
    third = np.concatenate([second[:30], unit(rng, 30)])
    for name, exemplars in zip(("step-2", "step-10", "step-100"), (first, second, third), strict=True):
        ep.Dictionary(torch.zeros(16), torch.from_numpy(exemplars), 0.1).save(out / name, percentile=2)
    return out


def test_what_persists_and_since_when_is_what_was_planted(planted):
    row = ep.row([ep.load(planted / name) for name in ("step-2", "step-10", "step-100")])
    assert row.names == ("step-2", "step-10", "step-100")
    _, second, third = row.rows()
    assert abs(second["persisted"] - 40) <= 2 and abs(second["introduced"] - 20) <= 2
    assert abs(third["persisted"] - 30) <= 2 and second["by_chance"] == pytest.approx(0.6)
    assert (row.begins[2][:30] == 0).all() and (row.begins[1][40:] == 1).mean() > 0.9
    assert [sum(each["begun"]) for each in row.rows()] == [60, 60, 60]
    assert row.rows()[0]["persisted"] is None


def test_lines_are_those_of_a_walk_back_region_by_region(planted):
    dictionaries = [ep.load(planted / name) for name in ("step-2", "step-10", "step-100")]
    row = ep.row(dictionaries, false_alarms=0.3)
    for region in range(60):
        at, here = 2, region
        while at:
            cosine = dictionaries[at - 1].exemplars.numpy().astype(float) @ dictionaries[at].exemplars[here].numpy()
            if cosine.max() <= row.steps[at - 1].null.cutoffs(0.3)[1]:
                break
            at, here = at - 1, int(cosine.argmax())
        assert row.begins[2][region] == at


def test_command_draws_tells_and_writes(planted, tmp_path):
    shown = run("match", planted, "--row", "--out", tmp_path, "--csv")
    assert [shown.stdout.index(name) for name in ("step-2 ", "step-10 ", "step-100")] == sorted(
        shown.stdout.index(name) for name in ("step-2 ", "step-10 ", "step-100")
    )
    assert (tmp_path / "persistence.svg").read_bytes() == to_bytes(
        persistence(ep.row([ep.load(f) for f in sorted(planted.iterdir(), key=lambda f: int(f.name[5:]))])), "svg"
    )
    told = json.loads(run("match", planted / "step-2", planted / "step-10", "--row", "--json").stdout)
    assert len(told["rows"]) == 2 and told["false_alarms"] == 0.01


def test_what_is_no_row_is_refused(planted):
    with pytest.raises(EPError, match="two dictionaries or more"):
        ep.row([ep.load(planted / "step-2")])
    assert "two folders are matched" in run("match", planted / "step-2").output
    assert "holds no folders of builds" in str(run("match", planted / "step-2", "--row").exception)


def test_neighbours_are_the_blocks_of_one_build_in_their_order(tmp_path):
    rng = np.random.default_rng(1)
    kept = unit(rng, 40)
    for layer in (10, 2, 9):  # 40 of each are in all
        exemplars = torch.from_numpy(np.concatenate([kept, unit(rng, 5)]))
        for percentile in (2, 4):
            ep.Dictionary(torch.zeros(16), exemplars, 0.1).save(
                tmp_path / "b", site=f"resid_post.{layer}", percentile=percentile
            )
    told = json.loads(run("match", tmp_path / "b", "--neighbours", "--percentile", "4", "--json").stdout)
    assert [each["name"] for each in told["rows"]] == ["resid_post.2", "resid_post.9", "resid_post.10"]
    assert [each["persisted"] for each in told["rows"]][1:] == pytest.approx([40, 40], abs=2)
    assert "--percentile 2" in str(run("match", tmp_path / "b", "--neighbours").exception)
    ep.Dictionary(torch.zeros(16), exemplars, 0.1).save(tmp_path / "b", site="mlp_act.2", percentile=4)
    ep.Dictionary(torch.zeros(16), exemplars, 0.1).save(tmp_path / "b", site="blocks.3.mlp.hook_post", percentile=4)
    asked = ("match", tmp_path / "b", "--neighbours", "--percentile", "4")
    assert "mlp_act, resid_post" in str(run(*asked).exception)
    assert "no coordinates in common" in str(run(*asked, "--site", "mlp_act.*").exception)
    assert run(*asked, "--site", "resid_post.*", "--out", tmp_path / "row").exit_code == 0
    assert (tmp_path / "row" / "persistence.svg").is_file()
