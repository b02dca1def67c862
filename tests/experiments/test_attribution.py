"""The attribution experiment: questions that are questions, and curves that begin and end where they must."""

import numpy as np
import pytest
import torch

import exemplar_partitioning as ep
from ep_experiments.attribution.prompts import questions
from ep_experiments.attribution.run import SIZES, Curves, _neurons, _summary
from exemplar_partitioning.act.attribute import PromptAtSite
from exemplar_partitioning.models.generate import encode


def test_every_family_asks_what_its_prompt_settles():
    made = questions(20, seed=0)
    assert made == questions(20, seed=0) and len({q.prompt for q in made}) > 50
    for q in made:
        words = q.prompt.split()
        assert q.right != q.wrong
        if q.family == "induction":
            assert words[:4] == words[4:8] and words[8:] == words[:2] and q.right.strip() == words[2]
        elif q.family == "indirect object":
            assert words[1] == q.right.strip() and words[3] == words[8] == q.wrong.strip()
        else:
            assert (q.right == " are") == words[1].endswith("s") and words[-1].endswith("s") != words[1].endswith("s")


def test_curves_end_at_the_whole_and_at_nothing(tiny_folder):
    loaded = ep.load_model(str(tiny_folder))
    prompt = PromptAtSite(loaded, "resid_post.0", encode(loaded, "the dog", chat=False))
    center_d = prompt.x_sd.mean(dim=0)
    neurons = _neurons(prompt, center_d)
    assert len(neurons.of_n) == 24 * int(prompt.text_s.sum()) < SIZES[-1]
    expected = (prompt.gradient_sd * (prompt.x_sd - center_d))[prompt.text_s].sum()
    assert float(neurons.effect_n.sum()) == pytest.approx(float(expected), abs=1e-5)
    curve = Curves(prompt, center_d).of(neurons, torch.arange(len(neurons.of_n)))
    assert curve["faithfulness"][-1] == pytest.approx(1, abs=1e-3)
    assert curve["completeness"][-1] == pytest.approx(0, abs=1e-3)


def test_what_is_said_of_arms_is_paired_by_prompt():
    rng, rows = np.random.default_rng(0), []
    for i in range(20):
        base = rng.random(len(SIZES))
        curves = {
            name: {"faithfulness": list(1 - base - by), "completeness": list(base)}
            for name, by in (("exemplars", 0.0), ("neurons", 0.1), ("random activations", 0.0))
        }
        pair = rng.random(20)
        effects = {"regions": {"predicted": list(pair), "measured": list(2 * pair)}}
        rows.append({"family": "induction" if i % 2 else "other", "curves": curves, "effects": effects})
    summary = _summary(rows, seed=0)
    assert list(summary) == ["all", "other", "induction"] and summary["other"]["prompts"] == 10
    assert summary["all"]["distance"]["exemplars - neurons"] == pytest.approx([-0.1] * 3, abs=1e-3)
    assert summary["all"]["distance"]["exemplars - random activations"] == [0, 0, 0]
    assert summary["all"]["effects"]["regions"]["correlation"][0] == pytest.approx(1)
