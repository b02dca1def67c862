"""Round trips: against the definition, against chance, and between two real small models."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exemplar_partitioning as ep
from cli.test_cli import run
from exemplar_partitioning.compare.roundtrip import Assigned, text_clusters, text_neighbours, text_points, trips
from exemplar_partitioning.errors import EPError

OPTIONS = {"sites": "resid_post.1", "percentiles": (10,), "calibration_batch": 500, "context_size": 32}


def slow(here, there):
    """The definition, one region at a time."""
    n = len(here.ids_n)
    back = []
    for region in range(here.k):
        members = [i for i in range(n) if here.ids_n[i] == region]
        if not members:
            continue
        unit = min(members, key=lambda i: (here.distance_n[i], i))
        others = [i for i in range(n) if there.ids_n[i] == there.ids_n[unit]]
        other = min(others, key=lambda i: (there.distance_n[i], i))
        back.append(here.ids_n[other] == region)
    return len(back), int(np.sum(back))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_trips_against_the_definition(n, k, other, seed):
    rng = np.random.default_rng(seed)
    here = Assigned(rng.integers(0, k, n), rng.integers(0, 4, n) / 4, k)
    there = Assigned(rng.integers(0, other, n), rng.integers(0, 4, n) / 4, other)
    found, returned_k = trips(here, there, np.zeros(n, int))
    assert (found.began, found.returned) == slow(here, there) and returned_k.sum() == found.returned
    assert found.null_high <= found.began and 0 < found.p <= 1


def test_the_null_is_that_of_random_pairings():
    rng = np.random.default_rng(0)
    here = Assigned(rng.integers(0, 10, 200), rng.random(200), 10)
    there = Assigned(rng.integers(0, 10, 200), rng.random(200), 10)
    counts = []
    for _ in range(400):
        order = rng.permutation(200)
        counts.append(slow(here, Assigned(there.ids_n[order], there.distance_n[order], 10))[1])
    assert trips(here, there, np.zeros(200, int))[0].null_mean == pytest.approx(np.mean(counts), abs=0.2)


def test_a_partition_returns_to_itself_and_units_without_regions_take_no_part():
    rng = np.random.default_rng(0)
    same = Assigned(rng.integers(-1, 20, 500), rng.random(500), 20)
    found, returned_k = trips(same, same, np.zeros(500, int))
    assert found.returned == found.began == 20 and returned_k.all() and found.p < 0.001
    nowhere = Assigned(np.full(500, -1), np.zeros(500), 20)
    with pytest.raises(EPError, match="no unit"):
        trips(same, nowhere, np.zeros(500, int))


def test_text_clusters_follow_the_text():
    topics = ("a dog barks in the yard", "snow falls on grey stones")
    points = text_points([f"{i}{topic[0]} {topic}" for i in range(60) for topic in topics])  # a word of each text's own
    found = text_clusters(points, 2)
    topic_n = np.arange(120) % 2
    assert abs(np.corrcoef(found.ids_n, topic_n)[0, 1]) > 0.99
    near = text_neighbours(points, np.array([4, 7]))
    assert (near.ids_n == topic_n).all() and near.representatives().tolist() == [4, 7]
    assert set(text_clusters(text_points(["one", "two"]), 5).ids_n) <= {0, 1}
    assert len(text_points(["", " "])) == 2


def test_exemplars_are_paired_with_their_like():
    """Were any unit paired with any, an exemplar that meets an exemplar would return whatever the models."""
    rng = np.random.default_rng(0)
    k = 100
    here = Assigned(np.r_[np.arange(k), rng.integers(0, k, k)], np.r_[np.zeros(k), np.ones(k)], k)
    there = Assigned(np.r_[rng.integers(0, k, k), np.arange(k)], np.r_[np.ones(k), np.zeros(k)], k)
    assert trips(here, there, np.zeros(2 * k, int))[0].null_mean > 30
    found = trips(here, there, np.repeat([0, 1], k))[0]
    assert found.null_mean == pytest.approx(1, abs=0.3) and found.p > 0.001


def test_two_models(tiny_folder, text_file, tmp_path):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_folder)
    for parameter in model.parameters():
        parameter.data += 0.002 * parameter.data.sign()
    model.save_pretrained(tmp_path / "tuned")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tuned" / name).write_bytes((tiny_folder / name).read_bytes())
    for name, folder in (("a", tiny_folder), ("b", tmp_path / "tuned")):
        ep.build(str(folder), text_file, out=tmp_path / name, max_tokens=3000, **OPTIONS)
    a, b = (ep.load(tmp_path / name) for name in "ab")
    models = {"model_a": str(tiny_folder), "model_b": str(tmp_path / "tuned")}
    found = ep.roundtrip(a, b, **models)
    assert found.units == a.k + b.k and found.from_a.began == a.k and found.from_b.began == b.k
    assert found.from_a.returned > found.from_a.null_high and found.returned_k.sum() == found.from_a.returned
    itself = ep.roundtrip(a, a, model_a=str(tiny_folder)).from_a
    assert itself.returned == itself.began == a.k
    places = ["--model", tiny_folder, "--model-b", tmp_path / "tuned"]
    done = run("roundtrip", a.path, b.path, *places, "--text", text_file, "--max-tokens", "800", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["units"] == 800 and summary["from_a"]["returned"] <= summary["from_a"]["began"] <= a.k
    shown = run("roundtrip", a.path, b.path, *places, "--text", text_file, "--max-tokens", "800", "--final")
    assert shown.returncode == 0 and "last tokens of" in shown.stdout and "through text alone" in shown.stdout
