"""Detection scores of labels: certain where clusters are tokens, one half where members were dealt out."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import exemplar_partitioning as ep
from conftest import sentences
from ep_experiments.readable import ITEMS, Clusters, one_form, scores
from exemplar_partitioning.cli import app


def test_a_label_tells_clusters_of_tokens_and_nothing_of_clusters_at_random():
    rng = np.random.default_rng(0)
    token_n = rng.integers(0, 40, 8000)
    by_token = scores(Clusters(token_n.copy(), None, 40), token_n, 6000, seed=0)
    by_half = scores(Clusters(token_n // 2, None, 20), token_n, 6000, seed=0)  # two tokens each: both are in the label
    at_random = scores(Clusters(rng.permutation(token_n), None, 40), token_n, 6000, seed=0)
    assert (by_token == 1).all() and (by_half == 1).all()
    assert abs(np.nanmean(at_random) - 0.5) < 0.05
    assert one_form(Clusters(token_n, None, 40), token_n) == 1
    assert one_form(Clusters(token_n // 2, None, 20), token_n) == 0


def test_few_held_out_members_give_no_score_and_few_others_the_same():
    of_n = np.repeat([0, 1, 0, 1], [500, 490, 3, ITEMS])
    score = scores(Clusters(of_n, np.array([[1], [0]]), 2), of_n, 990, seed=0)
    assert np.isnan(score[0]) and score[1] == 1


def test_the_command_finds_regions_above_dealt_out_ones(tiny_folder, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(300, seed=2)))
    command = ["experiment", "readable", "--model", str(tiny_folder), "--text", str(path), "--max-tokens", "3000"]
    rest = ["--percentile", "10", "--site", "resid_post.0", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, *rest], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = {row["arm"]: row for row in json.loads((tmp_path / "out" / "result.json").read_bytes())["rows"]}
    assert rows["regions"]["score"][0] > rows["random clusters"]["score"][0]
    assert rows["regions"]["regions_above"] == pytest.approx([0, 0, 0], abs=0.2)
    with pytest.raises(ep.EPError, match="give more text"):
        CliRunner().invoke(app, [*command[:-1], "300", *rest], catch_exceptions=False)
