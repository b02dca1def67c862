"""Regions that carry a behaviour: the statistics by hand, and a behaviour that is there to be found."""

import numpy as np
import pytest

import exemplar_partitioning as ep
from exemplar_partitioning.act.localise import holm, localise, rates, wilson
from exemplar_partitioning.errors import EPError


def test_wilson_interval():
    low, high = wilson(np.array([0, 5, 10]), np.array([10, 10, 10]))
    assert low == pytest.approx([0, 0.2366, 0.7225], abs=1e-4)
    assert high == pytest.approx([0.2775, 0.7634, 1], abs=1e-4)


def test_holm():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])).max() == 1


def test_rates_by_hand():
    from scipy.stats import fisher_exact

    shows = np.array([True] * 6 + [False] * 14)
    meets = np.zeros((20, 3), bool)
    meets[:5, 0] = meets[6, 0] = True  # five of six
    meets[[0, 10, 11, 12], 2] = True  # one of four
    found = rates(meets, shows)
    assert [r.region for r in found] == [0, 2]
    assert (found[0].prompts, found[0].showing, found[0].rate) == (6, 5, pytest.approx(5 / 6))
    assert found[0].lift == pytest.approx(5 / 6 / 0.3)
    exact = fisher_exact([[5, 1], [1, 13]], alternative="greater").pvalue
    assert found[0].p == pytest.approx(2 * exact) and found[1].p == pytest.approx(1, abs=0.5)


def test_chance_alone_is_rarely_significant():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        regions, shows = rng.integers(0, 12, 60), rng.random(60) < 0.4
        meets = np.eye(12, dtype=bool)[regions]
        wrong += min(r.p for r in rates(meets, shows)) <= 0.05
    assert wrong <= 20  # at most 5 % expected


@pytest.fixture(scope="module")
def built(acting):
    loaded, out = acting
    return loaded, ep.load(out, site="resid_post.0", percentile=10)


def test_a_behaviour_that_follows_the_last_word_is_found_at_the_last_position(built):
    loaded, dictionary = built
    rng = np.random.default_rng(0)
    words = ["dog", "fox", "king", "river", "stone", "walks"]
    prompts = [" ".join(rng.choice(words, 5)) for _ in range(80)]
    shows = [prompt.endswith("king") for prompt in prompts]
    best = localise(dictionary, loaded, prompts, shows)[0]
    assert best.p < 1e-3 and best.lift > 2
    anywhere = localise(dictionary, loaded, prompts, shows, position="any")
    assert sum(r.prompts for r in anywhere) > len(prompts)


@pytest.mark.parametrize(
    ("prompts", "shows", "message"),
    [
        ([], [], "0 prompts"),
        (["a"], [True, False], "1 prompts and 2 labels"),
        (["a", "b"], [True, True], "some must not"),
    ],
)
def test_refused(built, prompts, shows, message):
    with pytest.raises(EPError, match=message):
        localise(built[1], built[0], prompts, shows)


def test_command_line(built, tiny_folder, tmp_path):
    import json

    from typer.testing import CliRunner

    from exemplar_partitioning.cli import app

    (tmp_path / "a.txt").write_text("dog fox king\nriver king\n\nstone walks king\n" * 4)
    (tmp_path / "b.jsonl").write_text('{"text": "king fox dog"}\n{"text": "the river"}\n' * 5)
    command = [
        "localise",
        str(built[1].path),
        "--showing",
        str(tmp_path / "a.txt"),
        "--others",
        str(tmp_path / "b.jsonl"),
    ]
    command += ["--model", str(tiny_folder)]
    result = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    rows = json.loads(result.stdout)
    assert sum(row["prompts"] for row in rows) == 12 + 10 and rows[0]["rate"] == 1 and rows[0]["p"] < 0.05
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "rate (95 %)" in result.stdout and str(rows[0]["region"]) in result.stdout
